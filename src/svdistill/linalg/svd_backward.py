"""The derivative of the truncated SVD: the exact one, and the published rearrangement.

The letters are those of `svdistill.linalg.svd`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from svdistill.linalg import solvers
from svdistill.linalg.gram import Scaled, expand, right_vectors, rounding
from svdistill.linalg.solvers import Eigenpairs, Solver
from svdistill.linalg.squaring import resolvent

MAX_CG_STEPS = 30


def refuse_second_derivative() -> None:
    """Raise NotImplementedError in a backward pass that is itself to be differentiated.

    Without this the second derivative would be zero in silence.
    """
    if torch.is_grad_enabled():
        raise NotImplementedError("svdistill has no second derivative; call backward or grad without create_graph=True")


class Saved(NamedTuple):
    """What the forward pass leaves for the backward pass."""

    scaled: Scaled
    pairs: Eigenpairs  # everything the solver found, b ≥ p vectors
    solver: Solver
    rank: int  # p, how many of them are exact
    small: Tensor  # (B, k, m) the picked vectors on the smaller side, signs applied
    right: Tensor  # (B, k, D) the picked right vectors
    picked: Tensor  # (B, k) which of the p they are
    defined: Tensor  # (B, k)


def exact_gradient(state: Saved, g_rows: Tensor, g_values: Tensor | None) -> Tensor:
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


def paper_gradient(state: Saved, g_rows: Tensor, g_values: Tensor | None) -> Tensor:
    """The published derivative, ``gradient="paper"``: inside the kept vectors only, in the published order of factors.

    N ≤ D: U Eᵀ − U (EᵀV)_diag Vᵀ − 2U (K ∘ (ΣᵀVᵀE))_sym ΣᵀVᵀ with E = ∇V Σ⁻¹, else 2 U Σ (Kᵀ ∘ (Vᵀ∇V))_sym Vᵀ,
    K_ij = 1 / (σ_i² − σ_j²) for i ≠ j, here with the bounded quotient.
    """
    scaled, x = state.scaled, state.scaled.x
    p, inverse = state.rank, state.scaled.inverse_norm
    values, small = state.pairs.values[:, :p], state.pairs.rows[:, :p]
    alive = (values > rounding(values)) & scaled.usable[:, None]
    right = right_vectors(scaled, small) * alive[..., None]
    sign = torch.where((right.gather(1, expand(state.picked, right)) * state.right).sum(2) < 0, -1.0, 1.0)
    g = torch.zeros_like(right).scatter_add(
        1, expand(state.picked, right), g_rows * (sign * state.defined)[..., None].to(x)
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


def _outer(left: Tensor, right: Tensor, x: Tensor) -> Tensor:
    """Σ left_i right_iᵀ of rows (B, k, D) and (B, k, N) as (B, D, N), lying in memory as x does.

    The gradient of a channels-last map that lay otherwise would be copied by every layer in front of the map.
    """
    return torch.bmm(right.mT, left).mT if x.stride(1) < x.stride(2) else torch.bmm(left.mT, right)


def _resolvent(state: Saved, h: Tensor) -> Tensor:
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
        floor = torch.maximum(values[:, -1:], rounding(values)).clamp_min(torch.finfo(values.dtype).tiny)
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


def _symmetric(a: Tensor) -> Tensor:
    return 0.5 * (a + a.mT)
