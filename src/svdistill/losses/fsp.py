"""FSP: the student learns the flow of the solution procedure, how neighbouring feature maps correlate."""

import itertools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from svdistill.errors import ShapeError
from svdistill.losses.maps import as_grid, match, pair_up, positions, smaller, warn_of_layout, wide_dtype
from svdistill.losses.protocol import Maps, Reads, TransferLoss

# The Gram matrices (B, C_F, C_B) by the numbers of their taps, front and back, in order.
Flows = dict[tuple[int, int], Tensor]


def fsp_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Compare the Gram matrices between neighbouring feature maps of student and teacher.

    mean_b Σ_pairs ‖G_S − G_T‖²_F with G = F Bᵀ / (H·W) for neighbouring taps F (C_F, H·W) and B (C_B, H·W). Where
    their sizes differ, the larger map is max-pooled to the smaller. A tap that has one position in both networks is
    left out, and the taps around it are neighbours.

    Args:
        student_maps: feature maps in the order of the network, each (B, C, H, W), (B, N, D) or (B, D), floating; at
            least 2 that are not left out.
        teacher_maps: as many, with the same widths (C or D) tap by tap; heights, widths and N may differ. Constant.

    Returns:
        Scalar, float32 (float64 where the maps are), also under autocast; 0 for an empty batch.

    Raises:
        ShapeError: number of taps, shapes or widths do not fit, or too few taps are left.

    Source: Yim, Joo, Bae, Kim, *A Gift from Knowledge Distillation*, CVPR 2017, equations 1 and 2.
    """
    warn_of_layout(student_maps, teacher_maps)
    return _compare(student_maps, _extract(teacher_maps, student_maps))


class FSPLoss(nn.Module, TransferLoss[Maps, Flows]):
    """`fsp_loss` as a module; see there. Its goal is the teacher's Gram matrices.

    The paper gives all pairs of taps the same weight and trains in two stages, first on this loss alone. The KD-SVD
    paper takes half of this loss divided by Σ_pairs C_F · C_B; its author's later benchmark takes 0.0005 of it.
    """

    reads: ClassVar[Reads] = "maps"
    equal_widths: ClassVar[bool] = True
    least_taps: ClassVar[int] = 2
    storable: ClassVar[bool] = False

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Return the loss, see `fsp_loss`."""
        return fsp_loss(student_maps, teacher_maps)

    def left_out(self, student_maps: Maps, teacher_maps: Maps) -> tuple[int, ...]:
        """Return the taps that have one position in both networks, (B, D, 1, 1) or (B, D)."""
        pairs = pair_up(student_maps, teacher_maps, method="FSP")
        return tuple(tap for tap, pair in enumerate(pairs) if all(positions(one) == 1 for one in pair))

    def extract(self, teacher: Maps, student: Maps) -> Flows:
        """Return the teacher's Gram matrices.

        Args:
            teacher: maps, as in `fsp_loss`.
            student: maps, as in `fsp_loss`; only their shapes and types matter.

        Returns:
            For each pair of neighbouring taps (B, C_F, C_B).

        Raises:
            ShapeError: number of taps or shapes do not fit, or too few taps are left.
        """
        return _extract(teacher, student)

    def compare(self, student: Maps, goal: Flows) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and no figures of its health: every map has a Gram matrix.

        Args:
            student: maps, as in `fsp_loss`.
            goal: what `extract` returned for the same images, of float32 or wider.

        Raises:
            ShapeError: it is not of these taps, images or widths.
        """
        return _compare(student, goal), {}

    def pack(self, goal: Flows) -> dict[str, Tensor]:
        """Name the matrices by their taps: ``flow0-1``, ``flow1-2`` and so on."""
        return {f"flow{front}-{back}": one for (front, back), one in goal.items()}

    def unpack(self, stored: Mapping[str, Tensor]) -> Flows:
        """Return ``flow0-1``, ``flow1-2`` and so on by their taps."""
        taps = {name: name.removeprefix("flow").split("-") for name in stored}
        return {(int(front), int(back)): stored[name] for name, (front, back) in taps.items()}


@torch.no_grad()
def _extract(teacher_maps: Maps, student_maps: Maps) -> Flows:
    pairs = pair_up(student_maps, teacher_maps, method="FSP", least=2)
    taps = [tap for tap, pair in enumerate(pairs) if any(positions(one) > 1 for one in pair)]
    if len(taps) < 2:
        raise ShapeError(
            f"FSP relates neighbouring taps and needs at least 2 with more than one position, got {len(taps)} of "
            f"{len(pairs)}; choose taps before the pooling"
        )
    with torch.autocast(teacher_maps[0].device.type, enabled=False):
        return _flows(teacher_maps, list(itertools.pairwise(taps)), wide_dtype(*student_maps))


def _compare(student_maps: Maps, goals: Flows) -> Tensor:
    taps = {*itertools.chain(*goals)}
    # A tap with positions is left out by no teacher, so its goal is missing.
    kept = [one for tap, one in enumerate(student_maps) if tap in taps or positions(one) > 1]
    matrices = list(goals.values())
    widths = [*(one.shape[1] for one in matrices), *(one.shape[2] for one in matrices[-1:])]
    match(kept, [*matrices, *matrices[-1:]], method="FSP", widths=widths)
    dtype = wide_dtype(*student_maps)
    with torch.autocast(student_maps[0].device.type, enabled=False):
        found = _flows(student_maps, list(goals), dtype)
        errors = (functional.mse_loss(found[pair], goal, reduction="sum") for pair, goal in goals.items())
        distance = sum(errors, start=torch.zeros((), dtype=dtype, device=student_maps[0].device))
    return distance / max(1, len(student_maps[0]))


def _flows(maps: Sequence[Tensor], pairs: Sequence[tuple[int, int]], dtype: torch.dtype) -> Flows:
    """Return the Gram matrices of pairs of taps."""
    return {(front, back): _flow(maps[front].to(dtype), maps[back].to(dtype)) for front, back in pairs}


def _flow(front: Tensor, back: Tensor) -> Tensor:
    grids = as_grid(front, back), as_grid(back, front)
    size = smaller(*grids)
    left, right = (_max_pool(grid, size).flatten(2) for grid in grids)
    # The maps are far smaller than their Gram matrix, so they are what is divided.
    return torch.bmm(left / (size[0] * size[1]), right.mT)


def _max_pool(grid: Tensor, size: tuple[int, int]) -> Tensor:
    return grid if grid.shape[2:] == size else functional.adaptive_max_pool2d(grid, size)
