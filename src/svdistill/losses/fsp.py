"""FSP: the student learns the flow of the solution procedure, how neighbouring feature maps correlate."""

import itertools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from svdistill.losses.maps import as_grid, match, number, numbered, pair_up, smaller, wide_dtype
from svdistill.losses.protocol import Maps, Reads, TransferLoss


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
    return _compare(student_maps, _extract(teacher_maps, student_maps))


class FSPLoss(nn.Module, TransferLoss[Maps, list[Tensor]]):
    """`fsp_loss` as a module; see there. Its goal is the teacher's Gram matrices.

    The paper gives all pairs of taps the same weight and trains in two stages, first on this loss alone. The KD-SVD
    paper takes half of this loss divided by Σ_pairs C_F · C_B; its author's later benchmark takes 0.0005 of it.
    """

    reads: ClassVar[Reads] = "maps"
    equal_widths: ClassVar[bool] = True
    needs_positions: ClassVar[bool] = True
    least_taps: ClassVar[int] = 2
    storable: ClassVar[bool] = False

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Return the loss, see `fsp_loss`."""
        return fsp_loss(student_maps, teacher_maps)

    def extract(self, teacher: Maps, student: Maps) -> list[Tensor]:
        """Return the teacher's Gram matrices.

        Args:
            teacher: maps, as in `fsp_loss`.
            student: maps, as in `fsp_loss`; only their number, their batch and their types matter.

        Returns:
            For each pair of neighbouring taps (B, C_F, C_B).

        Raises:
            ShapeError: number of taps or shapes do not fit.
        """
        return _extract(teacher, student)

    def compare(self, student: Maps, goal: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and no figures of its health: every map has a Gram matrix.

        Args:
            student: maps, as in `fsp_loss`.
            goal: what `extract` returned for the same images, of float32 or wider.

        Raises:
            ShapeError: it is not of these taps, images or widths.
        """
        return _compare(student, goal), {}

    def pack(self, goal: Sequence[Tensor]) -> dict[str, Tensor]:
        """Name the matrices ``flow0``, ``flow1`` and so on."""
        return number("flow", goal)

    def unpack(self, stored: Mapping[str, Tensor]) -> list[Tensor]:
        """Return ``flow0``, ``flow1`` and so on."""
        return numbered(stored, "flow")


@torch.no_grad()
def _extract(teacher_maps: Maps, student_maps: Maps) -> list[Tensor]:
    pair_up(student_maps, teacher_maps, method="FSP", least=2)
    with torch.autocast(teacher_maps[0].device.type, enabled=False):
        return _flows(teacher_maps, wide_dtype(*student_maps))


def _compare(student_maps: Maps, goals: Sequence[Tensor]) -> Tensor:
    widths = [*(goal.shape[1] for goal in goals), *(goal.shape[2] for goal in goals[-1:])]
    match(student_maps, [*goals, *goals[-1:]], method="FSP", widths=widths)
    dtype = wide_dtype(*student_maps)
    with torch.autocast(student_maps[0].device.type, enabled=False):
        errors = (
            functional.mse_loss(found, goal, reduction="sum")
            for found, goal in zip(_flows(student_maps, dtype), goals, strict=True)
        )
        distance = sum(errors, start=torch.zeros((), dtype=dtype, device=student_maps[0].device))
    return distance / max(1, len(student_maps[0]))


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
