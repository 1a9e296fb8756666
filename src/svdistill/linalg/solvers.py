"""Leading eigenvectors of a batch of Gram matrices: the solvers behind the truncated SVD.

Every solver takes Gram matrices K of trace 1 (or all zero) and gives eigenvalues in descending order and
eigenvectors as rows. Rows, because batched products of wide, short blocks are 2 to 5 times faster than of tall ones.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from svdistill.errors import OptionError
from svdistill.linalg.squaring import leading

Solver = Literal["auto", "eigh", "subspace", "squaring", "lapack"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)

# The smallest Gram matrix, by number of vectors, from which the block iteration beats eigh; beyond the table it never
# does. Measured in float32 at batch 128; `python -m benchmarks decomposition` measures it again and prints these lines.
SUBSPACE_FROM = {1: 12, 2: 24, 3: 24, 4: 24, 5: 24, 8: 32}
MAX_SQUARING_RANK = 8  # each vector costs as much as the first
FIRST_PRODUCTS = 3
MAX_PRODUCTS = 24
CHEBYSHEV_DEGREE = 4
LEAST_CUT = 3e-3  # of λ₁: what lies below would be lost in the rounding of what lies above


class Eigenpairs(NamedTuple):
    """The leading part of an eigendecomposition K = Σ λ u uᵀ.

    Attributes:
        values: (B, b) λ in descending order; the first `rank` are exact, the rest are Ritz values.
        rows: (B, b, m) u as rows, orthonormal.
        complete: whether b = m, so that nothing of the spectrum is missing.
    """

    values: Tensor
    rows: Tensor
    complete: bool


def choose_solver(size: int, rank: int, dtype: torch.dtype, device: torch.device) -> Solver:
    """Return the fastest solver for Gram matrices of this size; on a GPU, if it can be, one that never waits.

    Args:
        size: m, the side of the Gram matrix.
        rank: number of leading vectors that are wanted.
        dtype: float64 takes `eigh` on a CPU: the block iteration would need twice the products.
        device: where the matrices are.
    """
    if device.type != "cpu" and rank <= MAX_SQUARING_RANK:
        return "squaring"
    if dtype == torch.float64:
        return "eigh"
    known = [least for vectors, least in SUBSPACE_FROM.items() if vectors >= rank]
    return "subspace" if known and size >= known[0] else "eigh"


def eigh(gram: Tensor) -> Eigenpairs:
    """Decompose Gram matrices (B, m, m) completely with LAPACK's symmetric solver."""
    values, columns = torch.linalg.eigh(gram)
    return Eigenpairs(values.flip(-1).clamp_min(0), columns.mT.flip(1), True)


def squaring(gram: Tensor, rank: int) -> Eigenpairs:
    """Find leading eigenvectors by products alone, see `svdistill.linalg.squaring`: nothing waits for a GPU.

    Args:
        gram: (B, m, m) Gram matrices of trace 1, or all zero.
        rank: number of vectors, at most `MAX_SQUARING_RANK`.

    Raises:
        OptionError: more vectors are wanted.
    """
    if rank > MAX_SQUARING_RANK:
        raise OptionError(f"solver 'squaring' finds up to {MAX_SQUARING_RANK} vectors, got rank {rank}; use 'auto'")
    return Eigenpairs(*leading(gram, rank), complete=False)


def lapack(matrix: Tensor) -> Eigenpairs:
    """Decompose the Gram matrices M Mᵀ of matrices (B, m, n), m ≤ n, through a full SVD: the reference for tests."""
    left, singular, _ = torch.linalg.svd(matrix, full_matrices=False)
    return Eigenpairs(singular.square(), left.mT, True)


def subspace(gram: Tensor, rank: int, *, used: Callable[[Tensor, Tensor], Tensor] | None = None) -> Eigenpairs:
    """Find leading eigenvectors by block iteration with Rayleigh-Ritz, stragglers by `eigh`.

    A block of a few more rows than wanted is multiplied by K, later by Chebyshev polynomials of K that damp what lies
    below the block, until the residual ‖K u − θ_i u‖ of the vectors that are used is at most 17 eps √(θ₁ θ_i), 17 eps =
    2e−6 in float32. The root asks more of weaker vectors, whose neighbours are nearer.

    Args:
        gram: (B, m, m) Gram matrices of trace 1, or all zero.
        rank: number of vectors that must be exact.
        used: given Ritz values (B, rank) and vectors (B, rank, m), the indices (B, k) of those that the caller
            uses; only they have to converge. None: all of them.

    Returns:
        Block of Ritz pairs; complete only where the block is as wide as the matrix.
    """
    size = gram.shape[-1]
    width = rank + 2 if rank <= 2 else max(8, rank + 3)
    if width + 2 >= size or not len(gram):
        return eigh(gram)
    tolerance = 17 * torch.finfo(gram.dtype).eps
    rows = torch.matmul(_start(width, size, gram.dtype, gram.device), gram)
    for step in range(FIRST_PRODUCTS - 1):
        rows = torch.bmm(_orthonormal(rows) if step % 2 == 0 else rows, gram)
    products = FIRST_PRODUCTS
    while True:
        rows = _orthonormal(rows)
        image = torch.bmm(rows, gram)
        products += 1
        values, mixing = torch.linalg.eigh(torch.bmm(image, rows.mT))
        values, mixing = values.flip(-1), mixing.flip(-1).mT
        rows, image = torch.bmm(mixing, rows), torch.bmm(mixing, image)
        residual = torch.addcmul(image[:, :rank], values[:, :rank, None], rows[:, :rank], value=-1).norm(dim=2)
        goal = tolerance * (values[:, :1] * values[:, :rank].clamp_min(0)).sqrt()
        overdue = residual > goal
        if used is not None:
            overdue = overdue.gather(1, used(values[:, :rank], rows[:, :rank]))
        late = overdue.any(1).nonzero()[:, 0]
        if len(late) < len(gram) / 8 or products >= MAX_PRODUCTS:
            break
        rows = _chebyshev(gram, rows, image, values)
        products += CHEBYSHEV_DEGREE - 1
    if len(late):
        exact = eigh(gram[late])
        values[late], rows[late] = exact.values[:, :width], exact.rows[:, :width]
    return Eigenpairs(values.clamp_min_(0), rows, False)


def _chebyshev(gram: Tensor, rows: Tensor, image: Tensor, values: Tensor) -> Tensor:
    """Apply the Chebyshev polynomial of K that is at most 1 on [0, c], c the smallest Ritz value of the block.

    Beyond c it grows as fast as a polynomial can, so vectors whose λ are close to c are told apart with a fraction of
    the products that powers of K would take. A higher degree would drown weaker vectors in the rounding of the first.
    """
    c = torch.maximum(values[:, -1:], LEAST_CUT * values[:, :1]).clamp_min(LEAST_CUT / gram.shape[-1])[..., None]
    before, now = rows, image * (2 / c) - rows
    for _ in range(CHEBYSHEV_DEGREE - 1):
        before, now = now, torch.baddbmm(before + 2 * now, now * (4 / c), gram, beta=-1)
    return now


def _orthonormal(rows: Tensor) -> Tensor:
    # shape: (B, b, m) -> (B, b, m), same span
    columns: Tensor = torch.linalg.qr(rows.mT)[0]
    return columns.mT


@lru_cache(maxsize=64)
def _start(width: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a fixed Gaussian block whose first row, all ones, is near the leading vector of non-negative features."""
    block = torch.randn(width, size, generator=torch.Generator().manual_seed(2018), dtype=torch.float64)
    block[0] = 1
    return block.to(device, dtype)
