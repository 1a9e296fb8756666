"""What the options of decomposition and distance may be; each check raises OptionError and says what is expected."""

import math
from collections.abc import Iterable

from svdistill.choices import MAX_RANK, is_number
from svdistill.errors import OptionError, brief, nearest

MIN_BETA = 1e-30  # below, 1 / β leaves float32


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Refuse an option that is not one of the known names, and point to the nearest."""
    choices = tuple(known)
    if value not in choices:
        raise OptionError(f"{name} is {value!r}{nearest(str(value), choices)}")


def check_rank(rank: int) -> None:
    """Refuse a rank that is not an integer from 1 to `MAX_RANK`."""
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise OptionError(f"rank must be an integer of at least 1 and at most {MAX_RANK}, got {brief(rank)}")


def check_beta(beta: float) -> None:
    """Refuse a β that is not positive and finite, or so small that 1 / β does not fit into float32."""
    if not (is_number(beta) and beta >= MIN_BETA and math.isfinite(beta)):
        raise OptionError(f"beta must be a positive number, at least {MIN_BETA:g}, got {beta!r}")
