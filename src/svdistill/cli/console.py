"""Where a command writes: results to standard output, everything else to standard error."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.markup import escape

from svdistill.errors import RecipeError, SvdistillWarning, one_line
from svdistill.names import printable
from svdistill.ranks import find_ranks

if TYPE_CHECKING:
    from typer import BadParameter


def results() -> Console:
    """Return a new console for results, so that it follows a redirected standard output."""
    from svdistill.cli.fitting import Fitting

    console = Console(highlight=False, soft_wrap=False, quiet=not first())
    console.push_render_hook(Fitting())
    return console


def notes() -> Console:
    """Return the console for progress and notes."""
    return Console(stderr=True, highlight=False, quiet=not first())


def first() -> bool:
    """Whether this process speaks for all that were started together."""
    try:
        return find_ranks().rank == 0
    except RecipeError:  # it is reported where it matters
        return True


def say(text: object) -> None:
    """Write one line of a result; names in it do nothing to the terminal."""
    results().print(printable(text), markup=False, soft_wrap=True)


def say_json(content: object) -> None:
    """Write plain values and paths as JSON, which has null for numbers that are not finite."""
    from svdistill.records import finite

    if first():
        print(json.dumps(finite(content), indent=2, allow_nan=False, default=str))


def note(text: str) -> None:
    """Write one line on what is happening."""
    notes().print(f"[dim]{escape(printable(text))}[/dim]", soft_wrap=True)


@contextmanager
def hearing() -> Iterator[list[str]]:
    """Note the warnings of a block, which are shown all the same.

    Yields:
        Their texts so far.
    """
    show, texts = warnings.showwarning, list[str]()

    def note_and_show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, SvdistillWarning):
            texts.append(str(message))
        show(message, category, filename, lineno, file, line)

    warnings.showwarning = note_and_show
    try:
        yield texts
    finally:
        warnings.showwarning = show


def warning(text: str) -> None:
    """Write a warning of one line."""
    notes().print(f"[yellow]warning:[/yellow] {escape(one_line(text))}", soft_wrap=True)


def error(text: str) -> None:
    """Write an error of one line, in every process that calls it."""
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/bold red] {escape(one_line(text))}", soft_wrap=True)


def usage(wrong: "BadParameter") -> str:
    """Return one line on what is wrong with the options or arguments, and where to find help."""
    command = "svdistill" if wrong.ctx is None else wrong.ctx.command_path
    return f"{wrong.format_message().rstrip('.')}; see '{command} --help'"
