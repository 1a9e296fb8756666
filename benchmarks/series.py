"""`python -m benchmarks series` draws docs/cifar100.png: what each method gains against the share of the labels.

It reads docs/benchmarks/regimes-cifar100.json, which `python -m benchmarks regimes` writes, and trains nothing.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks import regimes
from benchmarks.layout import Figures
from svdistill.atomic import replacing
from svdistill.methods import BASELINE
from svdistill.report.statistics import Interval

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "cifar100.png"
# Okabe and Ito's palette; KD-SVD is blue, dark as we recommend it, alone or in a sum, and stands out by its width.
_SVD, _RECOMMENDED = "#0072B2", "#08306B"
_OTHERS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#8a8f98", "#6b4fa0", "#7a5230")
_OWN_VECTORS = "svd-own-vectors"
_DASHES = {regimes.PUBLISHED: (4, 2), _OWN_VECTORS: (1, 0), "svd-recommended": (1, 0)}
_SUM_DASHES = (1.5, 1.2)
_MARKERS = {
    regimes.PUBLISHED: "o",
    _OWN_VECTORS: "X",
    "svd-recommended": "p",
    "svd-soft-target": "h",
    "svd-soft-target-standardized": "d",
    "svd-dkd": "*",
}


class Curve(NamedTuple):
    """One method over the shares.

    Attributes:
        method: its name.
        shares: of the labels, in percent, rising.
        gains: in points, with their intervals, one for each share.
    """

    method: str
    shares: tuple[int, ...]
    gains: tuple[Interval, ...]


def curves(figures: Figures, pair: str, *, unlabelled: bool) -> list[Curve]:
    """Return what every method gains over the student alone, for the shares where that was measured.

    Args:
        figures: those of the small-data series.
        pair: of `regimes.PAIRS`.
        unlabelled: whether the other images stand beside, without labels.
    """
    known = {regime.recipe: regime for regime in regimes.SECTIONS["regimes-cifar100"]}
    found: dict[str, dict[int, Interval]] = {}
    for share in regimes.SHARES:
        regime = known[regimes.series_recipe(pair, share, unlabelled=unlabelled)]
        baseline = regimes.baseline_of(regime, figures)
        for method in regime.methods:
            runs = figures["regimes"].get(regime.recipe, {}).get(method, {})
            gain = None if method == BASELINE else regimes.gain(runs, baseline)
            if gain is not None:
                found.setdefault(method, {})[share] = gain
    ordered = [(method, found[method]) for method in regimes.METHODS if method in found]
    return [Curve(method, tuple(gains), tuple(gains.values())) for method, gains in ordered]


def draw(figures: Figures, path: Path) -> None:
    """Write the figure: a row for each pair, a column with and one without the other images.

    Args:
        figures: those of the small-data series.
        path: the PNG file.

    Raises:
        SystemExit: nothing was measured.
    """
    rows = {pair: [curves(figures, pair, unlabelled=beside) for beside in (False, True)] for pair in regimes.PAIRS}
    rows = {pair: row for pair, row in rows.items() if any(row)}
    if not rows:
        raise SystemExit("error: nothing of the series was measured; run `python -m benchmarks regimes` first")
    shares = sorted({share for row in rows.values() for lines in row for line in lines for share in line.shares})
    with matplotlib.rc_context({"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(12, 0.8 + 3.9 * len(rows)), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(rows), 2, sharey="row", squeeze=False)
        for axes_row, (pair, row) in zip(panels, rows.items(), strict=True):
            for axes, lines, beside in zip(axes_row, row, ("nothing else", "the other images without"), strict=True):
                _panel(axes, lines, shares, f"{regimes.PAIRS[pair][0]}: some labels, {beside}")
            axes_row[0].set_ylabel("gain over the student alone, points")
        _legend(figure, [line.method for row in rows.values() for lines in row for line in lines])
        with replacing(path) as file:
            figure.savefig(file, format="png")


def _panel(axes: Axes, lines: Sequence[Curve], shares: Sequence[int], title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    if not lines:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color="#666666")
    axes.axhline(0, color="#444444", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{share} %" for share in shares])
    axes.minorticks_off()
    axes.set_xlim(shares[0] / 1.25, shares[-1] * 1.25)
    axes.set_xlabel("share of the labels")
    for position, line in enumerate(lines):
        look = _look(line.method)
        # One seed says nothing about spread: there the band has no width.
        low = [gain.mean if gain.low is None else gain.low for gain in line.gains]
        high = [gain.mean if gain.high is None else gain.high for gain in line.gains]
        means = [gain.mean for gain in line.gains]
        if len(line.shares) == 1:  # a band needs two: whiskers side by side
            place = line.shares[0] * 1.04 ** (position - (len(lines) - 1) / 2)
            axes.plot([place, place], [*low, *high], color=look.colour, linewidth=look.width)
            axes.plot([place], means, look.marker, color=look.colour, markersize=7)
            continue
        axes.plot(line.shares, means, marker=look.marker, markersize=6, **look.drawn)
        axes.fill_between(line.shares, low, high, color=look.colour, alpha=0.07 * look.width**1.3, linewidth=0)
    axes.margins(y=0.05)


class _Look(NamedTuple):
    colour: str
    dashes: tuple[float, float]
    width: float
    marker: str

    @property
    def drawn(self) -> dict[str, Any]:
        """What matplotlib needs to draw its line."""
        return {"color": self.colour, "dashes": self.dashes, "linewidth": self.width}


def _look(method: str) -> _Look:
    if method.startswith("svd"):
        width = 1.4 if method == regimes.PUBLISHED else 2.4
        colour = _SVD if method in (regimes.PUBLISHED, _OWN_VECTORS) else _RECOMMENDED
        return _Look(colour, _DASHES.get(method, _SUM_DASHES), width, _MARKERS[method])
    others = [name for name in regimes.METHODS if not name.startswith("svd") and name not in (BASELINE, "fitnet-hint")]
    place = others.index(method) % len(_OTHERS)
    return _Look(_OTHERS[place], (1, 0), 1.0, "sD^v<>P"[place])


def _legend(figure: Figure, drawn: Sequence[str]) -> None:
    """Name each method once, below the panels."""
    handles = []
    for method in (name for name in regimes.METHODS if name in drawn):
        look = _look(method)
        handles.append(Line2D([], [], marker=look.marker, markersize=6, label=regimes.METHODS[method], **look.drawn))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9, handlelength=3.2)


def main(arguments: Sequence[str]) -> None:
    """Draw the figure from the figures at hand."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks series", description=__doc__)
    parser.add_argument("--output", type=Path, default=PICTURE, help="the PNG file")
    given = parser.parse_args(arguments)
    source = regimes.FIGURES / "regimes-cifar100.json"
    if not source.exists():
        raise SystemExit(f"error: {source} does not exist yet; run `python -m benchmarks regimes` first")
    draw(json.loads(source.read_text()), given.output)
    print(given.output)
