"""The derivative of the truncated SVD: the exact one, and the published rearrangement.

The letters are those of `svdistill.linalg.svd`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from svdistill.linalg import solvers
from svdistill.linalg.gram import Scaled, expand, multiply, right_vectors, rounding, to_smaller_side
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


def exact_gradient(state: Saved, g_rows: Tensor, g_values: Tensor | None) -> list[Tensor]:
    """Return dX (B, D, N) of each tap: with w and z of the eigenvector derivative, dM = Σ z vᵀ + σ u wᵀ."""
    scaled, right = state.scaled, state.right
    across = g_rows - right * (right * g_rows).sum(2, keepdim=True)
    across = torch.where(state.defined[..., None], across, torch.zeros_like(across))
    value = torch.where(state.defined, state.pairs.values.gather(1, state.picked), 1.0)[..., None]
    # Acts along u vᵀ.
    stretch = None if g_values is None else (g_values.to(right.dtype) * state.defined)[..., None]
    z = _resolvent(state, to_smaller_side(scaled, across))
    narrow, changes = scaled.narrow, []
    if narrow:
        xs, where = scaled.xs[:narrow], scaled.of(slice(narrow))
        v = right[where, :, : max(x.shape[1] for x in xs)]
        w = z[where, :, : v.shape[2]] * scaled.chain[where]
        if stretch is not None:
            w = w + v * stretch[where] / (2 * value[where].sqrt())
        w = w * scaled.inverse_norm[where]
        changes += _outer(torch.cat((v, w), 1), multiply(torch.cat((w, v), 1), xs), xs)
    if narrow < len(scaled.xs):
        xs, where = scaled.xs[narrow:], scaled.of(slice(narrow, None))
        v, across = (one[where, :, : max(x.shape[1] for x in xs)] for one in (right, across))
        z, u = z[where], state.small[where]
        w = (across + multiply(z, [x.mT for x in xs]) * scaled.inverse_norm[where]) / value[where]
        w = torch.where(state.defined[where, :, None], w, torch.zeros_like(w))
        chain = scaled.chain[where]
        z = z * chain
        if stretch is not None:
            z = z + u * stretch[where]
        changes += _outer(torch.cat((v, w), 1), torch.cat((z, u * (value[where].sqrt() * chain)), 1), xs)
    return changes


def paper_gradient(state: Saved, g_rows: Tensor, g_values: Tensor | None) -> list[Tensor]:
    """The published derivative, ``gradient="paper"``: inside the kept vectors only, in the published order of factors.

    N ≤ D: U Eᵀ − U (EᵀV)_diag Vᵀ − 2U (K ∘ (ΣᵀVᵀE))_sym ΣᵀVᵀ with E = ∇V Σ⁻¹, else 2 U Σ (Kᵀ ∘ (Vᵀ∇V))_sym Vᵀ,
    K_ij = 1 / (σ_i² − σ_j²) for i ≠ j, here with the bounded quotient.
    """
    scaled, p = state.scaled, state.rank
    values, small = state.pairs.values[:, :p], state.pairs.rows[:, :p]
    alive = (values > rounding(values)) & scaled.usable[:, None]
    right = right_vectors(scaled, small) * alive[..., None]
    sign = torch.where((right.gather(1, expand(state.picked, right)) * state.right).sum(2) < 0, -1.0, 1.0)
    g = torch.zeros_like(right).scatter_add(
        1, expand(state.picked, right), g_rows * (sign * state.defined)[..., None].to(right)
    )
    sigma = torch.where(alive, values, torch.ones_like(values)).sqrt()[..., None]
    own = torch.arange(p, device=right.device).expand(len(right), -1)
    gaps = _inverse_gaps(values, values, own) * (alive[:, :, None] & alive[:, None, :])
    tall = scaled.of(slice(sum(x.shape[2] > x.shape[1] for x in scaled.xs)))
    rest = slice(tall.stop, len(right))
    parts = []
    if tall.stop:
        inner = _symmetric(gaps[tall].mT * torch.bmm(right[tall], g[tall].mT))
        parts.append(2 * sigma[tall] * torch.bmm(inner, right[tall]))
    if tall.stop < len(right):
        v, length = right[rest], sigma[rest]
        e = g[rest] / length
        inner = _symmetric(gaps[rest] * (length * torch.bmm(v, e.mT)))
        parts.append(e - v * (e * v).sum(2, keepdim=True) - 2 * torch.bmm(inner, length * v))
    coefficient = (torch.cat(parts) if len(parts) > 1 else parts[0]) * scaled.chain
    if g_values is not None:
        spread = torch.zeros_like(values).scatter_add(1, state.picked, g_values.to(right) * state.defined)
        coefficient = coefficient + right * spread[..., None]
    coefficient, narrow, changes = coefficient * alive[..., None], scaled.narrow, []
    if narrow:
        where = scaled.of(slice(narrow))
        left = multiply(right[where], scaled.xs[:narrow]) * scaled.inverse_norm[where] / sigma[where]
        changes += _outer(coefficient[where], left, scaled.xs[:narrow])
    if narrow < len(scaled.xs):
        where = scaled.of(slice(narrow, None))
        changes += _outer(coefficient[where], small[where], scaled.xs[narrow:])
    return changes


def _outer(left: Tensor, right: Tensor, xs: Sequence[Tensor]) -> list[Tensor]:
    """Σ left_i right_iᵀ of rows (S, k, D) and (S, k, N) as (B, D, N) of each tap, lying in memory as x does.

    The gradient of a channels-last map that lay otherwise would be copied by every layer in front of the map.
    """
    found = []
    for x, a, b in zip(xs, left.split(len(xs[0])), right.split(len(xs[0])), strict=True):
        a, b = a[..., : x.shape[1]], b[..., : x.shape[2]]
        found.append(torch.bmm(b.mT, a).mT if x.stride(1) < x.stride(2) else torch.bmm(a.mT, b))
    return found


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
        floor = torch.maximum(values[:, -1:], rounding(values)).clamp_min(torch.finfo(values.dtype).tiny)
        outside = state.scaled.joined(_outside(state.scaled, state.pairs, value, floor, rest))
        return z + outside - torch.bmm(torch.bmm(outside, rows.mT), rows)
    # Only vectors down to the last one picked have converged; the others are a good guess and no more.
    (gram,) = state.scaled.grams
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


def _outside(scaled: Scaled, pairs: Eigenpairs, value: Tensor, floor: Tensor, rest: Tensor) -> list[Tensor]:
    """Apply the resolvent of what the known vectors leave of each Gram matrix."""
    sizes = [len(gram) for gram in scaled.grams]
    known, weighted = (scaled.parts(rows) for rows in (pairs.rows, pairs.rows * pairs.values[..., None]))
    parts = zip(scaled.grams, weighted, known, value.split(sizes), floor.split(sizes), scaled.parts(rest), strict=True)
    return [
        resolvent(torch.baddbmm(gram, left.mT, right, alpha=-1), shift, least, rhs)
        for gram, left, right, shift, least, rhs in parts
    ]


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
