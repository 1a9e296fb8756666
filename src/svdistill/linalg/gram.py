"""Scaling of matrices, their Gram matrices, and how vectors go from the smaller side to the larger.

The letters are those of `svdistill.linalg.svd`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple
from warnings import warn

import torch
from torch import Tensor

from svdistill.errors import SvdistillWarning
from svdistill.linalg.solvers import Eigenpairs
from svdistill.linalg.squaring import separate

SMALL = 32  # the side up to which Gram matrices of any size make one batch


class Scaled(NamedTuple):
    """Matrices whose Gram matrices fit into the number format, and those Gram matrices with trace 1.

    The matrices of several taps can lie behind one another: tap after tap they make one batch of S = taps · B. What
    has a row for each of them is as wide as the widest tap needs, and zero beyond what a tap has. Those with N ≥ D
    come first.
    """

    xs: tuple[Tensor, ...]  # (B, D, N) of each tap, scaled and cleaned copies where some may be necessary
    grams: tuple[Tensor, ...]  # (taps · B, m, m) of taps of about one size, trace 1 or all zero; zero beyond a tap's m
    norm: Tensor  # (S,) ‖x‖, 0 where the sample is set aside
    inverse_norm: Tensor  # (S, 1, 1) 1 / ‖x‖, 0 where the sample is set aside
    factor: Tensor | None  # (S,) x = factor * input; None: 1
    usable: Tensor  # (S,) bool

    @property
    def narrow(self) -> int:
        """How many of the taps have N ≥ D, so that the Gram matrix is over channels and v = u, not v = Xu / ‖Xu‖."""
        return sum(not is_wide(x) for x in self.xs)

    @property
    def unit(self) -> Tensor:
        """‖input‖ as (S,): what √λ has to be multiplied with to give σ."""
        return self.norm if self.factor is None else self.norm / self.factor

    @property
    def chain(self) -> Tensor:
        """1 / ‖input‖ as (S, 1, 1): d(x / ‖x‖) / d(input), along the directions that change vectors."""
        return self.inverse_norm if self.factor is None else self.inverse_norm * self.factor[:, None, None]

    def of(self, taps: slice) -> slice:
        """Where in the batch of all taps some of them are."""
        first, last, _ = taps.indices(len(self.xs))
        return slice(first * len(self.xs[0]), last * len(self.xs[0]))

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Put the rows (·, k, m) that belong to each of the Gram matrices together, as (S, k, m)."""
        if len(parts) == 1:
            return parts[0]
        width = max(part.shape[2] for part in parts)
        out = parts[0].new_zeros(len(self.norm), parts[0].shape[1], width)
        for into, part in zip(self.parts(out), parts, strict=True):
            into.copy_(part)
        return out

    def parts(self, rows: Tensor) -> list[Tensor]:
        """Take apart what belongs to each of the Gram matrices, (S, k, m)."""
        pieces = rows.split([len(gram) for gram in self.grams])
        return [piece[..., : gram.shape[2]] for piece, gram in zip(pieces, self.grams, strict=True)]


def is_wide(x: Tensor) -> bool:
    """Whether N < D, so that the Gram matrix is over positions."""
    return x.shape[2] < x.shape[1]


def arranged(xs: Sequence[Tensor]) -> list[int]:
    """Return in which order taps go behind one another: N > D, N = D, N < D, and those of similar m together."""
    return sorted(range(len(xs)), key=lambda tap: _place(xs[tap]))


def _place(x: Tensor) -> tuple[int, int]:
    channels, positions = x.shape[1:]
    kind = (positions <= channels) + (positions < channels)
    return kind, -positions if kind == 2 else channels


def scale(xs: Sequence[Tensor], *, waits: bool) -> Scaled:
    """Form Gram matrices of trace 1; where necessary, samples are rescaled by powers of two or set aside.

    Args:
        xs: (B, D, N) of each tap, in the order of `arranged`.
        waits: whether to look at the data, which makes a GPU wait, and to rescale only where it is necessary; of a
            single tap.
    """
    info = torch.finfo(xs[0].dtype)
    if waits:
        (gram,) = gram_matrices(xs)
        trace = gram.diagonal(dim1=1, dim2=2).sum(-1)
        usable = (trace > info.tiny * 1e6) & (trace < info.max * 1e-4)
        if bool(usable.all()):
            norm = trace.sqrt()
            return Scaled(tuple(xs), (gram.div_(trace[:, None, None]),), norm, _inverse(norm, usable), None, usable)
    factor, usable = powers_of_two(*xs, warns=waits)
    xs = cleaned(xs, factor, usable)
    grams = gram_matrices(xs)
    trace = torch.cat([gram.diagonal(dim1=1, dim2=2).sum(-1) for gram in grams])
    trace = torch.where(usable, trace, torch.ones_like(trace))
    for gram, part in zip(grams, trace.split([len(gram) for gram in grams]), strict=True):
        gram.div_(part[:, None, None])
    norm = trace.sqrt() * usable
    return Scaled(xs, grams, norm, _inverse(norm, usable), factor, usable)


def _inverse(norm: Tensor, usable: Tensor) -> Tensor:
    return torch.where(usable, 1 / norm, torch.zeros_like(norm))[:, None, None]


def powers_of_two(*xs: Tensor, warns: bool, what: str = "matrices") -> tuple[Tensor, Tensor]:
    """Find the power of two that brings each sample to a largest magnitude of 1 to 2, which changes no digit.

    Args:
        xs: (B, D, N) of each tap.
        warns: whether to warn of samples that hold NaN or infinity; a GPU has to be waited for to know.
        what: what the samples are called in the warning.

    Returns:
        The factors (S,), tap after tap, and which samples can be used (S,): those that are finite and not zero. The
        factor of the others is 1; `clean` applies both.
    """
    largest = torch.cat([_largest(x) for x in xs])
    finite = largest.isfinite()
    if warns and not bool(finite.all()):
        warn(
            f"{int((~finite).sum())} of {len(largest)} {what} hold NaN or infinity and were set aside; "
            "look for a learning rate that is too high or for damaged input",
            SvdistillWarning,
            stacklevel=3,
        )
    usable = finite & (largest >= torch.finfo(largest.dtype).tiny)
    return torch.exp2(-torch.floor(torch.log2(torch.where(usable, largest, torch.ones_like(largest))))), usable


def _largest(x: Tensor) -> Tensor:
    """Return the largest magnitude in each sample (B, D, N), NaN where there is one."""
    if x.device.type == "cpu":  # where this is thirty times as fast as the norm, which elsewhere is one launch
        return torch.maximum(x.amax((1, 2)), -x.amin((1, 2)))
    largest: Tensor = torch.linalg.vector_norm(x, math.inf, dim=(1, 2))
    return largest


def clean(x: Tensor, factor: Tensor, usable: Tensor) -> Tensor:
    """Multiply samples (B, D, N) by their factors (B,), and replace those that cannot be used by zero."""
    return torch.where(
        usable[:, None, None], x * factor[:, None, None], torch.zeros((), dtype=x.dtype, device=x.device)
    )


def cleaned(xs: Sequence[Tensor], factor: Tensor, usable: Tensor) -> tuple[Tensor, ...]:
    """`clean` each tap with its part of the factors (S,)."""
    parts = zip(xs, factor.split(len(xs[0])), usable.split(len(xs[0])), strict=True)
    return tuple(clean(*part) for part in parts)


def gram_matrices(xs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """K on the smaller side, not yet divided by its trace; taps of about one size are one batch (taps · B, m, m)."""
    return tuple(products([x.mT if is_wide(x) else x for x in group]) for group in _groups(xs))


def products(matrices: Sequence[Tensor]) -> Tensor:
    """Return A Aᵀ of the (B, m, n) of each tap, as (taps · B, m, m) with the largest m."""
    if len(matrices) == 1:
        return torch.bmm(matrices[0], matrices[0].mT)
    return multiply(matrices, [a.mT for a in matrices], height=max(a.shape[1] for a in matrices))


def multiply(rows: Tensor | Sequence[Tensor], matrices: Sequence[Tensor], *, height: int | None = None) -> Tensor:
    """Multiply the rows of each tap, (S, k, ≥ a) or (B, k, a) each, with its matrix (B, a, b): (S, height, largest b).

    Args:
        rows: of all taps, or a sequence of those of each.
        matrices: of each tap.
        height: number of rows of the result; by default k.
    """
    pieces = rows.split(len(matrices[0])) if isinstance(rows, Tensor) else rows
    if len(matrices) == 1:
        return torch.bmm(pieces[0][..., : matrices[0].shape[1]], matrices[0])
    first, width = pieces[0], max(matrix.shape[2] for matrix in matrices)
    height = height or first.shape[1]
    out = first.new_zeros(len(matrices), len(first), height, width)
    for into, piece, matrix in zip(out, pieces, matrices, strict=True):
        target = into[:, : piece.shape[1], : matrix.shape[2]]
        torch.bmm(piece[..., : matrix.shape[1]], matrix, out=target)
    return out.flatten(0, 1)


def _groups(xs: Sequence[Tensor]) -> list[list[Tensor]]:
    """Put neighbours together whose Gram matrices are small or of similar size: a launch costs more than the zeros."""
    groups: list[list[Tensor]] = []
    for x in xs:
        sizes = [min(one.shape[1:]) for one in (*(groups[-1] if groups else ()), x)]
        if groups and (max(sizes) <= SMALL or 4 * min(sizes) >= 3 * max(sizes)):
            groups[-1].append(x)
        else:
            groups.append([x])
    return groups


def rounding(values: Tensor) -> Tensor:
    """The λ (B, 1) at and below which a vector is rounding, not part of the matrix: it decides the rank."""
    return 25 * torch.finfo(values.dtype).eps * values[:, :1]


def to_smaller_side(scaled: Scaled, rows: Tensor) -> Tensor:
    """Bring rows (S, k, D) to the smaller side (S, k, m), where inner products with u are cheap."""
    narrow = scaled.narrow
    if narrow == len(scaled.xs):
        return rows
    wide = multiply(rows[scaled.of(slice(narrow, None))], scaled.xs[narrow:])
    wide = wide * scaled.inverse_norm[scaled.of(slice(narrow, None))]
    return behind(rows[scaled.of(slice(narrow))], wide, max(min(x.shape[1:]) for x in scaled.xs))


def behind(first: Tensor, second: Tensor, width: int) -> Tensor:
    """Put rows (n, k, ·) of some taps behind those of others, (n + n', k, width); either may be empty."""
    if not len(first):
        return second
    out = first.new_zeros(len(first) + len(second), first.shape[1], width)
    for part, piece in ((out[: len(first)], first), (out[len(first) :], second)):
        least = min(width, piece.shape[2])
        part[..., :least] = piece[..., :least]
    return out


def cosines(scaled: Scaled, values: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    """Inner products (S, p, k) of candidates with targets on the smaller side, 0 for candidates beyond the rank."""
    product, length = torch.bmm(rows, targets.mT), values.sqrt()
    length[scaled.of(slice(scaled.narrow))] = 1
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
    """Rows U (S, k, m) times the matrix, in units of its norm: (S, k, max(N, D))."""
    return multiply(rows, [x.mT if is_wide(x) else x for x in scaled.xs]) * scaled.inverse_norm


def right_vectors(scaled: Scaled, rows: Tensor, image: Tensor | None = None) -> Tensor:
    """Right singular vectors (S, k, D) of vectors on the smaller side (S, k, m), whose image may be known."""
    narrow = scaled.narrow
    if narrow == len(scaled.xs):
        return rows
    where = scaled.of(slice(narrow, None))
    long = multiply(rows[where], [x.mT for x in scaled.xs[narrow:]]) if image is None else image[where]
    long = behind(rows[: where.start], long, max(x.shape[1] for x in scaled.xs))
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
