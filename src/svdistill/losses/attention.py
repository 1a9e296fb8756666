"""Attention transfer: the student learns where the teacher's feature maps are strong."""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from svdistill.choices import is_number
from svdistill.errors import OptionError, ShapeError
from svdistill.losses.maps import (
    as_grid,
    average_pool,
    match,
    number,
    numbered,
    pair_up,
    smaller,
    warn_of_layout,
    wide_dtype,
)
from svdistill.losses.protocol import Maps, Reads, TransferLoss


def attention_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], *, power: float = 2.0) -> Tensor:
    """Compare the normalized spatial attention of student and teacher at each tap.

    ½ Σ_taps mean_{b, positions} (Q_S / ‖Q_S‖₂ − Q_T / ‖Q_T‖₂)² with Q = Σ_c |A_c|^p over the channels of a map A.
    Where the sizes differ, the larger Q is average-pooled to the smaller. An all-zero map has attention 0. Widths may
    differ. A tap that is compared at one position is left out, since normalized attention is always 1 there.

    Args:
        student_maps: L ≥ 1 feature maps, each (B, C, H, W), (B, N, D) or (B, D), floating.
        teacher_maps: as many; taken as constant.
        power: p ≥ 1.

    Returns:
        Scalar, float32 (float64 where the maps are), also under autocast; 0 for an empty batch.

    Raises:
        ShapeError: number of taps or shapes do not fit, or no tap has more than one position.
        OptionError: p < 1.

    Source: Zagoruyko, Komodakis, *Paying More Attention to Attention*, ICLR 2017, equation 2 with F^p_sum, and the
    authors' code, which takes the mean of squares in place of the norm.
    """
    _check_power(power)
    warn_of_layout(student_maps, teacher_maps)
    return _compare(student_maps, _extract(teacher_maps, student_maps, power), power)


class AttentionLoss(nn.Module, TransferLoss[Maps, list[Tensor]]):
    """`attention_loss` with a stored power; see there. Its goal is the teacher's attention at each tap.

    The paper's weight is β = 1000 with the factor ½ that is part of this loss, so a weight of 1000; p = 2.
    """

    reads: ClassVar[Reads] = "maps"

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        _check_power(power)
        self.power = power

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Return the loss, see `attention_loss`."""
        return attention_loss(student_maps, teacher_maps, power=self.power)

    @property
    def extracts(self) -> dict[str, int | float | str]:
        """The settings that decide what `extract` gives."""
        return {"power": self.power}

    def left_out(self, student_maps: Maps, teacher_maps: Maps) -> tuple[int, ...]:
        """Return the taps that are compared at one position, for instance (B, D, 1, 1) or (B, D)."""
        sizes = [size for _, size in _grids(student_maps, teacher_maps)]
        return tuple(tap for tap, size in enumerate(sizes) if size == (1, 1))

    def extract(self, teacher: Maps, student: Maps) -> list[Tensor]:
        """Return the teacher's attention.

        Args:
            teacher: maps, as in `attention_loss`.
            student: maps, as in `attention_loss`; only their shapes and types matter.

        Returns:
            For each tap (B, 1, h, w), normalized, at the size at which it is compared.

        Raises:
            ShapeError: see `attention_loss`.
        """
        return _extract(teacher, student, self.power)

    def compare(self, student: Maps, goal: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and no figures of its health: every map has an attention.

        Args:
            student: maps, as in `attention_loss`.
            goal: what `extract` returned for the same images, of float32 or wider.

        Raises:
            ShapeError: it is not of these taps or images.
        """
        return _compare(student, goal, self.power), {}

    def pack(self, goal: Sequence[Tensor]) -> dict[str, Tensor]:
        """Name the taps' goals ``attention0``, ``attention1`` and so on."""
        return number("attention", goal)

    def unpack(self, stored: Mapping[str, Tensor]) -> list[Tensor]:
        """Return ``attention0``, ``attention1`` and so on."""
        return numbered(stored, "attention")

    def extra_repr(self) -> str:
        """Show the power in the module's representation."""
        return f"power={self.power}"


@torch.no_grad()
def _extract(teacher_maps: Maps, student_maps: Maps, power: float) -> list[Tensor]:
    grids = _grids(student_maps, teacher_maps)
    dtype = wide_dtype(*student_maps)
    with torch.autocast(teacher_maps[0].device.type, enabled=False):
        return [_attention(grid.to(dtype), size, power).reshape(-1, 1, *size) for grid, size in grids]


def _grids(student_maps: Maps, teacher_maps: Maps) -> list[tuple[Tensor, tuple[int, int]]]:
    """Return the teacher's map of each tap as (B, C, H, W), and the size at which it is compared."""
    pairs = pair_up(student_maps, teacher_maps, method="Attention transfer")
    grids = [(as_grid(student, teacher), as_grid(teacher, student)) for student, teacher in pairs]
    return [(theirs, smaller(ours, theirs)) for ours, theirs in grids]


def _compare(student_maps: Maps, goals: Sequence[Tensor], power: float) -> Tensor:
    match(student_maps, goals, method="Attention transfer")
    kept = [pair for pair in zip(student_maps, goals, strict=True) if pair[1].shape[2:].numel() > 1]
    if not kept:
        shapes = ", ".join(str(tuple(student.shape)) for student in student_maps)
        raise ShapeError(
            f"no tap has more than one position in both networks (student: {shapes}), so there is no attention to "
            "compare; choose taps before the pooling"
        )
    dtype = wide_dtype(*student_maps)
    loss = torch.zeros((), dtype=dtype, device=student_maps[0].device)
    with torch.autocast(loss.device.type, enabled=False):
        for student, goal in kept:
            found = _attention(as_grid(student, goal).to(dtype), (goal.shape[2], goal.shape[3]), power)
            loss = loss + (found - goal.flatten(1)).square().sum() * (0.5 / max(1, found.numel()))
    return loss


def _attention(grid: Tensor, size: tuple[int, int], power: float) -> Tensor:
    """Return the normalized attention (B, H·W) of a map (B, C, H, W) at the given size."""
    # The result does not depend on the scale of a sample, so a constant scale keeps powers in range and the
    # derivative exact.
    scale = grid.detach().abs().amax((1, 2, 3), keepdim=True) if grid.numel() else grid.new_ones(())
    strength = (grid / torch.where(scale > 0, scale, 1.0)).abs().pow(power).sum(1)
    flat = average_pool(strength[:, None], size).flatten(1)
    # An all-zero map stays zero; any other has a norm far above this bound.
    return flat / flat.square().sum(1, keepdim=True).clamp_min(1e-30).sqrt()


def _check_power(power: float) -> None:
    if not (is_number(power) and power >= 1 and math.isfinite(power)):
        raise OptionError(f"power must be a number of at least 1, got {power!r}")
