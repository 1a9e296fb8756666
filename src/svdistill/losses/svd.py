"""KD-SVD's transfer loss: the student learns how the teacher's singular vectors relate from tap to tap."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from svdistill.choices import (
    ASSIGNMENTS,
    BASES,
    BETA,
    GRADIENTS,
    REDUCTIONS,
    Assignment,
    Basis,
    Gradient,
    Reduction,
)
from svdistill.errors import OptionError, ShapeError
from svdistill.linalg.align import assign
from svdistill.linalg.gram import clean, powers_of_two
from svdistill.linalg.options import check_beta, check_choice, check_rank
from svdistill.linalg.precision import full_float32
from svdistill.linalg.rbf import rbf_distance
from svdistill.linalg.solvers import MAX_SQUARING_RANK
from svdistill.linalg.svd import decompose_all
from svdistill.losses.maps import (
    as_grid,
    average_pool,
    channels_first,
    match,
    number,
    numbered,
    pair_up,
    smaller,
    warn_of_layout,
    wide_dtype,
)
from svdistill.losses.options import check_switches
from svdistill.losses.protocol import Maps, Reads, TransferLoss


def svd_loss(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    *,
    rank: int = 1,
    beta: float = BETA,
    assignment: Assignment | None = None,
    gradient: Gradient = "exact",
    reduction: Reduction = "mean",
    extra: int = 1,
    scaled: bool = True,
    basis: Basis = "own",
) -> Tensor:
    """Compare how the leading singular vectors of neighbouring feature maps relate in student and teacher.

    ½ √k Σ_pairs Σ_{b, m, n, i} (DFV_S − DFV_T)² with DFV[m, n, i] = exp(−(f^F_i[m] − f^B_i[n])² / β) over neighbouring
    taps F and B, f_i = w_i v_i, w_i = σ_T,i / ‖σ_T,1..k‖. The student offers k + `extra` vectors; each teacher vector
    is answered by the one nearest to it, with its sign made to agree.

    A map of one position, such as the last hidden features, is a matrix of one row: its only vector is the feature
    itself, normalized.

    With `basis="teacher"` the student is not decomposed: v_S,i = M_Sᵀ u_T,i / ‖M_Sᵀ u_T,i‖, with u_T,i ∝ M_T v_T,i the
    teacher's left vector. Where H and W differ, the larger side is average-pooled, of the teacher the left vectors;
    sign and order are the teacher's. On fewer than k positions the student cannot answer all of them at once.

    A sample for which a tap of either network is all zero, or holds NaN or infinity, contributes nothing;
    `SVDLoss.compare` counts them. A component that the student's map has no vector for contributes nothing either; one
    that the teacher's map has no vector for has weight 0, and in the teacher's basis contributes nothing.

    Args:
        student_maps: L ≥ 2 feature maps in the order of the network, each (B, C, H, W), (B, N, D) or (B, D), floating.
        teacher_maps: as many, with the same widths (C or D) tap by tap; heights, widths and N may differ. Constant.
        rank: k ≥ 1, vectors kept of a map; fewer where a map has fewer positions or channels.
        beta: width of the radial basis function, > 0.
        assignment: "argmax" (as published; may take a student vector twice), "one_to_one", or None: argmax for
            rank 1 and one_to_one above.
        gradient: "exact" or "paper", see `svdistill.linalg.truncated_svd`.
        reduction: "sum" over the batch, as published, which relies on clipped gradients; or "mean": divided by B.
        extra: how many more vectors than the teacher's k the student offers, ≥ 0.
        scaled: False leaves out the factor ½ √k.
        basis: "own" or "teacher"; with "teacher", `assignment`, `gradient` and `extra` are not used.

    Returns:
        Scalar, float32 (float64 where the maps are), also under autocast.

    Raises:
        ShapeError: number of taps, shapes or widths do not fit.
        OptionError: an option is wrong.

    Source: Lee et al., ECCV 2018, equations 3 to 8.
    """
    settings = _settings(rank, beta, assignment, gradient, reduction, extra, scaled, basis)
    warn_of_layout(student_maps, teacher_maps)
    return _compare(student_maps, _extract(teacher_maps, student_maps, settings), settings)[0]


class TapGoal(NamedTuple):
    """What a tap of the teacher asks for; without gradient.

    Attributes:
        targets: (B, kept, D) right singular vectors v_T, kept = min(k, N, D) of the student's map, with
            ``basis="teacher"`` of the teacher's; zero where the teacher has fewer.
        sigma: (B, kept) σ_T / ‖M_T‖, zero where the teacher has fewer.
        left: (B, kept, h, w) left vectors u_T on the grid on which they meet the student's map; only with
            ``basis="teacher"``.
    """

    targets: Tensor
    sigma: Tensor
    left: Tensor | None = None

    @classmethod
    def of(cls, teachers: Sequence[Tensor], kept: Sequence[int]) -> list[Self]:
        """Decompose the teacher's maps."""
        # shape: (B, D, N) each
        goals = []
        for found, count in zip(decompose_all(teachers, kept), kept, strict=True):
            # A teacher's map of fewer positions has further vectors of weight 0, as one of lower rank has.
            missing = count - found.rows.shape[1]
            goals.append(cls(_pad(found.rows, missing), _widen(found.energy.sqrt(), missing)))
        return goals


class SVDLoss(nn.Module, TransferLoss[Maps, list[TapGoal]]):
    """`svd_loss` with stored settings; see there. Those of the published sources are `svdistill.recipes.PRESETS`.

    Its goal is a `TapGoal` for each tap: k·ΣD numbers an image and few more.
    """

    reads: ClassVar[Reads] = "maps"
    equal_widths: ClassVar[bool] = True
    least_taps: ClassVar[int] = 2
    precise: ClassVar[frozenset[str]] = frozenset({"sigma"})

    def __init__(
        self,
        rank: int = 1,
        beta: float = BETA,
        assignment: Assignment | None = None,
        gradient: Gradient = "exact",
        reduction: Reduction = "mean",
        *,
        extra: int = 1,
        scaled: bool = True,
        basis: Basis = "own",
    ) -> None:
        super().__init__()
        self.settings = _settings(rank, beta, assignment, gradient, reduction, extra, scaled, basis)

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Return the loss, see `svd_loss`."""
        return self.measure(student_maps, teacher_maps)[0]

    @property
    def sums(self) -> bool:
        """Whether the loss is a sum over the batch, not a mean."""
        return self.settings.reduction == "sum"

    @property
    def waits(self) -> str | None:
        """Why its steps must wait for the host: matrix products alone find few vectors only."""
        own = self.settings.basis == "own"
        vectors = self.settings.rank + (self.settings.extra if own else 0)
        if vectors <= MAX_SQUARING_RANK:
            return None
        extra = f" with {self.settings.extra} extra vectors" if own else ""
        return (
            f"rank {self.settings.rank}{extra} needs a decomposition by cuSOLVER; products alone find "
            f"{MAX_SQUARING_RANK} vectors"
        )

    @property
    def waits_stored(self) -> str | None:
        """The same where its goals are stored: in the teacher's basis nothing is decomposed then."""
        return self.waits if self.settings.basis == "own" else None

    @property
    def extracts(self) -> dict[str, int | float | str]:
        """The settings that decide what `extract` gives."""
        return {"rank": self.settings.rank, "basis": self.settings.basis}

    def extract(self, teacher: Maps, student: Maps) -> list[TapGoal]:
        """Return the teacher's vectors.

        Args:
            teacher: maps, as in `svd_loss`.
            student: maps, as in `svd_loss`; only their shapes and types matter.

        Returns:
            For each tap what the teacher asks for there.

        Raises:
            ShapeError: see `svd_loss`.
        """
        return _extract(teacher, student, self.settings)

    def compare(self, student: Maps, goal: Sequence[TapGoal]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and what tells whether the transfer works.

        Args:
            student: maps, as in `svd_loss`.
            goal: what `extract` returned for the same images, of float32 or wider.

        Returns:
            The loss, and scalars without gradient: `alignment`, the mean |cosine| between a teacher's vector and the
            student's answer, weighted by w²; `energy_student` and `energy_teacher`, the mean fraction of a map's energy
            ‖M‖² in the vectors that are compared; `set_aside`, the number of samples that contributed nothing.

        Raises:
            ShapeError: it is not of these taps, images, widths or settings.
        """
        return _compare(student, goal, self.settings)

    def pack(self, goal: Sequence[TapGoal]) -> dict[str, Tensor]:
        """Name the right vectors ``v0``, ``v1`` and so on, the left ones, where there are any, ``left0`` and so on.

        ``sigma`` (B, taps, k) holds the singular values of all taps, 0 where there is no vector.
        """
        left = [one.left for one in goal if one.left is not None]
        rank = self.settings.rank
        sigma = [nn.functional.pad(one.sigma, (0, rank - one.sigma.shape[1])) for one in goal]
        return {
            **number("v", [one.targets for one in goal]),
            **number("left", left),
            "sigma": torch.stack(sigma, 1),
        }

    def unpack(self, stored: Mapping[str, Tensor]) -> list[TapGoal]:
        """Return the goal that `pack` was given; ShapeError where a part of it is lacking, or it is of another rank."""
        targets = numbered(stored, "v")
        if "sigma" not in stored:
            raise ShapeError(f"what is stored of the teacher ({', '.join(stored)}) lacks sigma; store it again")
        if (rank := stored["sigma"].shape[2]) != self.settings.rank:
            raise ShapeError(
                f"what is stored of the teacher is of rank {rank}, the loss of rank {self.settings.rank}; store it "
                "again, or take the loss that it was stored for"
            )
        return [
            TapGoal(vectors, stored["sigma"][:, tap, : vectors.shape[1]], stored.get(f"left{tap}"))
            for tap, vectors in enumerate(targets)
        ]

    def extra_repr(self) -> str:
        """Show the settings in the module's representation."""
        return ", ".join(f"{key}={value!r}" for key, value in self.settings._asdict().items())


class _Settings(NamedTuple):
    rank: int
    beta: float
    assignment: Assignment
    gradient: Gradient
    reduction: Reduction
    extra: int
    scaled: bool
    basis: Basis


class _Answer(NamedTuple):
    """What a tap of the student answers to the teacher's vectors, of which there may be fewer than k."""

    rows: Tensor  # (B, kept, D) v_S
    defined: Tensor  # (B, kept) bool: there is such a vector
    cosine: Tensor  # (B, kept) |cosine| with the teacher's
    energy: Tensor  # (B, kept) fraction of the map's energy


def _settings(
    rank: int,
    beta: float,
    assignment: Assignment | None,
    gradient: Gradient,
    reduction: Reduction,
    extra: int,
    scaled: bool,
    basis: Basis,
) -> _Settings:
    check_rank(rank)
    check_beta(beta)
    chosen: Assignment = assignment or ("argmax" if rank == 1 else "one_to_one")
    check_choice("assignment", chosen, ASSIGNMENTS)
    check_choice("gradient", gradient, GRADIENTS)
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("basis", basis, BASES)
    check_switches(scaled=scaled)
    if isinstance(extra, bool) or not isinstance(extra, int) or extra < 0:
        raise OptionError(f"extra must be an integer of at least 0, got {extra!r}")
    return _Settings(rank, beta, chosen, gradient, reduction, extra, bool(scaled), basis)


@torch.no_grad()
def _extract(teacher_maps: Maps, student_maps: Maps, settings: _Settings) -> list[TapGoal]:
    pairs = pair_up(student_maps, teacher_maps, method="KD-SVD", least=2, equal_widths=True)
    if settings.basis == "teacher":
        return _look_both_sides(pairs, settings.rank)
    # As many vectors as the student's map can answer.
    kept = [min(settings.rank, *channels_first(student).shape[1:]) for student, _ in pairs]
    return TapGoal.of([channels_first(teacher) for _, teacher in pairs], kept)


def _look_both_sides(pairs: Sequence[tuple[Tensor, Tensor]], rank: int) -> list[TapGoal]:
    """Decompose the teacher's maps and bring their left vectors to the size at which the student's are projected."""
    with full_float32(pairs[0][1].device):
        grids = [as_grid(teacher, student).to(wide_dtype(student)) for student, teacher in pairs]
        maps = [_tamed(grid.flatten(2)) for grid in grids]
        goals = TapGoal.of(maps, [min(rank, *y.shape[1:]) for y in maps])
        found = []
        for goal, y, grid, (student, teacher) in zip(goals, maps, grids, pairs, strict=True):
            left = torch.bmm(goal.targets, y).unflatten(2, grid.shape[2:])
            left = average_pool(left, smaller(as_grid(student, teacher), grid))
            unit = nn.functional.normalize(left.flatten(2), dim=2, eps=torch.finfo(left.dtype).tiny)
            found.append(goal._replace(left=unit.reshape(left.shape)))
        return found


def _compare(student_maps: Maps, goals: Sequence[TapGoal], settings: _Settings) -> tuple[Tensor, dict[str, Tensor]]:
    targets = [goal.targets for goal in goals]
    match(student_maps, targets, method="KD-SVD", widths=[one.shape[2] for one in targets])
    answers = _own(student_maps, goals, settings) if settings.basis == "own" else _projected(student_maps, goals)
    missing = [settings.rank - one.rows.shape[1] for one in answers]
    sigma = torch.stack([_widen(goal.sigma, lacks) for goal, lacks in zip(goals, missing, strict=True)])
    weight = sigma / sigma.norm(dim=2, keepdim=True).clamp_min(torch.finfo(sigma.dtype).tiny)  # (taps, B, k)
    defined = torch.stack([_widen(one.defined, lacks) for one, lacks in zip(answers, missing, strict=True)])
    usable = ((sigma[..., 0] > 0) & defined.any(2)).all(0)
    counts = defined & usable[:, None]
    student, teacher = (
        [_pad(rows, lacks) * w[..., None] for rows, lacks, w in zip(side, missing, weight, strict=True)]
        for side in ([one.rows for one in answers], targets)
    )
    total = rbf_distance(student, teacher, beta=settings.beta, weight=counts[:-1] & counts[1:], limit=1.0)
    loss = total * (0.5 * math.sqrt(settings.rank) if settings.scaled else 1.0)
    batch = len(usable)
    if settings.reduction == "mean":
        loss = loss / max(1, batch)
    with torch.no_grad():
        cosine, energy = (
            torch.stack([_widen(one, lacks) for one, lacks in zip(figures, missing, strict=True)])
            for figures in ([one.cosine for one in answers], [one.energy for one in answers])
        )
        # Projections overlap where their vectors were pooled, so their fractions may add up to more than the whole.
        figures = torch.stack((weight.square() * cosine, energy, sigma.square())).sum(3).clamp_max(1)
        return loss, _health(figures, usable)


def _health(figures: Tensor, usable: Tensor) -> dict[str, Tensor]:
    """Average (3, taps, B) over the taps and over the samples that can be used (B,)."""
    kept = usable.sum()
    mean = (figures * usable).sum(2).mean(1) / kept.clamp_min(1)
    names = ("alignment", "energy_student", "energy_teacher")
    return {**dict(zip(names, mean.unbind(), strict=True)), "set_aside": len(usable) - kept}


def _own(student_maps: Maps, goals: Sequence[TapGoal], settings: _Settings) -> list[_Answer]:
    """The student's own vectors answer the teacher's."""
    found = decompose_all(
        [channels_first(student) for student in student_maps],
        [settings.rank + settings.extra] * len(goals),
        targets=[goal.targets for goal in goals],
        assign=partial(assign, assignment=settings.assignment),
        gradient=settings.gradient,
    )
    return [_Answer(one.rows, one.defined, one.cosine, _once(one.rows.detach(), one.energy)) for one in found]


def _once(rows: Tensor, energy: Tensor) -> Tensor:
    """Leave the energy (B, k) of a vector that argmax took twice once."""
    if rows.shape[1] == 1:
        return energy
    with full_float32(rows.device):
        again = (torch.bmm(rows, rows.mT).abs() > 0.5).tril(-1).any(2)
    return energy * ~again


def _projected(student_maps: Maps, goals: Sequence[TapGoal]) -> list[_Answer]:
    answers = []
    for student, goal in zip(student_maps, goals, strict=True):
        if goal.left is None:
            raise ShapeError(
                "the teacher's goal was not extracted with basis='teacher'; extract it with the same settings"
            )
        answers.append(_project(student, goal.targets, goal.left))
    return answers


def _project(student: Tensor, targets: Tensor, left: Tensor) -> _Answer:
    """The student's map, projected on the teacher's left vectors, answers the teacher's right ones."""
    grid, dtype = as_grid(student, left), wide_dtype(student)
    with full_float32(student.device):
        x = _tamed(average_pool(grid.to(dtype), (left.shape[2], left.shape[3])).flatten(2))
        image = torch.bmm(left.flatten(2).to(dtype), x.mT)  # (B, k, D)
        energy, whole = image.square().sum(2), x.detach().square().sum((1, 2))[:, None]
        defined = energy.detach() > (25 * torch.finfo(dtype).eps) ** 2 * whole
        rows = image * torch.where(defined, energy, 1.0).rsqrt()[..., None] * defined[..., None]
    with torch.no_grad():
        cosine = (rows * targets).sum(2).abs()
        return _Answer(rows, defined, cosine, energy.detach() / torch.where(whole > 0, whole, 1.0))


def _tamed(x: Tensor) -> Tensor:
    """Bring each sample of (B, D, N) to a largest magnitude of 1 to 2 where that matters, and a broken one to zero.

    Directions do not depend on the scale, so it is taken as constant and their derivative stays exact.
    """
    # On a GPU a look at the data would keep the host waiting; there only the health tells how many were set aside.
    looks = x.device.type == "cpu"
    factor, usable = powers_of_two(x.detach(), warns=looks, what="maps")
    if looks and bool((usable & (factor > 2**-20) & (factor < 2**20)).all()):
        return x  # no square of these leaves the number format, so a power of two would change no digit
    return clean(x, factor, usable)


def _widen(numbers: Tensor, missing: int) -> Tensor:
    return nn.functional.pad(numbers, (0, missing)) if missing else numbers


def _pad(rows: Tensor, missing: int) -> Tensor:
    return nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows
