"""KD-SVD's transfer loss: the student learns how the teacher's singular vectors relate from tap to tap."""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from svdistill.linalg import (
    ASSIGNMENTS,
    GRADIENTS,
    Assignment,
    Gradient,
    assign,
    check_beta,
    check_choice,
    check_rank,
    decompose,
    rbf_distance,
)
from svdistill.losses.maps import channels_first, pair_up

Reduction = Literal["sum", "mean"]
REDUCTIONS: tuple[Reduction, ...] = ("sum", "mean")


def svd_loss(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    *,
    rank: int = 1,
    beta: float = 8.0,
    assignment: Assignment | None = None,
    gradient: Gradient = "exact",
    reduction: Reduction = "mean",
) -> Tensor:
    """Compare how the leading singular vectors of neighbouring feature maps relate in student and teacher.

    ½ √k Σ_pairs Σ_{b, m, n, i} (DFV_S − DFV_T)² with DFV[m, n, i] = exp(−(f^F_i[m] − f^B_i[n])² / β) over neighbouring
    taps F and B, f_i = w_i v_i, w_i = σ_T,i / ‖σ_T,1..k‖. The student offers k + 1 vectors; each teacher vector is
    answered by the one nearest to it, with its sign made to agree.

    A sample for which a tap of either network is all zero, or holds NaN or infinity, contributes nothing; `measure` of
    `SVDLoss` counts them. A component that the student's map has no vector for contributes nothing either; one that the
    teacher's map has no vector for has weight 0.

    Args:
        student_maps: L ≥ 2 feature maps in the order of the network, each (B, C, H, W), (B, N, D) or (B, D), floating.
        teacher_maps: as many, with the same widths (C or D) tap by tap; heights, widths and N may differ. Constant.
        rank: k ≥ 1, vectors kept of a map; fewer where a map has fewer positions or channels.
        beta: width of the radial basis function, > 0.
        assignment: "argmax" (as published; may take a student vector twice), "one_to_one", or None: argmax for
            rank 1 and one_to_one above.
        gradient: "exact" or "paper", see `svdistill.linalg.truncated_svd`.
        reduction: "sum" over the batch, as published, which counts on clipped gradients; or "mean": divided by B.

    Returns:
        Scalar, float32 (float64 where the maps are), also under autocast.

    Raises:
        ShapeError: number of taps, shapes, widths or options do not fit.

    Source: Lee et al., ECCV 2018, equations 3 to 8.
    """
    loss, _ = _measure(student_maps, teacher_maps, _settings(rank, beta, assignment, gradient, reduction))
    return loss


class SVDLoss(nn.Module):
    """`svd_loss` with stored settings; see there.

    Attributes:
        reads: what it compares: feature "maps".
        equal_widths: the maps of both networks must be of the same widths.
    """

    reads: ClassVar[str] = "maps"
    equal_widths: ClassVar[bool] = True

    def __init__(
        self,
        rank: int = 1,
        beta: float = 8.0,
        assignment: Assignment | None = None,
        gradient: Gradient = "exact",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.settings = _settings(rank, beta, assignment, gradient, reduction)

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Return the loss, see `svd_loss`."""
        return self.measure(student_maps, teacher_maps)[0]

    def measure(
        self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and what tells whether the transfer works.

        Returns:
            The loss, and scalars without gradient: `alignment`, the mean |cosine| between a teacher's vector and the
            student's answer, weighted by w²; `energy_student` and `energy_teacher`, the mean share of a map's energy
            ‖M‖² in the vectors that are compared; `set_aside`, the number of samples that contributed nothing.
        """
        return _measure(student_maps, teacher_maps, self.settings)

    def extra_repr(self) -> str:
        """Show the settings in the module's representation."""
        return ", ".join(f"{key}={value!r}" for key, value in self.settings._asdict().items())


class _Settings(NamedTuple):
    rank: int
    beta: float
    assignment: Assignment
    gradient: Gradient
    reduction: Reduction


class _Tap(NamedTuple):
    """One tap of both networks, brought to k vectors a sample."""

    student: Tensor  # (B, k, D) f_S
    teacher: Tensor  # (B, k, D) f_T
    counts: Tensor  # (B, k) bool: this component is compared
    usable: Tensor  # (B,) bool: both maps have vectors
    health: Tensor  # (3, B) alignment, energy of student, energy of teacher


def _settings(
    rank: int, beta: float, assignment: Assignment | None, gradient: Gradient, reduction: Reduction
) -> _Settings:
    check_rank(rank)
    check_beta(beta)
    chosen: Assignment = assignment or ("argmax" if rank == 1 else "one_to_one")
    check_choice("assignment", chosen, ASSIGNMENTS)
    check_choice("gradient", gradient, GRADIENTS)
    check_choice("reduction", reduction, REDUCTIONS)
    return _Settings(rank, beta, chosen, gradient, reduction)


def _measure(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], settings: _Settings
) -> tuple[Tensor, dict[str, Tensor]]:
    pairs = pair_up(student_maps, teacher_maps, method="KD-SVD", least=2, equal_widths=True)
    taps = [_compare(channels_first(student), channels_first(teacher), settings) for student, teacher in pairs]
    usable = torch.stack([tap.usable for tap in taps]).all(0)
    counts = [tap.counts & usable[:, None] for tap in taps]
    weight = torch.stack([front & back for front, back in itertools.pairwise(counts)])
    total = rbf_distance([t.student for t in taps], [t.teacher for t in taps], beta=settings.beta, weight=weight)
    loss = total * (0.5 * math.sqrt(settings.rank))
    batch = len(usable)
    if settings.reduction == "mean":
        loss = loss / max(1, batch)
    with torch.no_grad():
        kept = usable.sum()
        mean = torch.stack([(tap.health * usable).sum(1) for tap in taps]).mean(0) / kept.clamp_min(1)
        names = ("alignment", "energy_student", "energy_teacher")
        health = dict(zip(names, mean.unbind(), strict=True))
        health["set_aside"] = batch - kept
    return loss, health


def _compare(student: Tensor, teacher: Tensor, settings: _Settings) -> _Tap:
    # shape: (B, D, N_S), (B, D, N_T)
    kept = min(settings.rank, student.shape[1], student.shape[2])
    with torch.no_grad():
        goal = decompose(teacher, kept)
        # A teacher's map of fewer positions has further vectors of weight 0, as one of lower rank has.
        targets = _pad(goal.rows, kept - goal.rows.shape[1])
        share = nn.functional.pad(goal.share, (0, kept - goal.rows.shape[1]))
        share = share / share.sum(1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
        weight = share.sqrt()[..., None]
    answer = decompose(
        student,
        settings.rank + 1,
        targets=targets,
        assign=partial(assign, assignment=settings.assignment),
        gradient=settings.gradient,
    )
    with torch.no_grad():
        # A vector that argmax took twice has its energy once.
        again = (torch.bmm(answer.rows, answer.rows.mT).abs() > 0.5).tril(-1).any(2)
        energy = (answer.share * ~again).sum(1)
        health = torch.stack(((share * answer.cosine).sum(1), energy, goal.share.sum(1)))
    missing = settings.rank - kept
    return _Tap(
        _pad(answer.rows * weight, missing),
        _pad(targets * weight, missing),
        nn.functional.pad(answer.defined, (0, missing)),
        goal.defined[:, 0] & answer.defined.any(1),
        health,
    )


def _pad(rows: Tensor, missing: int) -> Tensor:
    return nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows
