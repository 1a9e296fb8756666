"""Attention transfer: the student learns where the teacher's feature maps are strong."""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from svdistill.errors import OptionError, ShapeError
from svdistill.losses.maps import as_grid, match, numbered, pair_up, smaller, wide_dtype
from svdistill.losses.protocol import Reads, TransferLoss


def attention_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], *, power: float = 2.0) -> Tensor:
    """Compare the normalized spatial attention of student and teacher at each tap.

    ½ Σ_taps mean_{b, positions} (Q_S / ‖Q_S‖₂ − Q_T / ‖Q_T‖₂)² with Q = Σ_c |A_c|^p over the channels of a map A.
    Where the sizes differ, the larger Q is average-pooled to the smaller. An all-zero map has attention 0. Widths may
    differ. A tap with one position adds nothing, since its normalized attention is always 1.

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
    return _compare(student_maps, _extract(teacher_maps, student_maps, power), power)


class AttentionLoss(nn.Module, TransferLoss):
    """`attention_loss` with a stored power; see there.

    The paper's weight is β = 1000 with the factor ½ that is part of this loss, so a weight of 1000; p = 2.

    Attributes:
        reads: what it compares: feature "maps".
    """

    reads: ClassVar[Reads] = "maps"
    needs_positions: ClassVar[bool] = True

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        _check_power(power)
        self.power = power

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Return the loss, see `attention_loss`."""
        return attention_loss(student_maps, teacher_maps, power=self.power)

    def measure(
        self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and no figures of its health: every map has an attention."""
        return self.compare(student_maps, self.extract(teacher_maps, student_maps))

    @property
    def extracts(self) -> dict[str, int | float | str]:
        """The settings that decide what `extract` gives."""
        return {"power": self.power}

    def extract(self, teacher_maps: Sequence[Tensor], student_maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return all that the loss needs to know of the teacher.

        Args:
            teacher_maps: as in `attention_loss`.
            student_maps: likewise; only their shapes matter.

        Returns:
            For the taps 0, 1, …: ``attention0`` (B, 1, h, w), normalized, at the size at which it is compared.

        Raises:
            ShapeError: see `attention_loss`.
        """
        return _extract(teacher_maps, student_maps, self.power)

    def compare(self, student_maps: Sequence[Tensor], known: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what `measure` does, from what `extract` has found, now or earlier.

        Args:
            student_maps: as in `attention_loss`.
            known: what `extract` returned for the same images, of float32 or wider.

        Raises:
            ShapeError: it is not of these taps or images.
        """
        return _compare(student_maps, known, self.power), {}

    def extra_repr(self) -> str:
        """Show the power in the module's representation."""
        return f"power={self.power}"


@torch.no_grad()
def _extract(teacher_maps: Sequence[Tensor], student_maps: Sequence[Tensor], power: float) -> dict[str, Tensor]:
    pairs = pair_up(student_maps, teacher_maps, method="Attention transfer")
    dtype = wide_dtype(*student_maps)
    known = {}
    with torch.autocast(teacher_maps[0].device.type, enabled=False):
        for tap, (student, teacher) in enumerate(pairs):
            grid = as_grid(teacher, student)
            size = smaller(as_grid(student, teacher), grid)
            known[f"attention{tap}"] = _attention(grid.to(dtype), size, power).reshape(-1, 1, *size)
    return known


def _compare(student_maps: Sequence[Tensor], known: Mapping[str, Tensor], power: float) -> Tensor:
    goals = numbered(known, "attention")
    match(student_maps, goals, method="Attention transfer")
    if all(goal.shape[2:].numel() == 1 for goal in goals):
        shapes = ", ".join(str(tuple(student.shape)) for student in student_maps)
        raise ShapeError(
            f"no tap has more than one position in both networks (student: {shapes}), so there is no attention to "
            "compare; choose taps before the pooling"
        )
    dtype = wide_dtype(*student_maps)
    loss = torch.zeros((), dtype=dtype, device=student_maps[0].device)
    with torch.autocast(loss.device.type, enabled=False):
        for student, goal in zip(student_maps, goals, strict=True):
            found = _attention(as_grid(student, goal).to(dtype), (goal.shape[2], goal.shape[3]), power)
            loss = loss + (found - goal.flatten(1)).square().sum() * (0.5 / max(1, found.numel()))
    return loss


def _attention(grid: Tensor, size: tuple[int, int], power: float) -> Tensor:
    """Return the normalized attention (B, H·W) of a map (B, C, H, W) at the given size."""
    # The result does not depend on the scale of a sample, so a constant scale keeps powers in range and the
    # derivative exact.
    scale = grid.detach().abs().amax((1, 2, 3), keepdim=True) if grid.numel() else grid.new_ones(())
    strength = (grid / torch.where(scale > 0, scale, 1.0)).abs().pow(power).sum(1)
    if strength.shape[1:] != size:
        strength = functional.adaptive_avg_pool2d(strength[:, None], size)[:, 0]
    flat = strength.flatten(1)
    # An all-zero map stays zero; any other has a norm far above this bound.
    return flat / flat.square().sum(1, keepdim=True).clamp_min(1e-30).sqrt()


def _check_power(power: float) -> None:
    if not (power >= 1 and math.isfinite(power)):
        raise OptionError(f"power must be a number of at least 1, got {power!r}")
