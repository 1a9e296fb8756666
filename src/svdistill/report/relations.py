"""The relation of two neighbouring taps, from their first singular vectors, and the order its channels are shown in."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

CHANNELS = 64  # most rows and columns of a relation that is shown


def relation(front: Vector, back: Vector, beta: float) -> NDArray[np.float64]:
    """Return exp(−(front[m] − back[n])² / β) of two vectors, (F,) and (B,), as (F, B)."""
    made: NDArray[np.float64] = np.exp(-np.square(front[:, None] - back[None, :]) / beta)
    return made


def relations(vectors: Sequence[Vector], orders: Sequence[NDArray[np.intp]], beta: float) -> list[NDArray[np.float64]]:
    """Return the relation of each vector to the next, with the channels of each that its order names."""
    kept = [vector[order] for vector, order in zip(vectors, orders, strict=True)]
    return [relation(front, back, beta) for front, back in itertools.pairwise(kept)]


def channel_order(vector: Vector) -> NDArray[np.intp]:
    """Sort the channels of a vector (D,) by their value, and of many keep some that are spread evenly."""
    order = np.argsort(vector, kind="stable")
    kept: NDArray[np.intp] = order[np.linspace(0, len(order) - 1, min(len(order), CHANNELS)).round().astype(int)]
    return kept


def darkest(goal: NDArray[np.float64]) -> float:
    """Return the value that a teacher's relation is darkest at: below it is a hundredth of the entries."""
    # Otherwise the lowest hundredth would take all the dark colours.
    return float(np.quantile(goal, 0.01))
