"""What may be said about a method from a few seeds: the mean of paired differences and its confidence interval."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean and the interval that its true value lies in, as far as the values can tell.

    Attributes:
        mean: of the values, in their unit.
        low: lower end; None where a single value says nothing about spread.
        high: upper end; None where a single value says nothing about spread.
    """

    mean: float
    low: float | None
    high: float | None


def paired_interval(differences: Sequence[float], *, level: float = 0.95) -> Interval:
    """Return the mean of paired differences with Student's confidence interval.

    The interval is mean ± t · s / √n, with s the sample deviation (n − 1) of the differences and t the quantile
    (1 + level) / 2 of Student's distribution with n − 1 degrees of freedom. Pairing takes out what both sides share,
    here the seed: its labelled images, its initial weights, its order of the images.

    Args:
        differences: at least one finite number, e.g. the accuracy of a method less that of another on the same seed.
        level: probability with which the interval covers the true mean, where the differences are normal; 0 to 1.

    Returns:
        Mean, low and high; without low and high where there is one difference only.

    Raises:
        ValueError: no difference, one that is not finite, or a level outside of 0 to 1.

    Source:
        Student, The probable error of a mean, Biometrika 6, 1908.
    """
    if not differences or not all(math.isfinite(value) for value in differences):
        raise ValueError(f"expected at least one finite difference, got {list(differences)}")
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}")
    mean = statistics.fmean(differences)
    count = len(differences)
    if count == 1:
        return Interval(mean, None, None)
    half = student_quantile(level, count - 1) * statistics.stdev(differences) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


def seeds_needed(differences: Sequence[float], *, most: int, level: float = 0.95) -> int | None:
    """Return how many differences like these would have an interval that excludes zero, if their mean stayed.

    Args:
        differences: at least two finite numbers.
        most: more than so many are not looked for.
        level: see :func:`paired_interval`.

    Returns:
        The smallest n with t(n) · s / √n < |mean|; None where there is none up to ``most``.
    """
    mean, deviation = abs(statistics.fmean(differences)), statistics.stdev(differences)
    return next(
        (n for n in range(2, most + 1) if student_quantile(level, n - 1) * deviation / math.sqrt(n) < mean), None
    )


def student_quantile(level: float, freedom: int) -> float:
    """Return the t that a number drawn from Student's distribution lies within, to either side, with a probability.

    For a whole number of degrees of freedom ν the probability of |T| ≤ t is a finite sum in the angle θ = atan(t / √ν);
    it rises with θ, which is found by bisection.

    Args:
        level: the probability, between 0 and 1.
        freedom: degrees of freedom ν ≥ 1.

    Returns:
        The quantile (1 + level) / 2.

    Source:
        Abramowitz, Stegun, Handbook of Mathematical Functions, 1964, equations 26.7.3 and 26.7.4.
    """
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(high)


def _within(angle: float, freedom: int) -> float:
    """Return the probability of |T| ≤ √ν tan(angle)."""
    odd = freedom % 2
    cosine, term, total = math.cos(angle), math.cos(angle) if odd else 1.0, 0.0
    # Term by term, cos^j θ · (2·4·…) / (3·5·…) for odd ν from j = 1, and cos^j θ · (1·3·…) / (2·4·…) for even ν from 0.
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    part = math.sin(angle) * total
    return 2 / math.pi * (angle + part) if odd else part


def paired_differences(values: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """Subtract, seed by seed, a baseline from a method; seeds that one of the two lacks are left out.

    Args:
        values: a number for each seed.
        baseline: a number for each seed.

    Returns:
        value − baseline of the common seeds, in order of the seeds.
    """
    return [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]
