"""Numbers as they are read, and as they are written for people: signs, percent, gains with their intervals."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdistill.report.statistics import Interval

_LARGEST = 2**63  # of whole numbers; one of a few hundred digits is no float


def is_finite(value: Any) -> bool:
    """Tell whether something that was read is a number that can be counted with and drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < _LARGEST


def points(interval: Interval) -> str:
    """Write a gain and its interval: ``+1.23 (+0.98 to +1.48)``; a wide one needs fewer digits."""
    if interval.low is None or interval.high is None:
        return signed(interval.mean)
    digits = 2 if interval.high - interval.low < 20 else 1
    mean, low, high = (signed(value, digits=digits) for value in (interval.mean, interval.low, interval.high))
    return f"{mean} ({low} to {high})"


def signed(value: float, *, digits: int = 2) -> str:
    """Write a number with its sign, a true minus, and none on what rounds to zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if not text.strip("+-0.") else text.replace("-", "−")


def row_fractions(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Divide each row of a confusion matrix by its sum; a class without images has zeros."""
    rows = np.asarray(counts, dtype=np.float64)
    total = rows.sum(axis=1, keepdims=True)
    found: NDArray[np.float64] = np.divide(rows, total, out=np.zeros_like(rows), where=total > 0)
    return found


def whole(value: float) -> str:
    """Write a fraction as a whole number of percent, halves up, without the sign."""
    return str(math.floor(100 * value + 0.5))


def whole_percent(value: float) -> str:
    """Write a fraction as a whole number of percent, with the sign: ``12 %``."""
    return f"{whole(value)} %"
