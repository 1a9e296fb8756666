"""What every method gains where labels are few, over all data sets: the tables of docs/choosing.md.

They are made from the figures that `python -m benchmarks regimes` writes; nothing is trained here.
"""

from collections.abc import Mapping
from typing import NamedTuple

from benchmarks import regimes
from benchmarks.layout import Figures, grid
from benchmarks.regimes import Regime, Runs
from svdistill.methods import BASELINE, TEACHER
from svdistill.report.numbers import signed
from svdistill.report.statistics import Interval
from svdistill.report.verdict import is_gain

NAMES = {"regimes-cifar100": "CIFAR-100", "regimes-fashion-mnist": "Fashion-MNIST", "regimes-digits": "digits"}
OF_ANOTHER_TEACHER = "°"


class _Column(NamedTuple):
    """What was measured in a regime.

    Attributes:
        head: data set, pair and number of labels.
        methods: the runs of each, the student alone among them.
        apart: the gains of others, from another teacher and over a student alone that was trained beside them.
    """

    head: str
    methods: Mapping[str, Runs]
    apart: Mapping[str, Interval]


def table(figures: Mapping[str, Figures], *, beside: bool) -> str:
    """Return the gain of each method over the student alone: a column for each data set, pair and number of labels.

    Args:
        figures: those of all sections, by name.
        beside: whether the other images stand beside, without labels.
    """
    columns = [
        column
        for section in NAMES
        for regime in regimes.SECTIONS[section]
        if section in figures and regime.alone and (column := _column(section, regime, figures, beside=beside))
    ]
    alone = ["student alone, %", *(f"{regimes.mean_accuracy(column.methods[BASELINE]):.1f}" for column in columns)]
    known = {name for column in columns for name in (*column.methods, *column.apart)} - {BASELINE}
    rows = [
        [title, *(_cell(column, method) for column in columns)]
        for method, title in regimes.METHODS.items()
        if method in known
    ]
    return grid(["", *(column.head for column in columns)], [alone, *rows])


def _column(section: str, regime: Regime, figures: Mapping[str, Figures], *, beside: bool) -> _Column | None:
    """Return what was measured in a regime with the other images beside, or in the same without; none = nothing."""
    measured, baseline = _measured(regime, figures[section], beside=beside)
    if not (measured and baseline):
        return None
    apart: dict[str, Interval] = {}
    for name in figures:
        if regimes.apart_from(name) == section:
            others, theirs = _measured(regime, figures[name], beside=beside)
            gains = {method: regimes.gain(runs, theirs) for method, runs in others.items() if method not in measured}
            apart |= {method: gain for method, gain in gains.items() if gain is not None}
    pair = regime.column.partition(",")[0] if regime.column else "VGG"
    labels = next(iter(baseline.values()))["train_images"]
    return _Column(f"{NAMES[section]}, {pair}: {labels:,} labels", {BASELINE: baseline, **measured}, apart)


def _measured(regime: Regime, figures: Figures, *, beside: bool) -> tuple[Mapping[str, Runs], Runs]:
    """Return the methods' runs and those of the student alone."""
    found = figures["regimes"].get(regime.recipe if beside else regime.alone, {})
    methods = {method: runs for method, runs in found.items() if method not in (BASELINE, TEACHER)}
    return methods, regimes.baseline_of(regime, figures)


def _cell(column: _Column, method: str) -> str:
    """Return a gain with half its interval, bold where it is sure and no other surely ahead; – where not measured."""
    if method in column.apart:
        return f"{_gain(column.apart[method])} {OF_ANOTHER_TEACHER}"
    runs = column.methods.get(method)
    gain = regimes.gain(runs, column.methods[BASELINE]) if runs else None
    if not runs or gain is None:
        return "–"
    best = max(column.methods.values(), key=regimes.mean_accuracy)
    return f"**{_gain(gain)}**" if is_gain(gain) and regimes.is_level(runs, best) else _gain(gain)


def _gain(gain: Interval) -> str:
    text = signed(gain.mean, digits=1)
    return text if gain.high is None else f"{text} ± {gain.high - gain.mean:.1f}"
