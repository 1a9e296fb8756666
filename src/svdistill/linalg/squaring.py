"""Leading eigenvectors, and the resolvent, by matrix products alone: the path on which a GPU never waits.

Everything here is a fixed number of batched products and elementwise operations: nothing is read back to the host, no
shape depends on data, and no LAPACK routine is called. K^(2^s), made by s squarings, leaves of K what belongs to its
largest eigenvalue; (λ − D)⁻¹ = λ⁻¹ Π_j (I + (D / λ)^(2^j)), whose j-th factor takes one more squaring.

The price is that nobody looks whether that was enough. In float32, with 48 x 256 matrices, the leading vector and its
gradient (beside one more candidate, as in the loss) were off by, as medians over 16 matrices,

    λ₂ / λ₁     0.9     0.95    0.99    0.998   0.999   0.9995   0.9999
    vector      2e−7    1e−7    5e−7    2e−6    9e−5    6e−3     3e−1
    by eigh     1e−6    1e−6    4e−6    8e−5    7e−5    2e−4     6e−4
    gradient    6e−7    2e−6    1e−5    7e−5    4e−4    2e−2     1
    by eigh     2e−6    6e−6    3e−5    4e−4    3e−4    1e−3     2e−3
"""

import torch
from torch import Tensor

SQUARINGS = 10
RESOLVENT_SQUARINGS = 12  # 2^13 terms of the geometric series, as many as `leading` applies powers of K
POWERS = 7  # products of a vector with K^(2^s): each is worth as much as all squarings together
CLEANINGS = 2  # products with K itself, which take out what the squarings have rounded
RESCALE_EVERY = 3  # squarings; a trace of 1 becomes at least m^−7 in between, which float32 holds for every m < 1e5
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
    rows = gram.new_zeros(len(gram), 0, gram.shape[-1])
    left = gram
    for _ in range(rank):
        row = _beside(_dominant(left), rows) if rows.shape[1] else _dominant(left)
        image = torch.bmm(row, gram)
        value = (image * row).sum(2, keepdim=True)
        values.append(value[..., 0])
        rows = torch.cat((rows, row), 1)
        left = torch.baddbmm(left, (row * value).mT, row, alpha=-1)
    return torch.cat(values, 1).clamp_min(0), rows


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
    value = torch.maximum(value, floor)[..., None]
    # In units of the floor no power exceeds 1, so nothing has to be rescaled; what underflows is nothing.
    power, weight = rest / floor[..., None], floor[..., None] / value
    z = rhs / value
    for step in range(RESOLVENT_SQUARINGS + 1):
        z = torch.addcmul(z, weight, torch.bmm(z, power))
        if step < RESOLVENT_SQUARINGS:
            power, weight = torch.bmm(power, power), weight.square()
    return z


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
    power = gram
    for step in range(SQUARINGS):
        power = torch.bmm(power, power)
        if step % RESCALE_EVERY == 0 or step == SQUARINGS - 1:
            trace = power.diagonal(dim1=1, dim2=2).sum(1)
            power = power / trace.clamp_min(torch.finfo(power.dtype).tiny)[:, None, None]
    # The row with the largest diagonal entry is never orthogonal to the vector that is looked for.
    start = power.diagonal(dim1=1, dim2=2).argmax(1)[:, None, None].expand(-1, 1, power.shape[-1])
    row = power.gather(1, start)
    for _ in range(POWERS):
        row = torch.bmm(row, power)
    for _ in range(CLEANINGS):
        row = torch.bmm(_unit(row), gram)
    return _unit(row)


def _beside(row: Tensor, rows: Tensor) -> Tensor:
    """Take the part of a unit vector that is orthogonal to others, twice; zero where that part is only rounding."""
    for _ in range(2):
        row = row - torch.bmm(torch.bmm(row, rows.mT), rows)
    return torch.where(row.square().sum(2, keepdim=True) > 0.25, _unit(row), torch.zeros_like(row))


def _unit(rows: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    return rows / length.clamp_min(torch.finfo(rows.dtype).tiny)


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
