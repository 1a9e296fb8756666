"""What draws figures is an extra, so that those who only train need not install it."""

from importlib.util import find_spec

from svdistill.errors import OptionError

ADVICE = "needs matplotlib; install it with: pip install 'svdistill[report]'"


def can_draw() -> bool:
    """Tell whether matplotlib is installed, without importing it."""
    return find_spec("matplotlib") is not None


def check_can_draw(what: str) -> None:
    """Refuse what cannot be drawn, before any work.

    Args:
        what: is to be drawn, for the message.

    Raises:
        OptionError: matplotlib is not installed.
    """
    if not can_draw():
        raise OptionError(f"{what} {ADVICE}")
