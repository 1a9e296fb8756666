"""How figures are written in a Markdown table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |".replace("|  |", "| |") for line in lines)


def judged(
    value: float, form: str = ".2f", *, at_most: float | None = None, at_least: float | None = None, brief: bool = False
) -> str:
    """Return a figure with its target and whether it meets it; one more digit where rounding would hide a miss."""
    shown, limit = format(value, form), at_most if at_most is not None else at_least
    if limit is None:
        return shown
    at_least_is = at_most is None
    met = value >= limit if at_least_is else value <= limit
    if not met and (float(shown) >= limit if at_least_is else float(shown) <= limit):
        shown = format(value, ".4g")
    if brief:
        return shown if met else f"{shown} **not met**"
    return f"{shown} (target {'≥' if at_least_is else '≤'} {limit:g}: {'met' if met else '**not met**'})"


def spread(figure: Figures | None) -> str:
    """Return median and quartiles of a time in milliseconds or a rate in images a second; – where there is none."""
    if figure is None:
        return "does not fit into memory"
    middle, quartiles = pair(figure)
    return f"{middle} ({quartiles})"


def number(value: float | None) -> str:
    """Return a figure with three significant digits, whole from 100 on; – where there is none."""
    if value is None:
        return "–"
    size = abs(value)
    return f"{value:,.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def is_spread(value: Any) -> bool:
    """Whether a figure is times, from `measure.spread`."""
    return isinstance(value, Mapping) and "median_ms" in value


def is_rate(value: Any) -> bool:
    """Whether a figure is rates, from `measure.rate`."""
    return isinstance(value, Mapping) and "median_per_s" in value


def is_target(value: Any) -> bool:
    """Whether a figure comes with a target, from `measure.target`."""
    return isinstance(value, Mapping) and "value" in value and ("at_most" in value or "at_least" in value)


def pair(figure: Figures) -> tuple[str, str]:
    """Return median, and quartiles, of a time or a rate."""
    unit = "_ms" if "median_ms" in figure else "_per_s"
    return number(figure[f"median{unit}"]), f"{number(figure[f'q1{unit}'])}–{number(figure[f'q3{unit}'])}"
