"""The page of all commands, made from the commands themselves and from recorded examples of their output."""

import re
from pathlib import Path
from typing import Any

import typer

from svdistill.cli.app import app

# Where the page has it.
MARKER = "<!-- commands -->"
OUTPUTS = Path(__file__).parent / "outputs"
# What the help says of an argument's kind: braces where it must be given, and its type in Python.
_TYPE = re.compile(r"[{}]| <[^>]*>(?=$)")


def every() -> dict[str, Any]:
    """Return each command that does something, by what one types: ``train``, ``runs list``."""
    found: dict[str, Any] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        parts = command.commands if isinstance(command, typer.core.TyperGroup) else None
        if parts is None:
            found[" ".join(words)] = command
            return
        for name, part in parts.items():
            walk(part, (*words, name))

    walk(typer.main.get_command(app), ())
    return found


def page() -> str:
    """Return a section for each command: its words, its arguments and options, and what it prints."""
    return "\n".join(section(name, command) for name, command in every().items())


def section(name: str, command: Any) -> str:
    """Return the section of one command."""
    context = command.make_context(f"svdistill {name}", [], resilient_parsing=True)
    usage = " ".join(["svdistill", name, *(_TYPE.sub("", piece) for piece in command.collect_usage_pieces(context))])
    rows = [one.get_help_record(context) for one in command.get_params(context) if one.name != "help"]
    table = [f"| {_code(row[0])} | {_cell(row[1])} |" for row in rows if row]
    parts = [f"## {name}", command.help, f"```text\n{usage}\n```"]
    parts.append("\n".join(["| argument or option | what it is |", "|---|---|", *table]))
    if command.epilog:
        kind, _, example = command.epilog.partition(": ")
        parts.append(f"{kind}: `{example}`")
    if (output := recorded(name)) is not None:
        parts.append(f"```text\n{output}```")
    return "\n\n".join(parts) + "\n"


def recorded(name: str) -> str | None:
    """Return the recorded examples of a command, if there are any."""
    file = OUTPUTS / f"{name.replace(' ', '-')}.txt"
    return file.read_text("utf-8") if file.exists() else None


def _code(names: str) -> str:
    return ", ".join(f"`{_TYPE.sub('', name)}`" for name in re.split(", (?=-)", names))


def _cell(words: str) -> str:
    """Return words for a cell of a table: in one line, with nothing that Markdown would take for more than words."""
    return re.sub(r"([\\|\[\]<*_`])", r"\\\1", " ".join(words.split()))
