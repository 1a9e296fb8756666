"""Feature maps of two networks, checked, paired tap by tap, and brought to one layout."""

import itertools
import math
from collections.abc import Mapping, Sequence
from warnings import warn

import torch
from torch import Tensor
from torch.nn import functional

from svdistill.errors import ShapeError, SvdistillWarning

_WHO = ("student", "teacher")
# What is shorter than this fraction of the longest of its batch is of an image without features.
_NOTHING = 1e-12


def pair_up(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    *,
    method: str,
    least: int = 1,
    equal_widths: bool = False,
) -> list[tuple[Tensor, Tensor]]:
    """Check both networks' maps and return them tap by tap.

    Args:
        student_maps: feature maps in the order of the network, each (B, C, H, W), (B, N, D) or (B, D), floating.
        teacher_maps: as many, of the same batch.
        method: who asks, for the message.
        least: how many taps the method needs.
        equal_widths: whether C or D has to agree tap by tap.

    Returns:
        (student, teacher) of each tap, the teacher's without gradient.

    Raises:
        ShapeError: number of taps, shapes, batch or widths do not fit.
    """
    if any(torch.is_tensor(maps) for maps in (student_maps, teacher_maps)):
        raise ShapeError("student_maps and teacher_maps must be sequences of tensors, one for each tap, got one tensor")
    if len(student_maps) != len(teacher_maps):
        raise ShapeError(
            f"the student has {len(student_maps)} taps and the teacher {len(teacher_maps)}; name equally many"
        )
    if len(student_maps) < least:
        what = "relates neighbouring taps and needs" if least > 1 else "compares taps and needs"
        raise ShapeError(f"{method} {what} at least {least}, got {len(student_maps)}")
    pairs = list(zip(student_maps, teacher_maps, strict=True))
    for tap, (student, teacher) in enumerate(pairs):
        for who, feature in zip(_WHO, (student, teacher), strict=True):
            _check(feature, f"tap {tap} of the {who}")
        if len(student) != len(teacher) or len(student) != len(pairs[0][0]):
            raise ShapeError(
                f"tap {tap} has {len(student)} samples in the student and {len(teacher)} in the teacher, "
                f"tap 0 of the student {len(pairs[0][0])}; all taps must come from the same batch"
            )
        if equal_widths:
            _check_width(student, width(teacher), tap)
    return [(student, teacher.detach()) for student, teacher in pairs]


def warn_of_layout(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> None:
    """Warn where the maps of a network look like (B, H, W, C): the first two dimensions are alike and the last is not.

    Args:
        student_maps: as for `pair_up`.
        teacher_maps: as for `pair_up`.
    """
    for who, maps in zip(_WHO, (student_maps, teacher_maps), strict=True):
        grids = [one.shape for one in maps if isinstance(one, Tensor) and one.dim() == 4]
        if grids and all(1 < height == wide != channels for _, height, wide, channels in grids):
            warn(
                SvdistillWarning(
                    f"the {who}'s maps, the first {tuple(grids[0])}, look like (B, H, W, C), but are read as "
                    "(B, C, H, W); permute them, or have a Distiller take them"
                ),
                stacklevel=1,
            )


def number(name: str, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Name tensors ``name0``, ``name1`` and so on: one for each tap."""
    return {f"{name}{tap}": one for tap, one in enumerate(tensors)}


def numbered(stored: Mapping[str, Tensor], name: str) -> list[Tensor]:
    """Return ``name0``, ``name1`` and so on, as far as there are any: the reverse of `number`."""
    names = itertools.takewhile(stored.__contains__, (f"{name}{tap}" for tap in itertools.count()))
    return [stored[one] for one in names]


def match(
    student_maps: Sequence[Tensor], goals: Sequence[Tensor], *, method: str, widths: Sequence[int] | None = None
) -> None:
    """Check that the student's maps are of the taps and the images that the goals are for.

    Args:
        student_maps: feature maps, each (B, C, H, W), (B, N, D) or (B, D), floating.
        goals: (B, …) of each tap of the teacher.
        method: who asks, for the message.
        widths: the teacher's C or D of each tap, where the student's has to agree.

    Raises:
        ShapeError: number of taps, shapes, batch or widths do not fit.
    """
    if len(student_maps) != len(goals) or not goals:
        raise ShapeError(
            f"{method}: the student has {len(student_maps)} taps, but there are goals for {len(goals)}; extract them "
            "from equally many taps of the teacher"
        )
    for tap, (student, one) in enumerate(zip(student_maps, goals, strict=True)):
        _check(student, f"tap {tap} of the student")
        if len(student) != len(one):
            raise ShapeError(
                f"tap {tap} has {len(student)} samples in the student, but its goal is for {len(one)}; both must be of "
                "the same batch"
            )
    for tap, (student, wanted) in enumerate(zip(student_maps, widths or (), strict=False)):
        _check_width(student, wanted, tap)


def width(feature: Tensor) -> int:
    """Return C of (B, C, H, W) and D of (B, N, D) or (B, D)."""
    return feature.shape[1] if feature.dim() == 4 else feature.shape[-1]


def channels_first(feature: Tensor) -> Tensor:
    """View (B, C, H, W), (B, N, D) or (B, D) as (B, D, N)."""
    if feature.dim() == 4:
        return feature.flatten(2)
    return feature.mT if feature.dim() == 3 else feature[:, :, None]


def averaged(feature: Tensor) -> Tensor:
    """Average a map over its positions, (B, D), in float64: what relates images to each other takes differences."""
    return channels_first(feature).double().mean(2)


def without_features(squares: Tensor) -> Tensor:
    """Tell which images of a batch have no features, or next to none beside the others.

    Args:
        squares: (B, 1), the squared length of what stands for each image. Beside an infinity all would look like
            nothing; then none is, so that it shows, as NaN.

    Returns:
        (B, 1), bool.
    """
    squares = squares.detach()
    largest = squares.amax() if len(squares) else squares.new_zeros(())
    return (squares <= _NOTHING**2 * largest) & largest.isfinite()


def positions(feature: Tensor) -> int:
    """Return H·W of (B, C, H, W), N of (B, N, D), 1 of (B, D)."""
    return feature.shape[2:].numel() if feature.dim() == 4 else feature.shape[1] if feature.dim() == 3 else 1


def as_grid(feature: Tensor, partner: Tensor) -> Tensor:
    """View a map of any layout as (B, C, H, W), so that it can be pooled to the size of its partner.

    Tokens lie row by row, on the grid of a partner with as many positions, else on a square one. Two sets of equally
    many tokens need no grid. A (B, D) vector is a grid of one position.

    Args:
        feature: (B, C, H, W), (B, N, D) or (B, D).
        partner: the map that it is compared with.

    Raises:
        ShapeError: N is not a square number and the partner is of another size.
    """
    if feature.dim() == 4:
        return feature
    flat = channels_first(feature)
    tokens = flat.shape[2]
    if partner.dim() == 4 and partner.shape[2] * partner.shape[3] == tokens:
        return flat.reshape(*flat.shape[:2], *partner.shape[2:])
    if partner.dim() == 3 and partner.shape[1] == tokens:
        return flat[..., None]
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ShapeError(
            f"{tokens} tokens are not a square grid and cannot be pooled to the size of a map "
            f"{tuple(partner.shape)}; drop the class token (drop_tokens), or choose taps with equally many positions"
        )
    return flat.reshape(*flat.shape[:2], side, side)


def smaller(first: Tensor, second: Tensor) -> tuple[int, int]:
    """Return the smaller height and the smaller width of two (B, C, H, W)."""
    return min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])


def average_pool(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Average (B, C, H, W) over about equal windows to (B, C, *size).

    Raises:
        ShapeError: the size is larger than the map, so that its goal was extracted for a student of larger maps.
    """
    if grid.shape[2:] == size:
        return grid
    if grid.shape[2] < size[0] or grid.shape[3] < size[1]:
        raise ShapeError(
            f"the teacher's goal is of {size[0]} x {size[1]} positions, the student's map of only {grid.shape[2]} x "
            f"{grid.shape[3]}; extract the goal for this student"
        )
    return functional.adaptive_avg_pool2d(grid, size)


def wide_dtype(*features: Tensor) -> torch.dtype:
    """Return float64 where one of the maps is float64, else float32."""
    return torch.float64 if any(f.dtype == torch.float64 for f in features) else torch.float32


def _check_width(student: Tensor, wanted: int, tap: int) -> None:
    if width(student) != wanted:
        raise ShapeError(
            f"tap {tap} has {width(student)} channels in the student and {wanted} in the teacher; call prepare of a "
            "Distiller before the optimizer is made, which makes an adapter, or choose taps or widths that agree"
        )


def _check(feature: Tensor, name: str) -> None:
    if not isinstance(feature, Tensor) or feature.dim() not in (2, 3, 4) or not feature.is_floating_point():
        got = f"{tuple(feature.shape)} {feature.dtype}" if isinstance(feature, Tensor) else type(feature).__name__
        raise ShapeError(f"{name} must be a floating point (B, C, H, W), (B, N, D) or (B, D), got {got}")
    if 0 in feature.shape[1:]:
        raise ShapeError(f"{name} is {tuple(feature.shape)}; it needs at least one channel and one position")
