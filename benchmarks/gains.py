"""What every method gains where labels are few, over all data sets: the tables of docs/choosing.md.

They are made from the figures that `python -m benchmarks regimes` writes; nothing is trained here.
"""

from collections.abc import Mapping
from typing import NamedTuple

from benchmarks import regimes
from benchmarks.layout import Figures, grid
from benchmarks.regimes import Runs
from svdistill.methods import BASELINE, TEACHER
from svdistill.report.numbers import signed

NAMES = {"regimes-cifar100": "CIFAR-100", "regimes-fashion-mnist": "Fashion-MNIST", "regimes-digits": "digits"}


class _Column(NamedTuple):
    head: str
    methods: Mapping[str, Runs]


def table(figures: Mapping[str, Figures], *, beside: bool) -> str:
    """Return the gain of each method over the student alone: a column for each data set, pair and number of labels.

    Args:
        figures: those of all sections, by name.
        beside: whether the other images stand beside, without labels.
    """
    columns = [
        column
        for section, data in NAMES.items()
        for regime in regimes.SECTIONS[section]
        if section in figures and regime.alone and (column := _column(data, regime, figures[section], beside=beside))
    ]
    alone = ["student alone, %", *(f"{regimes.mean_accuracy(column.methods[BASELINE]):.1f}" for column in columns)]
    gained = [name for name in regimes.METHODS if name != BASELINE and any(name in one.methods for one in columns)]
    rows = [[regimes.METHODS[name], *(_cell(column.methods, name) for column in columns)] for name in gained]
    return grid(["", *(column.head for column in columns)], [alone, *rows])


def _column(data: str, regime: regimes.Regime, figures: Figures, *, beside: bool) -> _Column | None:
    """Return what was measured in a regime with the other images beside, or in the same without; none = nothing."""
    found = figures["regimes"].get(regime.recipe if beside else regime.alone, {})
    measured = {method: runs for method, runs in found.items() if method not in (BASELINE, TEACHER)}
    baseline = regimes.baseline_of(regime, figures)
    if not (measured and baseline):
        return None
    pair = regime.column.partition(",")[0] if regime.column else "VGG"
    labels = next(iter(baseline.values()))["train_images"]
    return _Column(f"{data}, {pair}: {labels:,} labels", {BASELINE: baseline, **measured})


def _cell(methods: Mapping[str, Runs], method: str) -> str:
    """Return a gain with half its interval, bold where it is sure and no other surely ahead; – where not measured."""
    runs = methods.get(method)
    gain = regimes.gain(runs, methods[BASELINE]) if runs else None
    if not runs or gain is None:
        return "–"
    text = signed(gain.mean, digits=1)
    if gain.low is None or gain.high is None:
        return text
    text += f" ± {gain.high - gain.mean:.1f}"
    best = max(methods.values(), key=regimes.mean_accuracy)
    return f"**{text}**" if gain.low > 0 and regimes.is_level(runs, best) else text
