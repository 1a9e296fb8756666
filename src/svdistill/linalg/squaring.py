"""Leading eigenvectors, and the resolvent, by matrix products alone: the path on which a GPU never waits.

Everything here is a fixed number of batched products and elementwise operations: nothing is read back to the host, no
shape depends on data, and no LAPACK routine is called. K^(2^s), made by s squarings, leaves of K what belongs to its
largest eigenvalue; (λ − D)⁻¹ = λ⁻¹ Π_j (I + (D / λ)^(2^j)), whose j-th factor takes one more squaring.

The price is that nobody looks whether that was enough. In float32, with 48 x 256 matrices, the leading vector and its
gradient (beside one more candidate, as in the loss) were off by, as medians over 16 matrices,

    λ₂ / λ₁     0.9     0.95    0.99    0.998   0.999   0.9995   0.9999
    vector      1e−7    1e−7    6e−7    2e−6    6e−5    5e−3     1e−1
    by eigh     6e−7    1e−6    7e−6    3e−5    1e−4    2e−4     5e−4
    gradient    5e−7    2e−6    2e−5    4e−5    3e−4    1e−2     3e−1
    by eigh     2e−6    4e−6    2e−5    2e−4    3e−4    1e−3     3e−3
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

SQUARINGS = 12  # a row of K^4096, and one more product with it
RESOLVENT_SQUARINGS = 12  # 2^13 terms of the geometric series, as many as `leading` applies powers of K
CLEANINGS = 2  # products with K itself, which take out what the squarings have rounded
SMALLEST = 35  # a trace of 1 that squarings may bring to 1e−35, which float32 just holds, is rescaled before
SWEEPS = 3


def leading(gram: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Find leading eigenvectors one after the other, each of what the former have left of the matrix.

    What remains of the next eigenvector is (λ_{i+1} / λ_i)^8192: below rounding up to a ratio of 0.998, and 3e−4 at
    0.999. Beyond, the vector is a mixture of its neighbours, orthonormal to the others all the same.

    Args:
        gram: (B, m, m) Gram matrices of trace 1, or all zero.
        rank: number of vectors.

    Returns:
        Rayleigh quotients (B, rank), and vectors (B, rank, m); zero where nothing is left of a matrix.
    """
    values: list[Tensor] = []
    found: list[Tensor] = []
    left = gram
    for _ in range(rank):
        if found:
            # A broadcast product, since the batched one would copy the matrices first.
            left = torch.addcmul(left, (found[-1] * values[-1]).mT, found[-1], value=-1)
        row = _beside(_dominant(left), torch.cat(found, 1)) if found else _dominant(left)
        values.append(torch.bmm(torch.bmm(row, gram), row.mT))
        found.append(row)
    return torch.cat(values, 1)[..., 0].clamp_min(0), torch.cat(found, 1)


def resolvent(rest: Tensor, value: Tensor, floor: Tensor, rhs: Tensor) -> Tensor:
    """Apply (λ_i − D)⁻¹ to row i, for a D whose eigenvalues do not exceed any λ_i.

    The geometric series is cut after 2^(s+1) terms, so its error is (‖D‖ / λ_i)^8192 and its norm at most 8192 / λ_i.

    Args:
        rest: D, (B, m, m), symmetric.
        value: λ_i, (B, k).
        floor: (B, 1) a positive lower bound of the λ_i that is not below ‖D‖.
        rhs: (B, k, m).

    Returns:
        (B, k, m).
    """
    value = torch.maximum(value, floor)
    size, least = rest.shape[-1], value.amin(1, keepdim=True)
    # In units of the least λ_i no power exceeds 1, so nothing has to be rescaled; what underflows is nothing.
    block, weight = torch.cat((rest / least[..., None], rhs / value[..., None]), 1), (least / value)[..., None]
    for step in range(RESOLVENT_SQUARINGS + 1):
        # One product is both the square of the power and the product of z with it.
        after = torch.bmm(block if step < RESOLVENT_SQUARINGS else block[:, size:], block[:, :size])
        z = after[:, -rhs.shape[1] :]
        if rhs.shape[1] > 1:  # of a single one the weight is 1
            z.mul_(weight)
            weight = weight.square()
        z.add_(block[:, size:])
        block = after
    return block


def separate(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Diagonalize small symmetric matrices that are nearly diagonal, up to rounding.

    Each sweep turns all pairs at once by Jacobi's angles, which is quadratically convergent, and makes the result
    orthonormal by Newton and Schulz.

    Args:
        gram: (B, p, p).

    Returns:
        Eigenvalues (B, p) in descending order and eigenvectors as rows (B, p, p).
    """
    size = gram.shape[-1]
    identity = torch.eye(size, dtype=gram.dtype, device=gram.device).expand_as(gram)
    rows, now = identity, gram
    for _ in range(SWEEPS):
        turn = _orthogonal(identity + _angles(now))
        rows = torch.bmm(turn, rows)
        now = torch.bmm(torch.bmm(rows, gram), rows.mT)
    values, order = now.diagonal(dim1=1, dim2=2).sort(dim=1, descending=True)
    return values, rows.gather(1, order[..., None].expand_as(rows))


def _dominant(gram: Tensor) -> Tensor:
    # shape: (B, m, m) -> (B, 1, m), unit length or zero
    power, every = gram, _rescale_every(gram.shape[-1])
    for step in range(SQUARINGS):
        power = torch.bmm(power, power)
        if step == 0 or (SQUARINGS - step) % every == 0:
            power = power / _nonzero(power.diagonal(dim1=1, dim2=2).sum(1))[:, None, None]
    # The row with the largest diagonal entry is never orthogonal to the vector that is looked for.
    start = power.diagonal(dim1=1, dim2=2).argmax(1)[:, None, None].expand(-1, 1, power.shape[-1])
    row = _unit(torch.bmm(power.gather(1, start), power))
    for _ in range(CLEANINGS):
        row = torch.bmm(row, gram)
    return _unit(row)


def _rescale_every(size: int) -> int:
    """Return after how many squarings a trace may have fallen from 1 to `SMALLEST`: to m^(1 − 2^s) at worst."""
    return max(1, int(math.log2(1 + SMALLEST / math.log10(max(2, size)))))


def _beside(row: Tensor, rows: Tensor) -> Tensor:
    """Take the part of a unit vector that is orthogonal to others; zero where that part may be only rounding."""
    row = row - torch.bmm(torch.bmm(row, rows.mT), rows)
    return row / functional.threshold(torch.linalg.vector_norm(row, dim=2, keepdim=True), 0.5, math.inf)


def _unit(rows: Tensor) -> Tensor:
    return rows / _nonzero(torch.linalg.vector_norm(rows, dim=2, keepdim=True))


def _nonzero(divisor: Tensor) -> Tensor:
    return divisor.clamp_min(torch.finfo(divisor.dtype).tiny)


def _angles(gram: Tensor) -> Tensor:
    """Return the antisymmetric tangents t with |t| ≤ 1 that would make each pair's entry vanish, alone."""
    value = gram.diagonal(dim1=1, dim2=2)
    gap = value[:, :, None] - value[:, None, :]
    twice = 2 * gram
    upper = torch.ones_like(gram).triu(1)
    sign = torch.where(gap < 0, -1.0, 1.0)
    tangent = sign * twice / (gap.abs() + torch.hypot(gap, twice)).clamp_min(torch.finfo(gram.dtype).tiny)
    tangent = tangent * upper
    # Rows are turned, and turned little enough for what follows where three or more values are equal.
    tangent = tangent - tangent.mT
    return tangent / tangent.abs().sum(2).amax(1).clamp_min(1)[:, None, None]


def _orthogonal(matrix: Tensor) -> Tensor:
    """Return the orthogonal matrix next to one whose singular values lie between 1 and √2."""
    for _ in range(6):
        matrix = 1.5 * matrix - 0.5 * torch.bmm(torch.bmm(matrix, matrix.mT), matrix)
    return matrix
