"""Truncated SVD of a batch of small matrices, with a derivative that is exact and never infinite.

Letters: M is N x D with N positions and D channels, X = Mᵀ (D x N, the way NCHW lies in memory), M = U Σ Vᵀ, K is the
Gram matrix on the smaller side, divided by its trace t, m = min(N, D) its size, λ = σ² / t its eigenvalues, and
k ≤ p ≤ m the number of vectors that are kept of those that are computed. Vectors are rows: (B, k, D).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast
from warnings import warn

import torch
from torch import Tensor

from svdistill.errors import ShapeError, SvdistillWarning
from svdistill.linalg import solvers
from svdistill.linalg.align import aligning_signs, canonical_signs
from svdistill.linalg.derivatives import refuse_second_derivative
from svdistill.linalg.options import check_choice, check_rank
from svdistill.linalg.precision import full_float32
from svdistill.linalg.solvers import SOLVERS, Eigenpairs, Solver
from svdistill.linalg.squaring import resolvent, separate

Gradient = Literal["exact", "paper"]
GRADIENTS: tuple[Gradient, ...] = ("exact", "paper")
MAX_CG_STEPS = 30


class Decomposition(NamedTuple):
    """Leading singular vectors of a batch of matrices, as rows.

    Attributes:
        values: (B, k) singular values σ, descending unless targets chose another order.
        rows: (B, k, D) right singular vectors v, unit length; zero where a matrix has no such vector.
        defined: (B, k) bool, false where a matrix is zero, not finite, or of lower rank.
        share: (B, k) share of the matrix's energy, σ² / ‖M‖².
        cosine: (B, k) inner product with the target that the vector answers, ≥ 0; 1 without targets.
    """

    values: Tensor
    rows: Tensor
    defined: Tensor
    share: Tensor
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
        ShapeError: m is no batch of floating point matrices, or an option is unknown.

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
        ShapeError: wrong shape or option.
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
        """How many vectors the caller goes on with."""
        return self.rank if self.targets is None else self.targets.shape[1]


class _Scaled(NamedTuple):
    """Matrices whose Gram matrices fit into the number format, and those Gram matrices with trace 1."""

    x: Tensor  # (B, D, N), a scaled and cleaned copy where one may be necessary
    gram: Tensor  # (B, m, m), trace 1 or all zero
    norm: Tensor  # (B,) ‖x‖, 0 where the sample is set aside
    factor: Tensor | None  # (B,) x = factor * input; None: 1
    usable: Tensor  # (B,) bool

    @property
    def wide(self) -> bool:
        """Whether N < D, so that the Gram matrix is over positions and v = Xu / ‖Xu‖."""
        return self.x.shape[2] < self.x.shape[1]

    @property
    def inverse_norm(self) -> Tensor:
        """1 / ‖x‖ as (B, 1, 1), 0 where the sample is set aside."""
        return torch.where(self.usable, 1 / self.norm, torch.zeros_like(self.norm))[:, None, None]

    @property
    def unit(self) -> Tensor:
        """‖input‖ as (B,): what √λ has to be multiplied with to give σ."""
        return self.norm if self.factor is None else self.norm / self.factor

    @property
    def chain(self) -> Tensor:
        """1 / ‖input‖ as (B, 1, 1): d(x / ‖x‖) / d(input), along the directions that change vectors."""
        return self.inverse_norm if self.factor is None else self.inverse_norm * self.factor[:, None, None]


class _Decompose(torch.autograd.Function):
    """The decomposition and its derivative; only vectors that were picked carry gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: _Plan) -> tuple[Tensor, ...]:
        solver = _choose(plan, x)
        scaled = _scale(x, waits=solver != "squaring")
        probe = None if plan.targets is None else _probe(scaled, plan.targets.to(x.dtype))
        pairs = _solve(scaled, plan, solver, probe)
        image = None
        if plan.kept > 1 and x.dtype == torch.float32:
            pairs, image = _polish(scaled, pairs, max(plan.rank, plan.kept + 1), waits=solver != "squaring")
        values, rows = pairs.values[:, : plan.rank], pairs.rows[:, : plan.rank]
        image = None if image is None else image[:, : plan.rank]
        index = None
        if probe is not None:
            assert plan.assign is not None, "targets need an assignment"
            index = plan.assign(_cosine(scaled, values, rows, probe))
            values, rows = values.gather(1, index), _take(rows, index)
            image = None if image is None else _take(image, index)
        defined = (values > _rounding(pairs.values)) & scaled.usable[:, None]
        right = _right(scaled, rows, image) * defined[..., None]
        if plan.targets is None:
            sign, cosine = _canonical(scaled, values, rows, right, image), torch.ones_like(values)
        else:
            product = (right * plan.targets.to(x.dtype)).sum(2)
            sign, cosine = aligning_signs(product), product.abs()
        right = right * sign[..., None]
        share = torch.where(defined, values, torch.zeros_like(values))
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
        ctx.mark_non_differentiable(defined, share, cosine)
        ctx.set_materialize_grads(False)
        return singular, right, defined, share, cosine

    @staticmethod
    def backward(
        ctx: Any, g_values: Tensor | None, g_rows: Tensor | None, *_: Tensor | None
    ) -> tuple[Tensor | None, None]:
        refuse_second_derivative()
        x, gram, norm, factor, usable, values, rows, small, right, index, defined = ctx.saved_tensors
        if g_rows is None and g_values is None:
            return None, None
        state = _Saved(
            _Scaled(x if factor is None else _clean(x, factor, usable), gram, norm, factor, usable),
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
            change = _paper_gradient if ctx.gradient == "paper" else _exact_gradient
            return change(state, g_rows.to(x.dtype), g_values), None


class _Saved(NamedTuple):
    """What the forward pass leaves for the backward pass."""

    scaled: _Scaled
    pairs: Eigenpairs  # everything the solver found, b ≥ p vectors
    solver: Solver
    rank: int  # p, how many of them are exact
    small: Tensor  # (B, k, m) the picked vectors on the smaller side, signs applied
    right: Tensor  # (B, k, D) the picked right vectors
    picked: Tensor  # (B, k) which of the p they are
    defined: Tensor  # (B, k)


def _scale(x: Tensor, *, waits: bool) -> _Scaled:
    """Form trace-1 Gram matrices, rescaling by powers of two and setting samples aside.

    Args:
        x: (B, D, N).
        waits: whether to look at the data, which makes a GPU wait, and to rescale only where it is necessary.
    """
    info = torch.finfo(x.dtype)
    if waits:
        gram = _gram(x)
        trace = gram.diagonal(dim1=1, dim2=2).sum(-1)
        usable = (trace > info.tiny * 1e6) & (trace < info.max * 1e-4)
        if bool(usable.all()):
            return _Scaled(x, gram.div_(trace[:, None, None]), trace.sqrt(), None, usable)
    largest = torch.linalg.vector_norm(x, math.inf, dim=(1, 2))
    finite = largest.isfinite()
    if waits and not bool(finite.all()):
        warn(
            f"{int((~finite).sum())} of {len(x)} matrices hold NaN or infinity and were set aside; "
            "look for a learning rate that is too high or for damaged input",
            SvdistillWarning,
            stacklevel=2,
        )
    usable = finite & (largest >= info.tiny)
    factor = torch.exp2(-torch.floor(torch.log2(torch.where(usable, largest, torch.ones_like(largest)))))
    x = _clean(x, factor, usable)
    gram = _gram(x)
    trace = torch.where(usable, gram.diagonal(dim1=1, dim2=2).sum(-1), torch.ones_like(largest))
    return _Scaled(x, gram.div_(trace[:, None, None]), trace.sqrt() * usable, factor, usable)


def _clean(x: Tensor, factor: Tensor, usable: Tensor) -> Tensor:
    """Scale samples, and replace those that are set aside by zero."""
    return torch.where(
        usable[:, None, None], x * factor[:, None, None], torch.zeros((), dtype=x.dtype, device=x.device)
    )


def _rounding(values: Tensor) -> Tensor:
    """The λ (B, 1) at and below which a vector is rounding and no part of the matrix: it decides the rank."""
    return 25 * torch.finfo(values.dtype).eps * values[:, :1]


def _gram(x: Tensor) -> Tensor:
    # shape: (B, D, N) -> (B, m, m)
    return torch.bmm(x.mT, x) if x.shape[2] < x.shape[1] else torch.bmm(x, x.mT)


def _probe(scaled: _Scaled, targets: Tensor) -> Tensor:
    """Carry targets (B, k, D) to the smaller side (B, k, m), where inner products with u are cheap."""
    return torch.bmm(targets, scaled.x) * scaled.inverse_norm if scaled.wide else targets


def _cosine(scaled: _Scaled, values: Tensor, rows: Tensor, probe: Tensor) -> Tensor:
    """Inner products (B, p, k) of candidates with targets, 0 for candidates beyond the rank."""
    product = torch.bmm(rows, probe.mT)
    length = values.sqrt() if scaled.wide else torch.ones_like(values)
    weight = torch.where(values > _rounding(values), 1 / length, torch.zeros_like(values))
    return product * weight[..., None]


def _choose(plan: _Plan, x: Tensor) -> Solver:
    if plan.solver == "auto":
        return solvers.choose_solver(min(x.shape[1:]), plan.rank, x.dtype, x.device)
    return plan.solver


def _solve(scaled: _Scaled, plan: _Plan, solver: Solver, probe: Tensor | None) -> Eigenpairs:
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
        scaled.gram, plan.rank, used=lambda values, rows: assign(_cosine(scaled, values, rows, probe))
    )


def _polish(scaled: _Scaled, pairs: Eigenpairs, most: int, *, waits: bool) -> tuple[Eigenpairs, Tensor]:
    """Separate up to `most` leading vectors once more, from the matrix itself, and return their image too.

    K is only known to eps λ₁, which mixes vectors whose λ are close; rows of Y = U X are known to eps σ₁, so that Y Yᵀ,
    decomposed in float64, tells λ_i and λ_j apart to eps σ₁ σ_i.
    """
    width = min(pairs.rows.shape[1], most)
    rows = pairs.rows[:, :width]
    image = _image(scaled, rows)
    gram = torch.bmm(image, image.mT).double()
    if waits:
        values, columns = torch.linalg.eigh(gram)
        values, mixing = values.flip(-1), columns.mT.flip(1)
    else:
        values, mixing = separate(gram)
    values, mixing = values.clamp_min(0).to(rows.dtype), mixing.to(rows.dtype)
    mixed, image = torch.bmm(mixing, rows), torch.bmm(mixing, image)
    if width < pairs.rows.shape[1]:
        values, mixed = torch.cat((values, pairs.values[:, width:]), 1), torch.cat((mixed, pairs.rows[:, width:]), 1)
    return Eigenpairs(values, mixed, pairs.complete), image


def _image(scaled: _Scaled, rows: Tensor) -> Tensor:
    """Rows U (B, k, m) times the matrix, in units of its norm: (B, k, max(N, D))."""
    return torch.bmm(rows, scaled.x.mT if scaled.wide else scaled.x) * scaled.inverse_norm


def _right(scaled: _Scaled, rows: Tensor, image: Tensor | None = None) -> Tensor:
    """Right singular vectors (B, k, D) of vectors on the smaller side (B, k, m), whose image may be known."""
    if not scaled.wide:
        return rows
    long = torch.bmm(rows, scaled.x.mT) if image is None else image
    length: Tensor = long.norm(dim=2, keepdim=True)
    return long / length.clamp_min(torch.finfo(long.dtype).tiny)


def _canonical(scaled: _Scaled, values: Tensor, rows: Tensor, right: Tensor, image: Tensor | None) -> Tensor:
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


def _exact_gradient(state: _Saved, g_rows: Tensor, g_values: Tensor | None) -> Tensor:
    """Return dX (B, D, N): with w and z of the eigenvector derivative, dM = Σ z vᵀ + σ u wᵀ."""
    scaled, right = state.scaled, state.right
    x, inverse = scaled.x, scaled.inverse_norm
    defined = state.defined[..., None]
    across = g_rows - right * (right * g_rows).sum(2, keepdim=True)
    across = torch.where(defined, across, torch.zeros_like(across))
    value = torch.where(state.defined, state.pairs.values.gather(1, state.picked), 1.0)
    stretch = 0.0 if g_values is None else (g_values.to(x.dtype) * state.defined)[..., None]  # acts along u vᵀ
    if not scaled.wide:
        w = _resolvent(state, across) * scaled.chain + right * stretch / (2 * value.sqrt()[..., None])
        w = w * inverse
        return _outer(torch.cat((right, w), 1), torch.bmm(torch.cat((w, right), 1), x), x)
    z = _resolvent(state, torch.bmm(across, x) * inverse)
    w = (across + torch.bmm(z, x.mT) * inverse) / value[..., None]
    w = torch.where(defined, w, torch.zeros_like(w))
    z = z * scaled.chain + state.small * stretch
    along = state.small * (value.sqrt()[..., None] * scaled.chain)
    return _outer(torch.cat((right, w), 1), torch.cat((z, along), 1), x)


def _outer(left: Tensor, right: Tensor, x: Tensor) -> Tensor:
    """Σ left_i right_iᵀ of rows (B, k, D) and (B, k, N) as (B, D, N), lying in memory as x does.

    The gradient of a channels-last map that lay otherwise would be copied by every layer in front of the map.
    """
    return torch.bmm(right.mT, left).mT if x.stride(1) < x.stride(2) else torch.bmm(left.mT, right)


def _resolvent(state: _Saved, h: Tensor) -> Tensor:
    """Apply (λ_i − K)⁺ to row i of h (B, k, m): known eigenvectors directly, the rest by conjugate gradients."""
    values, rows, complete = state.pairs
    value = values.gather(1, state.picked)
    inside = torch.bmm(h, rows.mT)
    gaps = _inverse_gaps(value, values, state.picked)
    z = torch.bmm(inside * gaps, rows)
    if complete:
        return z
    if state.solver == "squaring":
        rest = h - torch.bmm(inside, rows)
        deflated = torch.baddbmm(state.scaled.gram, (rows * values[..., None]).mT, rows, alpha=-1)
        floor = torch.maximum(values[:, -1:], _rounding(values)).clamp_min(torch.finfo(values.dtype).tiny)
        outside = resolvent(deflated, value, floor, rest)
        return z + outside - torch.bmm(torch.bmm(outside, rows.mT), rows)
    # Only vectors down to the last one picked have converged; the others are a good guess and no more.
    gram = state.scaled.gram
    known = (torch.arange(values.shape[1], device=h.device) <= state.picked.amax(1, keepdim=True))[..., None]
    exact = rows * known
    deflated = torch.baddbmm(gram, (exact * values[..., None]).mT, exact, alpha=-1)
    rest = h - torch.bmm(inside, exact)
    guess = torch.bmm(inside * gaps, rows * ~known)
    change, late = _conjugate_gradients(deflated, value[..., None], rest, guess)
    z = z + change
    if len(late):
        pairs = solvers.eigh(gram[late])
        gaps = _inverse_gaps(value[late], pairs.values, state.picked[late])
        z[late] = torch.bmm(torch.bmm(h[late], pairs.rows.mT) * gaps, pairs.rows)
    return z


def _inverse_gaps(value: Tensor, values: Tensor, index: Tensor) -> Tensor:
    """1 / (λ_i − λ_j) as (B, k, b), bounded where two are nearly equal, 0 for a vector with itself."""
    gap = value[:, :, None] - values[:, None, :]
    gap = gap.scatter(2, index[..., None], 0.0)
    blur = 84 * torch.finfo(gap.dtype).eps * values[:, :1, None]  # 1e−5 λ₁ in float32
    # Bounded like d / (d² + δ²), but off by (δ / d)⁴ in place of (δ / d)² where a gap is small and still resolved.
    return gap**3 / (gap**4 + blur**4).clamp_min(torch.finfo(gap.dtype).tiny)


def _conjugate_gradients(gram: Tensor, shift: Tensor, rhs: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
    """Solve (λ_i − K) z_i = rhs_i on the complement of the kept vectors.

    Returns:
        What has to be added to `guess` (B, k, m), and the indices of samples that did not converge.
    """
    eps = torch.finfo(gram.dtype).eps
    z = torch.zeros_like(rhs)
    residual = torch.baddbmm(rhs - guess * shift, guess, gram)
    direction, size = residual, residual.square().sum(2, keepdim=True)
    goal = rhs.square().sum(2, keepdim=True) * (8 * eps) ** 2
    for step in range(MAX_CG_STEPS):
        image = torch.baddbmm(direction * shift, direction, gram, alpha=-1)
        curvature = (direction * image).sum(2, keepdim=True)
        pace = torch.where(size > goal, size / curvature, torch.zeros_like(size))
        z = torch.addcmul(z, pace, direction)
        residual = torch.addcmul(residual, pace, image, value=-1)
        new = residual.square().sum(2, keepdim=True)
        if step % 2 == 1 and not bool((new > goal).any()):
            break
        direction = torch.addcmul(residual, torch.where(size > goal, new / size, torch.zeros_like(size)), direction)
        size = new
    late = ((new > goal) | ~new.isfinite()).any(1)[:, 0]
    return z, late.nonzero()[:, 0]


def _paper_gradient(state: _Saved, g_rows: Tensor, g_values: Tensor | None) -> Tensor:
    """The published derivative, METHOD "paper": inside the kept vectors only, in the published order of factors.

    N ≤ D: U Eᵀ − U (EᵀV)_diag Vᵀ − 2U (K ∘ (ΣᵀVᵀE))_sym ΣᵀVᵀ with E = ∇V Σ⁻¹, else 2 U Σ (Kᵀ ∘ (Vᵀ∇V))_sym Vᵀ,
    K_ij = 1 / (σ_i² − σ_j²) for i ≠ j, here with the bounded quotient.
    """
    scaled, x = state.scaled, state.scaled.x
    p, inverse = state.rank, state.scaled.inverse_norm
    values, small = state.pairs.values[:, :p], state.pairs.rows[:, :p]
    alive = (values > _rounding(values)) & scaled.usable[:, None]
    right = _right(scaled, small) * alive[..., None]
    sign = torch.where((right.gather(1, _expand(state.picked, right)) * state.right).sum(2) < 0, -1.0, 1.0)
    g = torch.zeros_like(right).scatter_add(
        1, _expand(state.picked, right), g_rows * (sign * state.defined)[..., None].to(x)
    )
    sigma = torch.where(alive, values, torch.ones_like(values)).sqrt()[..., None]
    own = torch.arange(p, device=x.device).expand(len(x), -1)
    gaps = _inverse_gaps(values, values, own) * (alive[:, :, None] & alive[:, None, :])
    left = small if scaled.wide else torch.bmm(right, x) * inverse / sigma
    if x.shape[2] <= x.shape[1]:
        e = g / sigma
        inner = _symmetric(gaps * (sigma * torch.bmm(right, e.mT)))
        coefficient = e - right * (e * right).sum(2, keepdim=True) - 2 * torch.bmm(inner, sigma * right)
    else:
        coefficient = 2 * sigma * torch.bmm(_symmetric(gaps.mT * torch.bmm(right, g.mT)), right)
    coefficient = coefficient * scaled.chain
    if g_values is not None:
        spread = torch.zeros_like(values).scatter_add(1, state.picked, g_values.to(x) * state.defined)
        coefficient = coefficient + right * spread[..., None]
    return _outer(coefficient, left * alive[..., None], x)


def _symmetric(a: Tensor) -> Tensor:
    return 0.5 * (a + a.mT)


def _take(rows: Tensor, index: Tensor) -> Tensor:
    # shape: (B, p, m), (B, k) -> (B, k, m)
    return rows.gather(1, _expand(index, rows))


def _expand(index: Tensor, rows: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, rows.shape[2])


def _empty(x: Tensor, plan: _Plan) -> Decomposition:
    """The decomposition of no matrices at all, still part of the graph."""
    nothing = x.new_zeros(x.shape[0], plan.kept)
    rows = x.new_zeros(x.shape[0], plan.kept, x.shape[1]) + x.sum() * 0
    return Decomposition(nothing + x.sum() * 0, rows, nothing.bool(), nothing, nothing)


def _check_targets(x: Tensor, targets: Tensor | None, assign: Callable[[Tensor], Tensor] | None) -> None:
    if targets is None:
        return
    if assign is None:
        raise ShapeError("targets came without assign, which says which vector answers which target")
    batch, channels, _ = x.shape
    if targets.dim() != 3 or (targets.shape[0], targets.shape[2]) != (batch, channels):
        raise ShapeError(f"targets must be ({batch}, k, {channels}) for x {tuple(x.shape)}, got {_describe(targets)}")


def _check(x: Tensor, rank: int, gradient: str, solver: str) -> None:
    if not isinstance(x, Tensor) or x.dim() != 3 or not x.is_floating_point():
        raise ShapeError(f"x must be floating point (B, D, N), got {_describe(x)}")
    check_rank(rank)
    check_choice("gradient", gradient, GRADIENTS)
    check_choice("solver", solver, SOLVERS)


def _describe(value: object) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
