"""Attention transfer: the student learns where the teacher's feature maps are strong."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from svdistill.errors import ShapeError
from svdistill.losses.maps import as_grid, pair_up, smaller, wide_dtype


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
        ShapeError: number of taps or shapes do not fit, no tap has more than one position, or p < 1.

    Source: Zagoruyko, Komodakis, *Paying More Attention to Attention*, ICLR 2017, equation 2 with F^p_sum, and the
    authors' code, which takes the mean of squares in place of the norm.
    """
    pairs = pair_up(student_maps, teacher_maps, method="Attention transfer")
    _check_power(power)
    dtype = wide_dtype(*student_maps)
    loss = torch.zeros((), dtype=dtype, device=student_maps[0].device)
    comparable = False
    with torch.autocast(loss.device.type, enabled=False):
        for student, teacher in pairs:
            maps = as_grid(student, teacher), as_grid(teacher, student)
            size = smaller(*maps)
            comparable |= math.prod(size) > 1
            found, goal = (_attention(m.to(dtype), size, power) for m in (maps[0], maps[1].detach()))
            loss = loss + (found - goal).square().sum() * (0.5 / max(1, found.numel()))
    if not comparable:
        shapes = ", ".join(str(tuple(student.shape)) for student, _ in pairs)
        raise ShapeError(
            f"no tap has more than one position in both networks (student: {shapes}), so there is no attention to "
            "compare; choose taps before the pooling"
        )
    return loss


class AttentionLoss(nn.Module):
    """`attention_loss` with a stored power; see there.

    The paper's weight is β = 1000 with the factor ½ that is part of this loss, so a weight of 1000; p = 2.

    Attributes:
        reads: what it compares: feature "maps".
    """

    reads: ClassVar[str] = "maps"

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
        return self(student_maps, teacher_maps), {}

    def extra_repr(self) -> str:
        """Show the power in the module's representation."""
        return f"power={self.power}"


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
        raise ShapeError(f"power must be a number of at least 1, got {power!r}")
