"""Intervals against values worked out by hand, printed tables, and a numerical integral."""

import math

import pytest

from svdistill.report.statistics import Interval, paired_differences, paired_interval, student_quantile

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


@pytest.mark.parametrize(
    ("level", "low", "high"),
    [
        (0.5, 0.3304309280166038, 0.589569071983395),
        (0.95, -0.025679535412606036, 0.9456795354126049),
        (0.99, -0.34538767142436444, 1.2653876714243633),
    ],
)
def test_agrees_with_a_paired_test(level: float, low: float, high: float) -> None:
    """The interval of the test of two related samples in SciPy 1.17.1."""
    ours, other = [81.9, 82.4, 82.1, 83.0, 81.5], [81.2, 82.5, 81.4, 82.2, 81.3]
    _, *ends = paired_interval([a - b for a, b in zip(ours, other, strict=True)], level=level)
    assert ends == pytest.approx([low, high], rel=1e3 * EPS, abs=100 * EPS)


@pytest.mark.parametrize(
    ("level", "freedom", "printed"),
    [
        (0.95, 1, 12.706),
        (0.95, 3, 3.182),
        (0.95, 4, 2.776),
        (0.95, 9, 2.262),
        (0.95, 30, 2.042),
        (0.95, 120, 1.98),
        (0.99, 2, 9.925),
        (0.99, 7, 3.499),
        (0.5, 5, 0.727),
    ],
)
def test_quantiles_of_a_printed_table(level: float, freedom: int, printed: float) -> None:
    """Abramowitz and Stegun, table 26.10, to its three digits."""
    assert round(student_quantile(level, freedom), 3) == printed


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10, 29, 200])
@pytest.mark.parametrize("level", [0.01, 0.5, 0.95, 0.999])
def test_quantile_inverts_the_integral_of_the_density(level: float, freedom: int) -> None:
    """Simpson's rule over the density between −t and t gives the level back."""
    t = student_quantile(level, freedom)
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)

    def density(angle: float) -> float:
        # In t = √ν tan(angle), so that long tails need no more steps than short ones.
        return math.exp(scale) * math.sqrt(freedom) * math.cos(angle) ** (freedom - 1)

    end, steps = math.atan(t / math.sqrt(freedom)), 4000
    values = [density(end * i / steps) for i in range(steps + 1)]
    simpson = values[0] + values[-1] + 4 * math.fsum(values[1:-1:2]) + 2 * math.fsum(values[2:-1:2])
    assert 2 * simpson * end / (3 * steps) == pytest.approx(level, rel=1e-10)


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
