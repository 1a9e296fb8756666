"""How numbers are written."""

import numpy as np
import pytest

from svdistill.report.numbers import points, row_fractions, signed, whole_percent
from svdistill.report.statistics import Interval


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(1.234, 2, "+1.23"), (-1.236, 2, "−1.24"), (0.004, 2, "0.00"), (-0.004, 2, "0.00"), (12.0, 0, "+12")],
)
def test_signed(value: float, digits: int, text: str) -> None:
    """A true minus, and no sign on what rounds to zero."""
    assert signed(value, digits=digits) == text


def test_points() -> None:
    """An interval that is known is written, a wide one with fewer digits."""
    assert points(Interval(1.5, None, None)) == "+1.50"
    assert points(Interval(1.5, -50.25, 53.25)) == "+1.5 (−50.2 to +53.2)"


def test_row_fractions() -> None:
    """Each row by its own sum, and zeros for a class without images."""
    assert row_fractions(np.array([[1, 3], [0, 0]])).tolist() == [[0.25, 0.75], [0.0, 0.0]]


@pytest.mark.parametrize(("value", "text"), [(0.005, "1 %"), (0.0049, "0 %"), (0.125, "13 %"), (1.0, "100 %")])
def test_whole_percent(value: float, text: str) -> None:
    """Halves are rounded up."""
    assert whole_percent(value) == text
