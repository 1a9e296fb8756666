"""Intervals against values worked out by hand and against SciPy's own test."""

import math

import pytest
from scipy import stats

from svdistill.report.statistics import Interval, paired_differences, paired_interval

EPS = 2.3e-16


def test_three_differences_worked_by_hand() -> None:
    """1, 2, 3: mean 2, deviation 1, t of two degrees of freedom 4.302653 (a printed table), over √3."""
    mean, low, high = paired_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert low == pytest.approx(2 - 4.302652729749464 / math.sqrt(3), rel=100 * EPS)
    assert high == pytest.approx(2 + 4.302652729749464 / math.sqrt(3), rel=100 * EPS)


def test_two_differences_have_a_closed_form() -> None:
    """With one degree of freedom Student's distribution is Cauchy's, whose quantile is tan(π (p − ½))."""
    _, low, high = paired_interval([0.0, 2.0])
    assert high == pytest.approx(1 + math.tan(math.pi * 0.475), rel=100 * EPS)
    assert low == pytest.approx(1 - math.tan(math.pi * 0.475), rel=100 * EPS)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_agrees_with_scipys_paired_test(level: float) -> None:
    """The same interval as that of SciPy's test of two related samples."""
    ours, other = [81.9, 82.4, 82.1, 83.0, 81.5], [81.2, 82.5, 81.4, 82.2, 81.3]
    interval = stats.ttest_rel(ours, other).confidence_interval(level)
    _, low, high = paired_interval([a - b for a, b in zip(ours, other, strict=True)], level=level)
    assert (low, high) == pytest.approx((interval.low, interval.high), rel=1e3 * EPS, abs=100 * EPS)


def test_one_difference_has_no_interval() -> None:
    """A single seed says nothing about spread."""
    assert paired_interval([0.5]) == Interval(0.5, None, None)


def test_equal_differences_leave_a_point() -> None:
    """Without spread the interval is the mean itself."""
    assert paired_interval([0.25, 0.25, 0.25]) == Interval(0.25, 0.25, 0.25)


@pytest.mark.parametrize(("values", "level"), [([], 0.95), ([math.nan], 0.95), ([1.0, math.inf], 0.95), ([1.0], 1.0)])
def test_nonsense_is_refused(values: list[float], level: float) -> None:
    """No difference, no number, or a level that no interval has."""
    with pytest.raises(ValueError, match="expected"):
        paired_interval(values, level=level)


def test_differences_are_paired_by_seed() -> None:
    """Seeds that only one side has do not count, and the order of insertion does not matter."""
    assert paired_differences({2: 5.0, 0: 1.0, 3: 9.0}, {0: 0.5, 1: 7.0, 2: 3.0}) == [0.5, 2.0]
