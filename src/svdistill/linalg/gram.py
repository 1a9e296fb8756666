"""Scaling of matrices, their Gram matrices, and how vectors go from the smaller side to the larger.

The letters are those of `svdistill.linalg.svd`.
"""

import math
from typing import NamedTuple
from warnings import warn

import torch
from torch import Tensor

from svdistill.errors import SvdistillWarning
from svdistill.linalg.solvers import Eigenpairs
from svdistill.linalg.squaring import separate


class Scaled(NamedTuple):
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


def scale(x: Tensor, *, waits: bool) -> Scaled:
    """Form Gram matrices of trace 1; where necessary, samples are rescaled by powers of two or set aside.

    Args:
        x: (B, D, N).
        waits: whether to look at the data, which makes a GPU wait, and to rescale only where it is necessary.
    """
    info = torch.finfo(x.dtype)
    if waits:
        gram = gram_matrix(x)
        trace = gram.diagonal(dim1=1, dim2=2).sum(-1)
        usable = (trace > info.tiny * 1e6) & (trace < info.max * 1e-4)
        if bool(usable.all()):
            return Scaled(x, gram.div_(trace[:, None, None]), trace.sqrt(), None, usable)
    factor, usable = powers_of_two(x, warns=waits)
    x = clean(x, factor, usable)
    gram = gram_matrix(x)
    trace = torch.where(usable, gram.diagonal(dim1=1, dim2=2).sum(-1), torch.ones_like(factor))
    return Scaled(x, gram.div_(trace[:, None, None]), trace.sqrt() * usable, factor, usable)


def powers_of_two(x: Tensor, *, warns: bool, what: str = "matrices") -> tuple[Tensor, Tensor]:
    """Find the power of two that brings each sample to a largest magnitude of 1 to 2, which changes no digit.

    Args:
        x: (B, D, N).
        warns: whether to warn of samples that hold NaN or infinity; a GPU has to be waited for to know.
        what: what the samples are called in the warning.

    Returns:
        The factors (B,), and which samples can be used (B,): those that are finite and not zero. The factor of the
        others is 1; `clean` applies both.
    """
    largest = torch.linalg.vector_norm(x, math.inf, dim=(1, 2))
    finite = largest.isfinite()
    if warns and not bool(finite.all()):
        warn(
            f"{int((~finite).sum())} of {len(x)} {what} hold NaN or infinity and were set aside; "
            "look for a learning rate that is too high or for damaged input",
            SvdistillWarning,
            stacklevel=3,
        )
    usable = finite & (largest >= torch.finfo(x.dtype).tiny)
    return torch.exp2(-torch.floor(torch.log2(torch.where(usable, largest, torch.ones_like(largest))))), usable


def clean(x: Tensor, factor: Tensor, usable: Tensor) -> Tensor:
    """Multiply samples (B, D, N) by their factors (B,), and replace those that cannot be used by zero."""
    return torch.where(
        usable[:, None, None], x * factor[:, None, None], torch.zeros((), dtype=x.dtype, device=x.device)
    )


def gram_matrix(x: Tensor) -> Tensor:
    """K on the smaller side, not yet divided by its trace."""
    # shape: (B, D, N) -> (B, m, m)
    return torch.bmm(x.mT, x) if x.shape[2] < x.shape[1] else torch.bmm(x, x.mT)


def rounding(values: Tensor) -> Tensor:
    """The λ (B, 1) at and below which a vector is rounding, not part of the matrix: it decides the rank."""
    return 25 * torch.finfo(values.dtype).eps * values[:, :1]


def to_smaller_side(scaled: Scaled, targets: Tensor) -> Tensor:
    """Bring targets (B, k, D) to the smaller side (B, k, m), where inner products with u are cheap."""
    return torch.bmm(targets, scaled.x) * scaled.inverse_norm if scaled.wide else targets


def cosines(scaled: Scaled, values: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    """Inner products (B, p, k) of candidates with targets on the smaller side, 0 for candidates beyond the rank."""
    product = torch.bmm(rows, targets.mT)
    length = values.sqrt() if scaled.wide else torch.ones_like(values)
    weight = torch.where(values > rounding(values), 1 / length, torch.zeros_like(values))
    return product * weight[..., None]


def polish(scaled: Scaled, pairs: Eigenpairs, most: int, *, waits: bool) -> tuple[Eigenpairs, Tensor]:
    """Separate up to `most` leading vectors once more, from the matrix itself, and return their image too.

    K is only known to eps λ₁, which mixes vectors whose λ are close; rows of Y = U X are known to eps σ₁, so that Y Yᵀ,
    decomposed in float64, tells λ_i and λ_j apart to eps σ₁ σ_i.
    """
    width = min(pairs.rows.shape[1], most)
    rows = pairs.rows[:, :width]
    image = image_of(scaled, rows)
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


def image_of(scaled: Scaled, rows: Tensor) -> Tensor:
    """Rows U (B, k, m) times the matrix, in units of its norm: (B, k, max(N, D))."""
    return torch.bmm(rows, scaled.x.mT if scaled.wide else scaled.x) * scaled.inverse_norm


def right_vectors(scaled: Scaled, rows: Tensor, image: Tensor | None = None) -> Tensor:
    """Right singular vectors (B, k, D) of vectors on the smaller side (B, k, m), whose image may be known."""
    if not scaled.wide:
        return rows
    long = torch.bmm(rows, scaled.x.mT) if image is None else image
    length: Tensor = long.norm(dim=2, keepdim=True)
    return long / length.clamp_min(torch.finfo(long.dtype).tiny)


def take(rows: Tensor, index: Tensor) -> Tensor:
    """The rows of these indices, sample by sample."""
    # shape: (B, p, m), (B, k) -> (B, k, m)
    return rows.gather(1, expand(index, rows))


def expand(index: Tensor, rows: Tensor) -> Tensor:
    """Repeat indices of rows along the rows, as `gather` and `scatter_add` want them."""
    # shape: (B, k), (B, p, m) -> (B, k, m)
    return index[..., None].expand(-1, -1, rows.shape[2])
