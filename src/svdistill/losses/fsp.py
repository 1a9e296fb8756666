"""FSP: the student learns the flow of the solution procedure, how neighbouring feature maps correlate."""

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from svdistill.losses.maps import as_grid, pair_up, smaller, wide_dtype, width
from svdistill.losses.protocol import Reads, TransferLoss


def fsp_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Compare the Gram matrices between neighbouring feature maps of student and teacher.

    mean_b Σ_pairs ‖G_S − G_T‖²_F with G = F Bᵀ / (H·W) for neighbouring taps F (C_F, H·W) and B (C_B, H·W). Where
    their sizes differ, the larger map is max-pooled to the smaller.

    Args:
        student_maps: L ≥ 2 feature maps in the order of the network, each (B, C, H, W), (B, N, D) or (B, D), floating.
        teacher_maps: as many, with the same widths (C or D) tap by tap; heights, widths and N may differ. Constant.

    Returns:
        Scalar, float32 (float64 where the maps are), also under autocast; 0 for an empty batch.

    Raises:
        ShapeError: number of taps, shapes or widths do not fit.

    Source: Yim, Joo, Bae, Kim, *A Gift from Knowledge Distillation*, CVPR 2017, equations 1 and 2.
    """
    pairs = pair_up(student_maps, teacher_maps, method="FSP", least=2, equal_widths=True)
    students, teachers = zip(*pairs, strict=True)
    dtype = wide_dtype(*students)
    with torch.autocast(students[0].device.type, enabled=False):
        with torch.no_grad():
            goals = _flows(teachers, dtype)
        errors = (
            functional.mse_loss(found, goal, reduction="sum")
            for found, goal in zip(_flows(students, dtype), goals, strict=True)
        )
        distance = sum(errors, start=torch.zeros((), dtype=dtype, device=students[0].device))
    return distance / max(1, len(students[0]))


class FSPLoss(nn.Module, TransferLoss):
    """`fsp_loss` as a module; see there.

    The paper gives all pairs of taps the same weight and trains in two stages, first on this loss alone. The KD-SVD
    paper takes half of this loss divided by Σ_pairs C_F · C_B; its author's later benchmark takes 0.0005 of it.

    Attributes:
        reads: what it compares: feature "maps".
        equal_widths: the maps of both networks must be of the same widths.
    """

    reads: ClassVar[Reads] = "maps"
    needs_positions: ClassVar[bool] = True
    least_taps: ClassVar[int] = 2
    storable: ClassVar[bool] = False
    equal_widths: ClassVar[bool] = True

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Return the loss, see `fsp_loss`."""
        return fsp_loss(student_maps, teacher_maps)

    def measure(
        self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and no figures of its health: every map has a Gram matrix."""
        return self(student_maps, teacher_maps), {}

    def teacher_numbers(self, teacher_maps: Sequence[Tensor], student_maps: Sequence[Tensor]) -> int:
        """Return how many numbers of an image the loss needs to know of the teacher: too many to be stored.

        Args:
            teacher_maps: as in `fsp_loss`.
            student_maps: likewise; not looked at.
        """
        return sum(width(front) * width(back) for front, back in itertools.pairwise(teacher_maps))


def _flows(maps: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return the Gram matrices (B, C_F, C_B) of neighbouring maps."""
    return [_flow(front.to(dtype), back.to(dtype)) for front, back in itertools.pairwise(maps)]


def _flow(front: Tensor, back: Tensor) -> Tensor:
    grids = as_grid(front, back), as_grid(back, front)
    size = smaller(*grids)
    left, right = (_max_pool(grid, size).flatten(2) for grid in grids)
    # The maps are far smaller than their Gram matrix, so they are what is divided.
    return torch.bmm(left / (size[0] * size[1]), right.mT)


def _max_pool(grid: Tensor, size: tuple[int, int]) -> Tensor:
    return grid if grid.shape[2:] == size else functional.adaptive_max_pool2d(grid, size)
