"""Where a command writes: results to standard output, everything else to standard error."""

from rich.console import Console
from rich.markup import escape

from svdistill.errors import RecipeError
from svdistill.ranks import find_ranks


def results() -> Console:
    """Return the console for results, made anew, so that it follows a redirected standard output."""
    return Console(highlight=False, soft_wrap=False, quiet=not first())


def notes() -> Console:
    """Return the console for progress and notes."""
    return Console(stderr=True, highlight=False, quiet=not first())


def first() -> bool:
    """Whether this process speaks for all that were started together."""
    try:
        return find_ranks().rank == 0
    except RecipeError:  # it is reported where it matters
        return True


def note(text: str) -> None:
    """Write one line of what is going on."""
    notes().print(f"[dim]{escape(text)}[/dim]", soft_wrap=True)


def warning(text: str) -> None:
    """Write a warning of one line."""
    notes().print(f"[yellow]warning:[/yellow] {escape(_one_line(text))}", soft_wrap=True)


def error(text: str) -> None:
    """Write an error of one line, in whichever process it is called."""
    Console(stderr=True, highlight=False).print(
        f"[bold red]error:[/bold red] {escape(_one_line(text))}", soft_wrap=True
    )


def usage(wrong: Exception) -> str:
    """Say in one line what is wrong with the options or arguments, and where help is."""
    text = getattr(wrong, "format_message", wrong.__str__)().rstrip(".")
    context = getattr(wrong, "ctx", None)
    command = getattr(context, "command_path", "svdistill")
    return f"{text}; see '{command} --help'"


def _one_line(text: str) -> str:
    return " ".join(text.split())
