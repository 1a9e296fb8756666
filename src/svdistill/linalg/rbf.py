"""Squared distance of two radial basis relations, without ever forming them.

For vectors a (front tap) and b (back tap) the relation is the D_F x D_B matrix exp(−(a[m] − b[n])² / β). It factors,

    exp(−(a − b)² / β) = Σ_r w_r φ_r(a) φ_r(b),   φ_r(a) = exp(−a² / β) a^r,   w_r = (2 / β)^r / r!,

and few terms reach rounding, since the entries of weighted unit vectors are at most 1. With Φ_S, Φ_T the R x D factors
of student and teacher, Δ = Φ_S − Φ_T, Q = [Δ; Φ_T] and G = Q Qᵀ, the squared distance of two relations is
⟨G_F, (w wᵀ) ∘ C G_B C⟩ with C = [[1, 1], [1, 0]]. Δ comes from a recurrence without a difference of large numbers, so
the result is more accurate than the dense form where student ≈ teacher.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from svdistill.choices import BETA
from svdistill.errors import ShapeError
from svdistill.linalg.options import check_beta
from svdistill.linalg.precision import full_float32
from svdistill.linalg.svd_backward import refuse_second_derivative

MAX_ARGUMENT = 2.0  # 2 |a b| / β beyond which the series needs too many terms and the dense form takes over
CHUNK_NUMBERS = 1 << 19  # numbers in the largest temporary: 2 MB, which stays in a CPU's cache
GPU_CHUNK_NUMBERS = 1 << 24  # there each further chunk costs its launches, and the cache matters little


def rbf_distance(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    beta: float = BETA,
    weight: Tensor | None = None,
    limit: float | None = None,
) -> Tensor:
    """Sum of squared distances between the radial basis relations of student and teacher.

    Σ_p Σ_b weight[p, b] Σ_{m, n} (exp(−(a_S[m] − b_S[n])² / β) − exp(−(a_T[m] − b_T[n])² / β))², where pair p has
    tap p in front (a) and tap p + 1 at the back (b).

    Args:
        student: L ≥ 2 tensors (*batch, D_l), floating point, one for each tap.
        teacher: as many tensors of the same shapes; taken as constant.
        beta: width β > 0 of the radial basis function.
        weight: (L − 1, *batch), taken as constant; None: 1.
        limit: what no entry exceeds in magnitude, 1 for parts of unit vectors. It spares a GPU the wait for a look at
            the data; on a CPU, where a look costs nothing and saves terms, the data decide all the same.

    Returns:
        Scalar; gradient flows to `student`.

    Raises:
        ShapeError: shapes or number of taps do not fit.
        OptionError: β is not a positive number.

    Source: Lee et al., ECCV 2018, equations 6 to 8.
    """
    _check(student, teacher, beta, weight)
    batch = student[0].shape[:-1]
    pairs = len(student) - 1
    dtype = reduce(torch.promote_types, (a.dtype for a in (*student, *teacher)), torch.float32)
    samples = math.prod(batch)
    flat_s = [a.to(dtype).reshape(samples, a.shape[-1]) for a in student]
    flat_t = [a.detach().to(dtype).reshape(samples, a.shape[-1]) for a in teacher]
    if weight is None:
        weight = flat_t[0].new_ones(pairs, *batch)
    flat_w = weight.detach().to(dtype).reshape(pairs, samples)
    with full_float32(flat_s[0].device):
        return cast(Tensor, _Distance.apply((float(beta), limit), flat_w, len(flat_s), *flat_s, *flat_t))


class _Distance(torch.autograd.Function):
    """The distance; its gradient is made chunk by chunk in the forward pass, while the factors are in the cache."""

    @staticmethod
    def forward(ctx: Any, form: tuple[float, float | None], weight: Tensor, taps: int, *vectors: Tensor) -> Tensor:
        beta, limit = form
        student, teacher = vectors[:taps], vectors[taps:]
        needed = any(ctx.needs_input_grad[3 : 3 + taps])
        ctx.taps, ctx.widths = taps, [a.shape[1] for a in student]
        total = torch.zeros((), dtype=torch.float64, device=weight.device)
        gradient = weight.new_empty(len(student[0]), sum(ctx.widths)) if needed else None
        terms = _terms(student, teacher, beta, limit)
        chunks = _dense_chunks if terms is None else _factored_chunks
        for where, part, change in chunks(student, teacher, weight, beta, terms or 0, needed):
            total += part
            if gradient is not None and change is not None:
                gradient[where] = change
        if gradient is not None:
            ctx.save_for_backward(gradient)
        # A wrapper may lead another loss's gradient here, undefined: zeros would tell all before that it is reached.
        ctx.set_materialize_grads(False)
        return total.to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        if grad is None:
            return tuple([None] * len(ctx.needs_input_grad))
        (gradient,) = ctx.saved_tensors
        return (None, None, None, *(gradient * grad).split(ctx.widths, 1), *([None] * ctx.taps))


class _Part(NamedTuple):
    where: slice
    distance: Tensor  # 0-dim, float64
    gradient: Tensor | None  # of this chunk, (n, S), the taps side by side


def _terms(student: Sequence[Tensor], teacher: Sequence[Tensor], beta: float, limit: float | None) -> int | None:
    """Number of terms after which the series of a difference is below rounding, None where it converges too slowly.

    With x = 2 |a b| / β the difference of two terms r, relative to that of the leading ones, is x^(r−1) / (r−1)!.
    """
    pairs = [pair for pair in zip(student, teacher, strict=True) if pair[0].numel()]
    if not pairs:
        return 1
    if limit is None or student[0].device.type == "cpu":
        limits = torch.stack([_largest(*pair) for pair in pairs]).tolist()
    else:
        limits = [limit] * len(pairs)
    argument = 2 * max((a * b for a, b in itertools.pairwise(limits)), default=0.0) / beta
    largest_square = max(limits) ** 2 / beta
    if not (argument <= MAX_ARGUMENT and largest_square <= 2 * MAX_ARGUMENT):
        return None
    goal = 2 * torch.finfo(student[0].dtype).eps
    terms, remainder = 2, argument
    while remainder > goal:
        remainder *= argument / terms
        terms += 1
    return terms


def _chunk(where: Tensor) -> int:
    return CHUNK_NUMBERS if where.device.type == "cpu" else GPU_CHUNK_NUMBERS


def _largest(*vectors: Tensor) -> Tensor:
    return torch.stack([end for v in vectors for end in torch.aminmax(v)]).abs().amax()


def _factored_chunks(
    student: Sequence[Tensor], teacher: Sequence[Tensor], weight: Tensor, beta: float, terms: int, needed: bool
) -> Iterator[_Part]:
    step = max(1, _chunk(weight) // (2 * terms * max(1, sum(a.shape[1] for a in student))))
    series = _series(terms, beta, weight)
    for begin in range(0, len(student[0]), step):
        where = slice(begin, begin + step)
        # A function of its own, so that the factors of one chunk are gone before those of the next are made.
        yield _factored_chunk(where, student, teacher, weight, beta, series, needed)


def _factored_chunk(
    where: slice,
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    weight: Tensor,
    beta: float,
    series: Tensor,
    needed: bool,
) -> _Part:
    terms, widths = len(series) // 2, [a.shape[1] for a in student]
    both = torch.cat([v[where] for v in (*teacher, *student)], 1).unflatten(1, (2, sum(widths)))
    phi, q = _factors(both, beta, terms)
    parts = q.split(widths, 2)
    grams = torch.stack([torch.bmm(part, part.mT) for part in parts])
    total, pulls = _couple(grams, weight[:, where], series)
    if not needed:
        return _Part(where, total, None)
    pull = torch.cat([torch.bmm(g[:, :terms], part) for g, part in zip(pulls, parts, strict=True)], 2)
    return _Part(where, total, _chain(pull, phi, both[:, 1], beta))


def _factors(both: Tensor, beta: float, terms: int) -> tuple[Tensor, Tensor]:
    """Return Φ_S (n, R, S) and Q = [Δ; Φ_T] (n, 2R, S) of the entries (n, 2, S) of teacher c and student a."""
    found = both.new_empty(both.shape[0], 3, terms, both.shape[2])  # Δ, Φ_T, Φ_S
    delta, phis, (c, a) = found[:, 0], found[:, 1:], both.unbind(1)
    difference = a - c
    torch.exp(both.square().div_(-beta), out=phis[:, :, 0])
    torch.mul(phis[:, 0, 0], torch.expm1((a + c).mul_(difference).div_(-beta)), out=delta[:, 0])
    for r in range(1, terms):
        torch.mul(phis[:, :, r - 1], both, out=phis[:, :, r])
        # a φ(a) − c φ(c) = (a − c) φ(a) + c (φ(a) − φ(c)): no two large numbers are subtracted.
        torch.mul(delta[:, r - 1], c, out=delta[:, r])
        delta[:, r].addcmul_(phis[:, 1, r - 1], difference)
    return phis[:, 1], found[:, :2].flatten(1, 2)


def _couple(grams: Tensor, weight: Tensor, series: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of squared distances and, for each tap, the matrix P with d(sum) = 2 ⟨P Q, dQ⟩.

    Args:
        grams: (taps, n, 2R, 2R) Gram matrices of the rows of Q.
        weight: (taps − 1, n).
        series: (2R, 2R), see `_series`.
    """
    seen, w = _swap(grams).mul_(series), weight[..., None, None]
    total = ((grams[:-1] * seen[1:]).sum((2, 3), dtype=torch.float64) * weight).sum()
    pulls = torch.zeros_like(grams)
    pulls[:-1].addcmul_(seen[1:], w)
    pulls[1:].addcmul_(seen[:-1], w)
    return total, pulls


def _series(terms: int, beta: float, like: Tensor) -> Tensor:
    """Return w wᵀ in each block of a (2R, 2R) matrix, w_r = (2 / β)^r / r!; made on the device where it is needed."""
    order = torch.arange(terms, dtype=torch.float64, device=like.device)
    w = torch.exp(order * math.log(2 / beta) - torch.lgamma(order + 1)).to(like.dtype).repeat(2)
    return w[:, None] * w


def _swap(gram: Tensor) -> Tensor:
    """C G C with C = [[1, 1], [1, 0]] in blocks."""
    terms = gram.shape[-1] // 2
    top = torch.cat((gram[..., :terms, :] + gram[..., terms:, :], gram[..., :terms, :]), -2)
    return torch.cat((top[..., :terms] + top[..., terms:], top[..., :terms]), -1)


def _chain(pull: Tensor, phi: Tensor, a: Tensor, beta: float) -> Tensor:
    """Go from the gradient over φ_r(a), halved, to that over a, with φ_r' = r φ_{r−1} − (2a / β) φ_r."""
    terms = phi.shape[1]
    change = (pull * phi).sum(1).mul_(a).mul_(-4 / beta)
    for r in range(1, terms):
        change.addcmul_(pull[:, r], phi[:, r - 1], value=2 * r)
    return change


def _dense_chunks(
    student: Sequence[Tensor], teacher: Sequence[Tensor], weight: Tensor, beta: float, terms: int, needed: bool
) -> Iterator[_Part]:
    """The plain form in chunks of the batch, for a β so small that the series would need too many terms."""
    largest = max((f.shape[1] * b.shape[1] for f, b in itertools.pairwise(student)), default=1)
    step = max(1, _chunk(weight) // max(1, largest))
    for begin in range(0, len(student[0]), step):
        where = slice(begin, begin + step)
        total = torch.zeros((), dtype=torch.float64, device=weight.device)
        change = [torch.zeros_like(v[where]) for v in student] if needed else []
        for pair, w in enumerate(weight[:, where]):
            gap = student[pair][where, :, None] - student[pair + 1][where, None, :]
            goal = teacher[pair][where, :, None] - teacher[pair + 1][where, None, :]
            found = torch.exp(gap.square() / -beta)
            lead = (goal - gap) * (goal + gap) / beta
            error = torch.where(
                lead > 0, -found * torch.expm1(-lead), torch.exp(goal.square() / -beta) * torch.expm1(lead.clamp_max(0))
            )
            total += (error.square().sum((1, 2), dtype=torch.float64) * w).sum()
            if needed:
                slope = error * found * gap * (-4 / beta) * w[:, None, None]
                change[pair] += slope.sum(2)
                change[pair + 1] -= slope.sum(1)
        yield _Part(where, total, torch.cat(change, 1) if needed else None)


def _check(student: Sequence[Tensor], teacher: Sequence[Tensor], beta: float, weight: Tensor | None) -> None:
    if len(student) < 2 or len(student) != len(teacher):
        raise ShapeError(
            f"expected two or more taps, equally many of both networks, got {len(student)} and {len(teacher)}"
        )
    check_beta(beta)
    batch = student[0].shape[:-1]
    for tap, (a, c) in enumerate(zip(student, teacher, strict=True)):
        if a.dim() < 1 or a.shape != c.shape or a.shape[:-1] != batch:
            raise ShapeError(
                f"tap {tap}: student {tuple(a.shape)} and teacher {tuple(c.shape)} must be equal, "
                f"with batch {tuple(batch)} as at tap 0"
            )
    if weight is not None and weight.shape != (len(student) - 1, *batch):
        raise ShapeError(f"weight must be {(len(student) - 1, *batch)}, got {tuple(weight.shape)}")
