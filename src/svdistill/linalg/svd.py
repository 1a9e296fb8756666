"""Truncated SVD of a batch of small matrices, with a derivative that is exact and never infinite.

Letters: M is N x D with N positions and D channels, X = Mᵀ (D x N, the way NCHW lies in memory), M = U Σ Vᵀ, K is the
Gram matrix on the smaller side, divided by its trace t, m = min(N, D) its size, λ = σ² / t its eigenvalues, and
k ≤ p ≤ m the number of vectors that are kept of those that are computed. Vectors are rows: (B, k, D).
"""

import math
from collections.abc import Callable, Sequence
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
    arranged,
    cleaned,
    cosines,
    is_wide,
    multiply,
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
            "squaring" (Gram matrix, rank ≤ 8, by products alone, so that a GPU never waits; a vector counts as found
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
    wanted = None if targets is None else [targets]
    return decompose_all([x], [rank], targets=wanted, assign=assign, gradient=gradient, solver=solver)[0]


def decompose_all(
    xs: Sequence[Tensor],
    ranks: Sequence[int],
    *,
    targets: Sequence[Tensor] | None = None,
    assign: Callable[[Tensor], Tensor] | None = None,
    gradient: Gradient = "exact",
    solver: Solver = "auto",
) -> list[Decomposition]:
    """Do what `decompose` does for several taps; by products alone, and so on a GPU, all at once.

    Args:
        xs: (B, D, N) of each tap, of one batch.
        ranks: number of vectors or candidates of each.
        targets: (B, k, D) of each, or None.
        assign: as in `decompose`; it may be given the inner products of all taps in one batch.
        gradient: as in `truncated_svd`.
        solver: as in `truncated_svd`.

    Returns:
        A decomposition for each tap.

    Raises:
        ShapeError: see `decompose`.
        OptionError: see `decompose`.
    """
    wanted: Sequence[Tensor | None] = [None] * len(xs) if targets is None else targets
    asked = []
    for x, rank, target in zip(xs, ranks, wanted, strict=True):
        _check(x, rank, gradient, solver)
        _check_targets(x, target, assign)
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        count = min(rank, *x.shape[1:])
        chosen = solvers.choose_solver(min(x.shape[1:]), count, dtype, x.device) if solver == "auto" else solver
        asked.append(_Asked(x, dtype, count, target, chosen))
    if not asked or not all(one.batches_with(asked[0]) for one in asked):
        return [_found([one], assign, gradient)[0] for one in asked]
    order = arranged(xs)
    found = dict(zip(order, _found([asked[tap] for tap in order], assign, gradient), strict=True))
    return [found[tap] for tap in range(len(xs))]


@dataclass(frozen=True)
class _Asked:
    """What is asked of one tap."""

    x: Tensor
    dtype: torch.dtype
    rank: int
    targets: Tensor | None
    solver: Solver

    @property
    def kept(self) -> int:
        """How many vectors the caller keeps."""
        return self.rank if self.targets is None else self.targets.shape[1]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to decompose."""
        return 0 in self.x.shape or self.rank == 0

    def batches_with(self, other: "_Asked") -> bool:
        """Whether both can be parts of one batch."""
        alike = (self.dtype, self.solver, len(self.x)) == (other.dtype, "squaring", len(other.x))
        return alike and not self.empty


@dataclass(frozen=True)
class _Plan:
    """What is asked of the taps together."""

    rank: int
    kept: tuple[int, ...]
    targets: Tensor | None  # (S, k, D)
    assign: Callable[[Tensor], Tensor] | None
    gradient: Gradient
    solver: Solver

    @property
    def most(self) -> int:
        """How many vectors a tap keeps at most."""
        return max(self.kept)


def _found(
    asked: Sequence[_Asked], assign: Callable[[Tensor], Tensor] | None, gradient: Gradient
) -> list[Decomposition]:
    with full_float32(asked[0].x.device):
        xs = [one.x.to(one.dtype) for one in asked]
        if asked[0].empty:
            return [_empty(xs[0], asked[0].kept)]
        targets = [one.targets.to(one.dtype) for one in asked if one.targets is not None]
        goal = _stacked(targets) if targets else None
        kept = tuple(one.kept for one in asked)
        plan = _Plan(max(one.rank for one in asked), kept, goal, assign, gradient, asked[0].solver)
        parts = cast(tuple[Tensor, ...], _Decompose.apply(plan, *xs))
    return [Decomposition(*parts[tap :: len(xs)]) for tap in range(len(xs))]


class _Decompose(torch.autograd.Function):
    """The decompositions and their derivative; only vectors that were picked carry gradient."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, *xs: Tensor) -> tuple[Tensor, ...]:
        waits, targets, index, image = plan.solver != "squaring", plan.targets, None, None
        scaled = scale(xs, waits=waits)
        probe = None if targets is None else to_smaller_side(scaled, targets)
        pairs = _solve(scaled, plan, probe)
        if plan.most > 1 and xs[0].dtype == torch.float32:
            pairs, image = polish(scaled, pairs, max(plan.rank, plan.most + 1), waits=waits)
        values, rows = pairs.values[:, : plan.rank], pairs.rows[:, : plan.rank]
        image = None if image is None else image[:, : plan.rank]
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
        if any(ctx.needs_input_grad[1:]):
            small = rows * sign[..., None]
            if index is None:
                index = torch.arange(plan.rank, device=right.device).expand(len(right), -1)
            # The inputs, which the network keeps anyway: scaled copies are made again when their turn comes.
            scales = (scaled.norm, scaled.inverse_norm, scaled.factor, scaled.usable)
            ctx.save_for_backward(*xs, *scaled.grams, *scales, pairs.values, pairs.rows, small, right, index, defined)
            ctx.complete, ctx.plan = pairs.complete, plan
            ctx.taps, ctx.grams = len(xs), len(scaled.grams)
        outputs = tuple(_by_tap(one, xs, plan.kept) for one in (singular, right, defined, energy, cosine))
        ctx.mark_non_differentiable(*outputs[2], *outputs[3], *outputs[4])
        ctx.set_materialize_grads(False)
        return tuple(part for one in outputs for part in one)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        taps, plan = ctx.taps, cast(_Plan, ctx.plan)
        g_values, g_rows = grads[:taps], grads[taps : 2 * taps]
        if all(one is None for one in (*g_values, *g_rows)):
            return tuple([None] * len(ctx.needs_input_grad))
        first = taps + ctx.grams
        xs, grams = ctx.saved_tensors[:taps], ctx.saved_tensors[taps:first]
        norm, inverse, factor, usable, values, rows, small, right, index, defined = ctx.saved_tensors[first:]
        state = Saved(
            Scaled(xs if factor is None else cleaned(xs, factor, usable), grams, norm, inverse, factor, usable),
            Eigenpairs(values, rows, ctx.complete),
            plan.solver,
            plan.rank,
            small,
            right,
            index,
            defined,
        )
        with full_float32(right.device):
            change = paper_gradient if plan.gradient == "paper" else exact_gradient
            along = _together(g_values, small[..., 0]) if any(g is not None for g in g_values) else None
            return None, *change(state, _together(g_rows, right), along)


def _stacked(targets: Sequence[Tensor]) -> Tensor:
    """Put the targets of the taps behind one another, as (S, k, D) with the largest k and D."""
    if len(targets) == 1:
        return targets[0]
    first, (count, width) = targets[0], (max(one.shape[dim] for one in targets) for dim in (1, 2))
    like = first.new_empty(len(targets) * len(first), count, width)
    return _together(targets, like)


def _by_tap(stack: Tensor, xs: Sequence[Tensor], kept: Sequence[int]) -> list[Tensor]:
    """Take (S, k) or (S, k, D) apart."""
    pieces = stack.split(len(xs[0]))
    if stack.dim() == 3:
        pieces = tuple(piece[..., : x.shape[1]] for piece, x in zip(pieces, xs, strict=True))
    return [piece[:, :count] for piece, count in zip(pieces, kept, strict=True)]


def _together(grads: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """Put gradients of the taps behind one another, as (S, k) or (S, k, D) as `like` is; None is zero."""
    if len(grads) == 1 and grads[0] is not None:
        return grads[0].to(like.dtype)
    out = torch.zeros_like(like)
    for part, grad in zip(out.split(len(like) // len(grads)), grads, strict=True):
        if grad is not None and grad.dim() == 3:
            part[:, : grad.shape[1], : grad.shape[2]] = grad
        elif grad is not None:
            part[:, : grad.shape[1]] = grad
    return out


def _solve(scaled: Scaled, plan: _Plan, probe: Tensor | None) -> Eigenpairs:
    if plan.solver == "squaring":
        found = [solvers.squaring(gram, plan.rank) for gram in scaled.grams]
        values = torch.cat([one.values for one in found])
        return Eigenpairs(values, scaled.joined([one.rows for one in found]), complete=False)
    (x,), (gram,) = scaled.xs, scaled.grams
    if plan.solver == "lapack":
        return solvers.lapack((x.mT if is_wide(x) else x) * scaled.inverse_norm)
    if plan.solver == "eigh":
        return solvers.eigh(gram)
    if probe is None or plan.assign is None or plan.gradient == "paper":  # which uses all candidates
        return solvers.subspace(gram, plan.rank)
    assign = plan.assign
    return solvers.subspace(gram, plan.rank, used=lambda values, rows: assign(cosines(scaled, values, rows, probe)))


def _canonical(scaled: Scaled, values: Tensor, rows: Tensor, right: Tensor, image: Tensor | None) -> Tensor:
    """Canonical signs; the inner product with the mean feature, in units of ‖x‖ / √N, is σ Σ u or v · mean."""
    narrow = scaled.of(slice(scaled.narrow))
    lean = values.sqrt() * rows.sum(2)
    if image is not None:
        lean[narrow] = image[narrow].sum(2)
    elif scaled.narrow:
        sums = [x.sum(2, keepdim=True) for x in scaled.xs[: scaled.narrow]]
        lean[narrow] = (multiply(right[narrow], sums) * scaled.inverse_norm[narrow])[..., 0]
    parts = lean.split(len(scaled.xs[0]))
    for part, x in zip(parts, scaled.xs, strict=True):
        part /= x.shape[2] ** 0.5
    return canonical_signs(right, lean, torch.ones_like(values))


def _empty(x: Tensor, kept: int) -> Decomposition:
    """The decomposition of no matrices at all, still part of the graph."""
    nothing = x.new_zeros(x.shape[0], kept)
    rows = x.new_zeros(x.shape[0], kept, x.shape[1]) + x.sum() * 0
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
