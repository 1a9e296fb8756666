"""Truncated SVD of a batch of small matrices, with a derivative that is exact and never infinite.

Letters: M is N x D with N positions and D channels, X = Mᵀ (D x N, the way NCHW lies in memory), M = U Σ Vᵀ, K is the
Gram matrix on the smaller side, divided by its trace t, m = min(N, D) its size, λ = σ² / t its eigenvalues, and
k ≤ p ≤ m the number of vectors that are kept of those that are computed. Vectors are rows: (B, k, D).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from svdistill.choices import GRADIENTS, Gradient
from svdistill.errors import OptionError, ShapeError
from svdistill.linalg import solvers
from svdistill.linalg.align import aligning_signs, canonical_signs
from svdistill.linalg.gram import (
    Scaled,
    clean,
    cosines,
    polish,
    right_vectors,
    rounding,
    scale,
    take,
    to_smaller_side,
)
from svdistill.linalg.options import check_choice, check_rank
from svdistill.linalg.precision import full_float32
from svdistill.linalg.solvers import SOLVERS, Eigenpairs, Solver
from svdistill.linalg.svd_backward import Saved, exact_gradient, paper_gradient, refuse_second_derivative


class Decomposition(NamedTuple):
    """Leading singular vectors of a batch of matrices, as rows.

    Attributes:
        values: (B, k) singular values σ, descending unless targets chose another order.
        rows: (B, k, D) right singular vectors v, unit length; zero where a matrix has no such vector.
        defined: (B, k) bool, false where a matrix is zero, not finite, or of lower rank.
        energy: (B, k) fraction of the matrix's energy ‖M‖² that lies along the vector, σ² / ‖M‖².
        cosine: (B, k) inner product with the target that the vector answers, ≥ 0; 1 without targets.
    """

    values: Tensor
    rows: Tensor
    defined: Tensor
    energy: Tensor
    cosine: Tensor


def truncated_svd(
    m: Tensor, rank: int, *, gradient: Gradient = "exact", solver: Solver = "auto"
) -> tuple[Tensor, Tensor]:
    """Compute the leading singular values and right singular vectors of a batch of matrices.

    Vectors are oriented canonically: positive inner product with the mean row of the matrix, and where that is zero to
    rounding, the entry of largest magnitude positive. A matrix that is zero, or holds NaN or infinity, gets s = 0,
    v = 0 and gradient 0, and so does every vector beyond a matrix's rank. On a CPU a `SvdistillWarning` tells of NaN
    and infinity; with "squaring", and so on a GPU, there is none, since it would have to wait for the data.
    Nearly equal singular values have a bounded gradient: 1/d becomes d³ / (d⁴ + δ⁴), d the difference of two λ and
    δ = 84 eps λ₁.

    Args:
        m: (*batch, N, D), floating point; computed in float32, or in float64 where m is float64, also under autocast.
        rank: number of vectors, at least 1.
        gradient: "exact", the derivative of the leading vectors including what lies outside them, or "paper", the
            published rearrangement, which keeps the part inside them.
        solver: "lapack" (full SVD), "eigh" (Gram matrix, complete), "subspace" (Gram matrix, block iteration),
            "squaring" (Gram matrix, rank ≤ 5, by products alone, so that a GPU never waits; a vector counts as found
            where the next λ is at most 0.998 of its own) or "auto": on a CPU the faster of "eigh" and "subspace" for
            this shape, elsewhere "squaring" where the rank allows it.

    Returns:
        s (*batch, k) and v (*batch, D, k), k = min(rank, N, D), s descending, v with orthonormal columns.

    Raises:
        ShapeError: m is not a batch of floating point matrices.
        OptionError: the rank is below 1, or the gradient or solver is unknown or does not fit the rank.

    Source: Lee et al., ECCV 2018, section 3.1; derivative of eigenvectors: dv = (λ − K)⁺ dK v.
    """
    if not isinstance(m, Tensor) or m.dim() < 2 or not m.is_floating_point():
        raise ShapeError(f"m must be a floating point tensor (*batch, N, D), got {_describe(m)}")
    *batch, positions, channels = m.shape
    flat = m.reshape(math.prod(batch), positions, channels)
    found = decompose(flat.mT, rank, gradient=gradient, solver=solver)
    kept = found.rows.shape[1]
    return found.values.reshape(*batch, kept), found.rows.reshape(*batch, kept, channels).mT


def decompose(
    x: Tensor,
    rank: int,
    *,
    targets: Tensor | None = None,
    assign: Callable[[Tensor], Tensor] | None = None,
    gradient: Gradient = "exact",
    solver: Solver = "auto",
) -> Decomposition:
    """Compute leading right singular vectors of M = Xᵀ, and optionally only those that answer given targets.

    With targets, `rank` candidates are looked at, `assign` picks one for each target, and its sign is made to agree.
    Candidates that are not picked are never polished nor differentiated, which is most of the speed of the loss.

    Args:
        x: (B, D, N), any strides; (B, C, H·W) feature maps as they lie in memory need no copy.
        rank: number of vectors or candidates, at least 1; cut to min(N, D).
        targets: (B, k, D) unit vectors without gradient, or None.
        assign: inner products (B, p, k) to indices (B, k); needed with targets.
        gradient: as in `truncated_svd`.
        solver: as in `truncated_svd`.

    Returns:
        The decomposition; gradient flows through `values` and `rows`.

    Raises:
        ShapeError: x or the targets have the wrong shape.
        OptionError: a wrong option, see `truncated_svd`, or targets without `assign`.
    """
    _check(x, rank, gradient, solver)
    _check_targets(x, targets, assign)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    plan = _Plan(min(rank, *x.shape[1:]), targets, assign, gradient, solver)
    with full_float32(x.device):
        if 0 in x.shape or plan.rank == 0:
            return _empty(x.to(dtype), plan)
        return Decomposition(*cast(tuple[Tensor, ...], _Decompose.apply(x.to(dtype), plan)))


@dataclass(frozen=True)
class _Plan:
    """What is asked of a decomposition."""

    rank: int
    targets: Tensor | None
    assign: Callable[[Tensor], Tensor] | None
    gradient: Gradient
    solver: Solver

    @property
    def kept(self) -> int:
        """How many vectors the caller keeps."""
        return self.rank if self.targets is None else self.targets.shape[1]


class _Decompose(torch.autograd.Function):
    """The decomposition and its derivative; only vectors that were picked carry gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: _Plan) -> tuple[Tensor, ...]:
        solver = _choose(plan, x)
        scaled = scale(x, waits=solver != "squaring")
        targets = None if plan.targets is None else plan.targets.to(x.dtype)
        probe = None if targets is None else to_smaller_side(scaled, targets)
        pairs = _solve(scaled, plan, solver, probe)
        image = None
        if plan.kept > 1 and x.dtype == torch.float32:
            pairs, image = polish(scaled, pairs, max(plan.rank, plan.kept + 1), waits=solver != "squaring")
        values, rows = pairs.values[:, : plan.rank], pairs.rows[:, : plan.rank]
        image = None if image is None else image[:, : plan.rank]
        index = None
        if probe is not None:
            assert plan.assign is not None, "targets need an assignment"
            index = plan.assign(cosines(scaled, values, rows, probe))
            values, rows = values.gather(1, index), take(rows, index)
            image = None if image is None else take(image, index)
        defined = (values > rounding(pairs.values)) & scaled.usable[:, None]
        right = right_vectors(scaled, rows, image) * defined[..., None]
        if targets is None:
            sign, cosine = _canonical(scaled, values, rows, right, image), torch.ones_like(values)
        else:
            product = (right * targets).sum(2)
            sign, cosine = aligning_signs(product), product.abs()
        right = right * sign[..., None]
        energy = torch.where(defined, values, torch.zeros_like(values))
        singular = torch.where(defined, values.sqrt() * scaled.unit[:, None], torch.zeros_like(values))
        if ctx.needs_input_grad[0]:
            small = rows * sign[..., None]
            index = torch.arange(plan.rank, device=x.device).expand(len(x), -1) if index is None else index
            # The input, which the network keeps anyway: a scaled copy is made again when its turn comes.
            ctx.save_for_backward(
                x, scaled.gram, scaled.norm, scaled.factor, scaled.usable, *pairs[:2], small, right, index, defined
            )
            ctx.complete, ctx.solver = pairs.complete, solver
            ctx.gradient, ctx.rank = plan.gradient, plan.rank
        ctx.mark_non_differentiable(defined, energy, cosine)
        ctx.set_materialize_grads(False)
        return singular, right, defined, energy, cosine

    @staticmethod
    def backward(
        ctx: Any, g_values: Tensor | None, g_rows: Tensor | None, *_: Tensor | None
    ) -> tuple[Tensor | None, None]:
        refuse_second_derivative()
        x, gram, norm, factor, usable, values, rows, small, right, index, defined = ctx.saved_tensors
        if g_rows is None and g_values is None:
            return None, None
        state = Saved(
            Scaled(x if factor is None else clean(x, factor, usable), gram, norm, factor, usable),
            Eigenpairs(values, rows, ctx.complete),
            ctx.solver,
            ctx.rank,
            small,
            right,
            index,
            defined,
        )
        g_rows = torch.zeros_like(right) if g_rows is None else g_rows
        with full_float32(x.device):
            change = paper_gradient if ctx.gradient == "paper" else exact_gradient
            return change(state, g_rows.to(x.dtype), g_values), None


def _choose(plan: _Plan, x: Tensor) -> Solver:
    if plan.solver == "auto":
        return solvers.choose_solver(min(x.shape[1:]), plan.rank, x.dtype, x.device)
    return plan.solver


def _solve(scaled: Scaled, plan: _Plan, solver: Solver, probe: Tensor | None) -> Eigenpairs:
    if solver == "lapack":
        return solvers.lapack((scaled.x.mT if scaled.wide else scaled.x) * scaled.inverse_norm)
    if solver == "eigh":
        return solvers.eigh(scaled.gram)
    if solver == "squaring":
        return solvers.squaring(scaled.gram, plan.rank)
    if probe is None or plan.assign is None or plan.gradient == "paper":  # which uses all candidates
        return solvers.subspace(scaled.gram, plan.rank)
    assign = plan.assign
    return solvers.subspace(
        scaled.gram, plan.rank, used=lambda values, rows: assign(cosines(scaled, values, rows, probe))
    )


def _canonical(scaled: Scaled, values: Tensor, rows: Tensor, right: Tensor, image: Tensor | None) -> Tensor:
    """Canonical signs; the inner product with the mean feature, in units of ‖x‖ / √N, is σ Σ u or v · mean."""
    positions = scaled.x.shape[2]
    if scaled.wide:
        lean = values.sqrt() * rows.sum(2) / positions**0.5
    elif image is not None:
        lean = image.sum(2) / positions**0.5
    else:
        mean = scaled.x.mean(2, keepdim=True) * scaled.inverse_norm
        lean = torch.bmm(right, mean)[..., 0] * positions**0.5
    return canonical_signs(right, lean, torch.ones_like(values))


def _empty(x: Tensor, plan: _Plan) -> Decomposition:
    """The decomposition of no matrices at all, still part of the graph."""
    nothing = x.new_zeros(x.shape[0], plan.kept)
    rows = x.new_zeros(x.shape[0], plan.kept, x.shape[1]) + x.sum() * 0
    return Decomposition(nothing + x.sum() * 0, rows, nothing.bool(), nothing, nothing)


def _check(x: Tensor, rank: int, gradient: str, solver: str) -> None:
    if not isinstance(x, Tensor) or x.dim() != 3 or not x.is_floating_point():
        raise ShapeError(f"x must be floating point (B, D, N), got {_describe(x)}")
    check_rank(rank)
    check_choice("gradient", gradient, GRADIENTS)
    check_choice("solver", solver, SOLVERS)


def _check_targets(x: Tensor, targets: Tensor | None, assign: Callable[[Tensor], Tensor] | None) -> None:
    if targets is None:
        return
    if assign is None:
        raise OptionError("targets came without assign, which says which vector answers which target")
    batch, channels, _ = x.shape
    if targets.dim() != 3 or (targets.shape[0], targets.shape[2]) != (batch, channels):
        raise ShapeError(f"targets must be ({batch}, k, {channels}) for x {tuple(x.shape)}, got {_describe(targets)}")


def _describe(value: object) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
