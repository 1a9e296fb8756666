"""What stands out in the figures of a transfer task, before a run or after it, and what to change."""

from collections.abc import Collection
from typing import NamedTuple

WEAK, STRONG = 0.01, 10.0  # of the transfer gradient over the main one
HELD_BACK = 0.05  # of the transfer gradient that a bound lets through
LITTLE_ENERGY = 0.3  # of a map, in the vectors that are compared
MANY_ASIDE = 0.01  # of the images
MANY_OWN = 4  # singular vectors of a student: so many taught a residual network less than one
_WANTED_RATIO = 0.3


class Sign(NamedTuple):
    """Something that stands out.

    Attributes:
        found: what was found.
        advice: what to change, and why.
        change: a setting of the loss that does it, ``rank=2``; "" where it is not one of the loss, or no certain one.
    """

    found: str
    advice: str
    change: str = ""


def of_gradients(
    ratio: float | None, passed: float | None, rules: Collection[str], *, weight: float | None = None
) -> Sign | None:
    """Judge how strong the transfer gradient is beside the main one, and what its bound leaves of it.

    Args:
        ratio: ‖g_t‖ / ‖g_m‖; None where one of the two tasks does not take part.
        passed: how much of ‖g_t‖ the bound let through, 0 to 1; None where there is none.
        rules: ``loss.clip`` of each loss.
        weight: ``loss.weight``; None where there are several.

    Returns:
        None where nothing stands out.
    """
    if ratio is not None and 0 < ratio < WEAK:
        factor = _WANTED_RATIO / ratio
        return Sign(
            f"the transfer gradient is {ratio:.2g} of the main one, so it changes next to nothing",
            f"raise loss.weight, for instance by {factor:.0f} times",
            f"weight={weight * factor:.2g}" if weight else "",
        )
    if ratio is not None and ratio > STRONG and set(rules) == {"none"}:
        return Sign(
            f"the transfer gradient is {ratio:.3g} times the main one, and nothing bounds it",
            "lower loss.weight, or take loss.clip=own_norm",
            "clip=own_norm",
        )
    # A bound of its own is meant to be small; one by the main gradient leaves nothing once that has vanished.
    if passed is not None and passed < HELD_BACK and not set(rules) & {"own_norm", "none"}:
        return Sign(
            f"the bound lets {passed:.1%} of the transfer gradient through",
            "take loss.clip=own_norm: the main gradient, which is the bound now, vanishes once few labelled images are "
            "fitted",
            "clip=own_norm",
        )
    return None


def of_energy(energy: float | None, what: str, *, rank: int | None = None, own_first: int = 0) -> Sign | None:
    """Judge how much of a map's energy the compared vectors hold.

    Args:
        energy: 0 to 1; None where it is not known.
        what: whose vectors these are, as the beginning of the sentence: ``the vectors that are kept of …``.
        rank: how many vectors are compared; None where that is not one number.
        own_first: how many of the student's own are, in a first stage.

    Returns:
        None where nothing stands out.
    """
    if energy is None or energy >= LITTLE_ENERGY:
        return None
    found = f"{what} hold {energy:.0%} of its energy"
    if own_first:
        return Sign(
            found,
            "take loss.basis=teacher with a higher loss.rank, as most of the map is not compared, and more of the "
            "student's own vectors taught less",
            "basis=teacher",
        )
    change = "" if rank is None else f"rank={2 * rank}"
    return Sign(found, "raise loss.rank, as most of the map is not compared", change)


def of_own_vectors(own_first: int) -> Sign | None:
    """Judge how many of a student's own singular vectors a first stage asks for.

    Args:
        own_first: that number; 0 where there is no first stage, or it compares in the teacher's basis.

    Returns:
        None where nothing stands out.
    """
    if own_first < MANY_OWN:
        return None
    return Sign(
        f"the first stage asks for {own_first} of the student's own singular vectors, and four taught a residual "
        "network less than one",
        "take loss.basis=teacher, in which more vectors teach more, or loss.rank=1",
        "basis=teacher",
    )


def of_set_aside(fraction: float | None, number: str) -> Sign | None:
    """Judge how many images the transfer loss left out.

    Args:
        fraction: of the images, 0 to 1; None where none can be.
        number: the same in words, ``3 % of the images``.

    Returns:
        None where nothing stands out.
    """
    if fraction is None or fraction <= MANY_ASIDE:
        return None
    return Sign(
        f"the transfer loss sets {number} aside: their maps are zero or not finite",
        "look at the taps; where the student's are dead, lower optimizer.lr",
    )
