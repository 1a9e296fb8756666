"""The errors that svdistill raises: each says what came, what was expected and what to do next."""

from collections.abc import Iterable
from difflib import get_close_matches

from svdistill.names import printable

# Characters of a message, and how many of them are its end, where it says what to do.
_LONGEST, _ADVICE = 1500, 400


class SvdistillError(Exception):
    """Base of every error that a user of svdistill can cause and mend; its message is one line.

    Attributes:
        exit_status: what the command line returns: 2 before work starts, 1 while it runs.
    """

    exit_status = 2

    def __str__(self) -> str:
        """Return the message, in one line, whatever the names in it hold."""
        return _message(super().__str__())


class ShapeError(SvdistillError, ValueError):
    """A tensor, or a number of tensors or taps, does not fit."""


class OptionError(SvdistillError, ValueError):
    """An option of a function or class is misspelt, out of range or does not fit the others."""


class RecipeError(SvdistillError, ValueError):
    """A recipe, or a name or value in it, is unknown or out of range."""


class DataError(SvdistillError, ValueError):
    """A data set is missing, damaged, empty or too small."""


class CheckpointError(SvdistillError, ValueError):
    """A checkpoint or a saved student is missing, damaged or belongs to another model."""


class TrainingError(SvdistillError, RuntimeError):
    """Training cannot continue, for instance because the loss is no longer finite."""

    exit_status = 1


class ExportError(SvdistillError, RuntimeError):
    """A trained network cannot be written in another format, or would not be the same network there."""

    exit_status = 1


class SvdistillWarning(UserWarning):
    """Something was corrected or set aside and the result is still right for the rest."""

    def __str__(self) -> str:
        """Return the message, in one line, whatever the names in it hold."""
        return _message(super().__str__())


def first_cause(error: BaseException) -> str:
    """Return the first line of the error that a chain of errors began with."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return one_line(lines[0]).rstrip(".!")


def one_line(text: object) -> str:
    """Return a text, or the message of an error, in one line."""
    return printable(" ".join(str(text).split()))


def _message(text: str) -> str:
    """Return a message in one line; of a long one, such as a library makes of a damaged file, beginning and end."""
    line = printable(" ".join(text.splitlines()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - _ADVICE]} … {line[-_ADVICE:]}"


def brief(value: object, *, limit: int = 80) -> str:
    """Return what ``repr`` shows of a value that a user gave, cut where it would fill a screen."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out."""
    # torch has a class of its own for a GPU and a plain RuntimeError for a CPU.
    # cuBLAS and cuDNN report a status where they find no room for a workspace.
    words = ("out of memory", "allocate memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(one in str(error) for one in words)


def nearest(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Return the end of an error message that points from an unknown name to the right one.

    Args:
        name: what the user wrote.
        known: the names that would have been right.
        limit: how many near names are shown at most.

    Returns:
        ``"; did you mean 'a' or 'b'?"``, or ``"; known: a, b, …"`` where nothing is near.
    """
    names = list(known)
    close = get_close_matches(name, names, n=limit, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(repr(n) for n in close) + "?"
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"; known: {shown}" if names else ""
