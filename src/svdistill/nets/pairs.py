"""Taps of two networks that belong together: those at like depths."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from torch import Tensor, nn

from svdistill.errors import OptionError
from svdistill.nets.suggest import Suggestion, named, outermost, suggest
from svdistill.nets.trace import Place

# The sum of the differences in depth, and what was chosen.
_Choice = tuple[float, tuple[Place, ...]]

_log = logging.getLogger(__name__)


def suggest_pair(
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    *,
    student_taps: Sequence[str] = (),
    teacher_taps: Sequence[str] = (),
) -> tuple[Suggestion, Suggestion]:
    """Suggest the taps of two networks that are to be compared, and log what was chosen.

    Args:
        student: any module; it stays as it is.
        teacher: any module; it stays as it is.
        images: (B, C, H, W), as both take them; two of them are used.
        student_taps: those of the student that are named, for which the teacher's are looked for; () = none are.
        teacher_taps: those of the teacher that are named.

    Returns:
        The student's and the teacher's, equally many, paired in order; see `pair_up`.

    Raises:
        OptionError: a network cannot take the images, has no place to tap or no submodule of a name, or there are too
            few places.
    """
    one, other = (
        named(network, images, taps) if taps else suggest(network, images)
        for network, taps in ((student, student_taps), (teacher, teacher_taps))
    )
    ours, theirs = pair_up(one, other)
    pairs = ", ".join(f"{a} – {b}" for a, b in zip(ours.names, theirs.names, strict=True))
    _log.info("taps of student and teacher: %s", pairs)
    return ours, theirs


def pair_up(student: Suggestion, teacher: Suggestion) -> tuple[Suggestion, Suggestion]:
    """Choose of the taps of two networks those that are compared, paired in order.

    Stages are paired by number where both have equally many, else with those at the nearest depth, by the share of the
    FLOPs that is done there, strictly rising; of a network of equal blocks any block may be taken. The last hidden
    features are paired with each other.

    Args:
        student: its taps, suggested or named.
        teacher: its taps, suggested or named.

    Returns:
        Both, with equally many taps.

    Raises:
        OptionError: one network has too few places for the taps that are named of the other.
    """
    if (student.features is None) != (teacher.features is None):
        student, teacher = _without_features(student), _without_features(teacher)
    ours, theirs = _match(student, teacher)
    return replace(student, stages=ours), replace(teacher, stages=theirs)


def _without_features(one: Suggestion) -> Suggestion:
    """Leave out the last features, which the other network lacks; where they were named they are the last stage."""
    if one.features is None or not one.fixed:
        return replace(one, features=None)
    return replace(one, stages=one.places, blocks=one.places, features=None)


def _match(student: Suggestion, teacher: Suggestion) -> tuple[tuple[Place, ...], tuple[Place, ...]]:
    ours, theirs = student.stages, teacher.stages
    if len(ours) == len(theirs) and (student.fixed or teacher.fixed or _has_more(student) == _has_more(teacher)):
        return ours, theirs
    if _leads(student, teacher):
        return ours, _nearest(ours, _candidates(student, teacher, who="teacher"))
    return _nearest(theirs, _candidates(teacher, student, who="student")), theirs


def _leads(one: Suggestion, other: Suggestion) -> bool:
    """Whether the stages of one network stay and those of the other are looked for."""
    if one.fixed or other.fixed:
        return one.fixed
    if _has_more(one) != _has_more(other):
        few = len((one if _has_more(one) else other).blocks)
        if few >= len((other if _has_more(one) else one).stages):
            return _has_more(other)
    return len(one.stages) <= len(other.stages)


def _has_more(one: Suggestion) -> bool:
    return len(one.blocks) > len(one.stages)


def _candidates(leading: Suggestion, other: Suggestion, *, who: str) -> Sequence[Place]:
    """Return where the other network may be tapped: at its stages or blocks, or wherever, where these are too few."""
    wanted, last = len(leading.stages), other.trace.features
    # Never the logits; the last features only where they are not paired by themselves.
    ending = len(other.trace.places) if last is None else last.order + (other.features is None)
    seen = [place for place in other.trace.places[:ending] if not place.obstacle and place.share > 0]
    wider = outermost([place for place in seen if place.passed] or seen)
    found = next((places for places in (other.blocks, wider) if len(places) >= wanted), None)
    if found is None:
        raise OptionError(
            f"{wanted} taps are to be paired, but the {who} can be tapped at {len(wider)} places only; name its taps, "
            "or fewer of the other network's"
        )
    return found


def _nearest(places: Sequence[Place], candidates: Sequence[Place]) -> tuple[Place, ...]:
    """Return a candidate for each place, strictly rising, so that the differences in depth are least in all."""
    spare = len(candidates) - len(places)
    # For each place so far the best choices that end at or before each of the candidates that it may have.
    best: list[_Choice] = [(0.0, ())] * (spare + 1)
    for number, place in enumerate(places):
        ending = [
            (cost + abs(place.share - one.share), (*chosen, one))
            for (cost, chosen), one in zip(best, candidates[number:], strict=False)
        ]
        best = list(accumulate(ending, _less))
    return best[-1][1]


def _less(one: _Choice, other: _Choice) -> _Choice:
    return other if other[0] < one[0] else one
