"""The gauge of singular vectors: canonical signs, and which student vector answers which teacher vector."""

import torch
from torch import Tensor

from svdistill.choices import ASSIGNMENTS, Assignment
from svdistill.errors import ShapeError
from svdistill.linalg.options import check_choice


def canonical_signs(rows: Tensor, lean: Tensor, scale: Tensor) -> Tensor:
    """Give each vector the sign that no solver decides: a positive inner product with the mean feature.

    Where that product is zero to rounding, the entry of largest magnitude is made positive; of several that are equal
    to rounding, the first.

    Args:
        rows: (B, k, D) unit vectors v.
        lean: (B, k) inner products of v with the spatial mean feature, or any positive multiple of them.
        scale: (B, 1) or (B, k), the magnitude below whose rounding a `lean` counts as zero.

    Returns:
        (B, k) of +1 and −1.

    Source: Lee et al., ECCV 2018, leaves the sign open; a target depends on the relative sign of neighbouring taps.
    """
    magnitude, rounding = rows.abs(), 100 * torch.finfo(rows.dtype).eps
    first = (magnitude >= (1 - rounding) * magnitude.amax(2, keepdim=True)).int().argmax(2, keepdim=True)
    largest = rows.gather(2, first)[..., 0]
    undecided = lean.abs() <= rounding * scale
    return _sign(torch.where(undecided, largest, lean))


def assign(cosine: Tensor, *, assignment: Assignment = "argmax") -> Tensor:
    """Choose for each teacher vector the student vector that answers it.

    `argmax` is the published rule j(i) = argmax_j |v_T,i · v_S,j|, which can take a student vector twice;
    `one_to_one` goes through the pairs from the largest |cosine| down and uses each vector once.

    Args:
        cosine: (B, p, k) inner products of p student and k teacher vectors; one_to_one needs p ≥ k.
        assignment: "argmax" or "one_to_one".

    Returns:
        (B, k) int64 indices of student vectors.

    Raises:
        OptionError: unknown assignment.
        ShapeError: too few student vectors.

    Source: Lee et al., ECCV 2018, equation 5 (argmax).
    """
    check_choice("assignment", assignment, ASSIGNMENTS)
    magnitude = cosine.abs()
    batch, candidates, wanted = cosine.shape
    if assignment == "argmax" or not cosine.numel():
        return magnitude.argmax(1) if candidates else cosine.new_zeros(batch, wanted, dtype=torch.int64)
    if candidates < wanted:
        raise ShapeError(f"one_to_one needs as many student vectors as teacher vectors, got {candidates} for {wanted}")
    chosen = torch.zeros(batch, wanted, dtype=torch.int64, device=cosine.device)
    for _ in range(wanted):
        best = magnitude.flatten(1).argmax(1, keepdim=True)
        student, teacher = best // wanted, best % wanted
        chosen.scatter_(1, teacher, student)
        magnitude = magnitude.scatter(1, student[..., None].expand(-1, 1, wanted), -1.0)
        magnitude = magnitude.scatter(2, teacher[..., None].expand(-1, candidates, 1), -1.0)
    return chosen


def aligning_signs(cosine: Tensor) -> Tensor:
    """Return the signs (+1 or −1) that make inner products of any shape non-negative."""
    return _sign(cosine)


def _sign(value: Tensor) -> Tensor:
    return torch.where(value < 0, -torch.ones_like(value), torch.ones_like(value))
