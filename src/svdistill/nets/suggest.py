"""Taps where none are named: the ends of a network's stages, and its last hidden features."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from warnings import warn

from torch import Tensor, nn

from svdistill.errors import OptionError, SvdistillWarning
from svdistill.nets.taps import tap_names
from svdistill.nets.trace import Place, Trace, trace

# Of equal blocks so many are tapped, and they have to hold so much of the FLOPs.
_BLOCKS, _MOST = 4, 0.75
# From one stage to the next the number of positions changes by more than this: not where a convolution lacks padding.
_STEP = 1.5
# Tokens in front that are no positions: a class token, one of distillation, registers.
_TOKENS = 16


@dataclass(frozen=True)
class Suggestion:
    """Where a network is best tapped.

    Attributes:
        stages: the ends of its stages, in order.
        features: the last hidden features; None where no submodule gives them, or the last stage does.
        blocks: what may be tapped in place of the stages, to pair with another network; the stages are among them.
        drop_tokens: how many tokens at the front of the (B, N, D) maps are no positions.
        trace: what one pass has shown.
        fixed: whether they were named by somebody, and so all have to stay.
    """

    stages: tuple[Place, ...]
    features: Place | None
    blocks: tuple[Place, ...]
    drop_tokens: int
    trace: Trace
    fixed: bool = False

    @property
    def places(self) -> tuple[Place, ...]:
        """All that is suggested, in order."""
        return self.stages if self.features is None else (*self.stages, self.features)

    @property
    def names(self) -> tuple[str, ...]:
        """The taps, in order."""
        return tuple(place.name for place in self.places)


def suggest(model: nn.Module, images: Tensor) -> Suggestion:
    """Suggest the taps of a network from one pass through it.

    They are the ends of its stages: the last, outermost submodule before the resolution changes; of a network of equal
    blocks, such as a vision transformer, four of these, evenly spaced. The last hidden features, which the output layer
    reads, end them. Maps that do not show where their channels are, having as many positions as channels for instance,
    are passed over with a warning.

    Args:
        model: any module; it stays as it is.
        images: (B, C, H, W), as the network takes them; two of them are used.

    Returns:
        The taps.

    Raises:
        OptionError: the network cannot take the images, or there is no place to tap.
    """
    seen = trace(model, images)
    _warn_of_unclear(model, seen)
    features = seen.features
    usable = [place for place in seen.places if not place.obstacle and place.share > 0]
    if features is not None:
        usable = [place for place in usable if place.order <= features.order or place.source == features.source]
    stages, blocks = _stages(usable, features, seen.declared)
    if features is not None:  # which may be the end of the last stage too
        stages, blocks = ([one for one in some if one.source != features.source] for some in (stages, blocks))
    if features is None and not stages:
        raise OptionError(
            f"{type(model).__name__} has no place to tap: none of its submodules runs once and gives a tensor for each "
            "image; make its blocks modules of their own"
        )
    drop_tokens = _prefix_tokens(seen, stages)
    if features is not None and len(features.shape) == 2 and features.positions <= drop_tokens:  # a class token alone
        features = None
    return Suggestion(tuple(stages), features, tuple(blocks), drop_tokens, seen)


def named(model: nn.Module, images: Tensor, names: Sequence[str], *, fixed: bool = True) -> Suggestion:
    """Look at taps that are named, so that another network's can be paired with them.

    Args:
        model: any module; it stays as it is.
        images: as for `suggest`.
        names: dotted names of submodules.
        fixed: whether all of them have to stay in a pair.

    Raises:
        OptionError: the model has no submodule of a name, or it does not run, or the network cannot take the images.
    """
    seen = trace(model, images)
    ran = {place.name: place for place in seen.places}
    for name in tap_names(model, names):
        if name not in ran:
            raise OptionError(
                f"tap {name!r} of {type(model).__name__} does not run when the network does; take another"
            )
    places = tuple(ran[name] for name in names)
    last = places[-1] if seen.features is not None and places[-1].source == seen.features.source else None
    stages = places if last is None else places[:-1]
    return Suggestion(stages, last, stages, _prefix_tokens(seen, stages), seen, fixed)


def _warn_of_unclear(model: nn.Module, seen: Trace) -> None:
    """Warn of places that might have been suggested, had their maps shown where the channels are."""
    maps = {place.name for place in seen.places if place.unclear or not place.obstacle}
    # Inside of another place none is missed.
    unclear = [one for one in seen.places if one.unclear and maps.isdisjoint(_around(one.name))]
    if unclear:
        first = min(unclear, key=lambda place: (place.depth, place.order))
        more = f" (and {len(unclear) - 1} more)" if unclear[1:] else ""
        warn(
            f"{first.name!r} of {type(model).__name__}{more} {first.obstacle}, so that no tap is suggested there; name "
            "the taps, and their layout",
            SvdistillWarning,
            stacklevel=3,
        )


def _around(name: str) -> Iterator[str]:
    """Yield the names of the submodules around one."""
    return accumulate(name.split(".")[:-1], "{}.{}".format)


def _stages(
    usable: Sequence[Place], features: Place | None, declared: Sequence[Place]
) -> tuple[Sequence[Place], Sequence[Place]]:
    """Return the ends of a network's stages, and what may be tapped in place of them."""
    maps = [place for place in usable if place.positions > 1]
    passed = [place for place in maps if place.passed]
    blocks = _equal_blocks(passed)
    if blocks:
        return evenly(blocks, _BLOCKS), blocks
    # A network of several ways to its output, such as a U-Net, has no place that all of it passes through.
    for ends in ([one for one in declared if one in maps], _pieces(passed), _pieces(maps)):
        stages = [stage[-1] for stage in _by_resolution(ends)]
        # A map that was only pooled says nothing new.
        stages = stages[:1] + [one for before, one in pairwise(stages) if one.share > before.share]
        if len(stages) > 1:
            return stages, stages
    if blocks := _equal_blocks(passed, most=0.0):  # small ones, beside which the first layer counts
        return evenly(blocks, _BLOCKS), blocks
    ways = [place for place in usable if place.passed] or usable
    within = [place for place in outermost(ways) if features is None or place.share < features.share]
    steps = [list(step)[-1] for _, step in groupby(within, key=lambda place: place.share)]
    return evenly(steps, _BLOCKS), steps


def outermost(places: Sequence[Place]) -> list[Place]:
    """Return, of the places that give the same, the one that lies least deep, and the first of those; in order."""
    best: dict[int, Place] = {}
    for place in places:
        other = best.get(place.source)
        if other is None or (place.depth, place.order) < (other.depth, other.order):
            best[place.source] = place
    return sorted(best.values(), key=lambda place: place.order)


def evenly(places: Sequence[Place], number: int) -> list[Place]:
    """Return so many places, or all there are, at even distances, the last one among them."""
    number = min(number, len(places))
    return [places[int((one + 1) * len(places) / number + 0.5) - 1] for one in range(number)]


def _equal_blocks(places: Sequence[Place], *, most: float = _MOST) -> list[Place]:
    """Find the blocks of a network that is made of equal ones: alike in name, kind and shape, and most of its FLOPs."""
    families: dict[tuple[object, ...], list[Place]] = {}
    for place in places:
        families.setdefault((re.sub(r"\d+", "*", place.name), place.kind, place.shape), []).append(place)
    for family in sorted(families.values(), key=lambda family: family[0].depth):
        # The first block's own part is not known, so that of the others stands for all.
        if len(family) >= _BLOCKS and family[-1].share - family[0].share >= most * (1 - 1 / len(family)):
            return family
    return []


def _by_resolution(places: Sequence[Place]) -> list[list[Place]]:
    """Group neighbours whose maps have about as many positions."""
    groups: list[list[Place]] = []
    for place in places:
        if groups and not _differ(groups[-1][0], place):
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _differ(one: Place, other: Place) -> bool:
    low, high = sorted((one.positions, other.positions))
    return high > _STEP * low


def _pieces(places: Sequence[Place]) -> list[Place]:
    """Divide a network into its outermost submodules within which the resolution stays as it is.

    It may change where a submodule begins: in the first of its parts, as in a stage that begins with a stride.
    """
    by_name = {place.name: place for place in places}
    kinds = [place.kind for place in places if place.kind != "Sequential"]

    def children(name: str) -> list[str]:
        start = f"{name}." if name else ""
        inside = (other[len(start) :].partition(".")[0] for other in by_name if other.startswith(start))
        found = [start + part for part in dict.fromkeys(inside) if part]
        # A list of modules does not run itself: in its place are those that do.
        return [part for child in found for part in ([child] if child in by_name else children(child))]

    def within(name: str) -> list[Place]:
        return [place for other, place in by_name.items() if other == name or other.startswith(f"{name}.")]

    def is_divided(name: str) -> bool:
        parts, inside = children(name), within(name)
        runs = _by_resolution(inside)
        if len(runs) < 2 or not parts:
            return False
        earlier = [place.share for place in places if place.order < inside[0].order and place not in inside]
        if runs[0][-1].share == max(earlier, default=0.0):  # nothing is done before the change
            return len(runs) > 2
        # A block that is repeated is one piece, unless it ends with the change, to which it adds one layer at most.
        if kinds.count(by_name[name].kind) > 1 and len({one.share for one in runs[-1]} - {runs[-2][-1].share}) > 1:
            return False
        if len(parts) == 1:
            return is_divided(parts[0])
        return len(_by_resolution([*within(parts[0])[-1:], *(one for part in parts[1:] for one in within(part))])) > 1

    def unfold(name: str) -> Iterator[Place]:
        for child in children(name):
            if is_divided(child):
                yield from unfold(child)
            else:
                yield by_name[child]

    return sorted(outermost(list(unfold(""))), key=lambda place: place.order)


def _prefix_tokens(seen: Trace, stages: Sequence[Place]) -> int:
    """Tell how many tokens stand in front of the positions: so many more there are than the grid they came from has."""
    found = set()
    for place in stages:
        if len(place.shape) == 2 and place.positions > 1:
            grids = [
                one for one in seen.places[: place.order] if len(one.shape) == 3 and one.passed and one.positions > 1
            ]
            more = place.positions - grids[-1].positions if grids else 0
            found.add(more if 0 < more <= _TOKENS else 0)
    return found.pop() if len(found) == 1 else 0
