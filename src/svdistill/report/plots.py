"""Figures, from records alone."""

import itertools
import os
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from svdistill.atomic import replacing
from svdistill.errors import DataError
from svdistill.names import printable, printable_lines
from svdistill.report.tables import mean_deviation

# Okabe and Ito's palette, told apart with every common kind of colour blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
TEACHER = "#444444"


class Curve(NamedTuple):
    """The runs of one method, one for each seed.

    Attributes:
        name: what stands at the end of the line.
        runs: for each run its metrics, one mapping for each epoch, with ``epoch`` and, where the network was evaluated,
            ``accuracy``.
    """

    name: str
    runs: Sequence[Sequence[Mapping[str, Any]]]


def training_curves(curves: Sequence[Curve], path: Path, *, teacher: float | None = None, title: str = "") -> None:
    """Draw test accuracy over the epochs, mean and deviation over the seeds, and the last accuracy of each run.

    Args:
        curves: the methods, drawn in this order.
        path: the PNG file to be written, atomically.
        teacher: accuracy of the teacher, between 0 and 1, for a line across; None = no line.
        title: what stands above the figure.

    Raises:
        DataError: a method without runs, or the file cannot be written.
    """
    curves = [
        Curve(printable(curve.name), [[line for line in run if "accuracy" in line] for run in curve.runs])
        for curve in curves
    ]
    empty = [curve.name for curve in curves if not curve.runs or not all(curve.runs)]
    if empty or not curves:
        raise DataError(f"nothing to draw for {', '.join(empty) or 'an empty list'}; give runs of at least one epoch")
    try:
        with matplotlib.rc_context({"text.parse_math": False}), replacing(path) as file:
            _draw(curves, teacher=teacher, title=printable_lines(title)).savefig(file, format="png")
    except OSError as error:
        raise DataError(f"cannot write the figure {path}: {error.strerror or error}; choose another file") from error


def _draw(curves: Sequence[Curve], *, teacher: float | None, title: str) -> Figure:
    figure = Figure(figsize=(10, 5.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    lines, ends = figure.subplots(1, 2, width_ratios=(2.6, 1), sharey=True)
    colours = [colour for _, colour in zip(curves, itertools.cycle(PALETTE), strict=False)]
    _draw_lines(lines, curves, colours)
    _draw_ends(ends, curves, colours)
    if teacher is not None:
        for axes in (lines, ends):
            axes.axhline(100 * teacher, color=TEACHER, linestyle="--", linewidth=1.2, zorder=1)
        lines.annotate(
            f"teacher {100 * teacher:.1f}",
            (0.01, 100 * teacher),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            color=TEACHER,
            fontsize=9,
        )
    _set_limits(lines, curves, teacher)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def check_writable(path: Path) -> None:
    """Find out before hours of work whether a figure can be written.

    Args:
        path: the file; nothing is written to it.

    Raises:
        DataError: its folder is missing or not writable, or it is itself a folder.
    """
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DataError(f"cannot write the figure {path}: give a file in a folder that exists and can be written")


def _draw_lines(axes: Axes, curves: Sequence[Curve], colours: Sequence[str]) -> None:
    for curve, colour in zip(curves, colours, strict=True):
        length = min(len(run) for run in curve.runs)
        epochs = [line["epoch"] for line in curve.runs[0][:length]]
        accuracies = [[100 * line["accuracy"] for line in run[:length]] for run in curve.runs]
        stats = [mean_deviation(values) for values in zip(*accuracies, strict=True)]
        means = [mean for mean, _ in stats]
        axes.plot(epochs, means, color=colour, linewidth=1.8, zorder=3, marker="o" if length == 1 else None)
        spread = [deviation or 0.0 for _, deviation in stats]
        low = [mean - s for mean, s in zip(means, spread, strict=True)]
        high = [mean + s for mean, s in zip(means, spread, strict=True)]
        axes.fill_between(epochs, low, high, color=colour, alpha=0.16, linewidth=0, zorder=2)
    axes.set_xlabel("epoch")
    seeds = max(len(curve.runs) for curve in curves)
    band = f"; line: mean of {seeds} seeds, band: ± 1 deviation" if seeds > 1 else ""
    axes.set_ylabel("test accuracy, %")
    axes.set_title(f"Test accuracy while training{band}", loc="left", fontsize=10)
    _tidy(axes)


def _draw_ends(axes: Axes, curves: Sequence[Curve], colours: Sequence[str]) -> None:
    labels = []
    for position, (curve, colour) in enumerate(zip(curves, colours, strict=True)):
        values = [100 * run[-1]["accuracy"] for run in curve.runs]
        mean = statistics.fmean(values)
        axes.scatter([position] * len(values), values, s=26, color=colour, alpha=0.6, linewidth=0, zorder=3)
        axes.hlines(mean, position - 0.28, position + 0.28, color=colour, linewidth=2.4, zorder=4)
        labels.append(f"{textwrap.fill(curve.name, 9)}\n{mean:.1f}")
    axes.set_xticks(range(len(labels)), labels, fontsize=9)
    for tick, colour in zip(axes.get_xticklabels(), colours, strict=True):
        tick.set_color(colour)
        tick.set_fontweight("bold")
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set_title("After the last epoch", loc="left", fontsize=10)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _set_limits(axes: Axes, curves: Sequence[Curve], teacher: float | None) -> None:
    """Give the room to the part where the methods differ: the first fifth of training may leave the picture below."""
    late = [
        100 * line["accuracy"]
        for curve in curves
        for run in curve.runs
        for line in run[min(len(run) // 5, len(run) - 1) :]
    ]
    values = [*late, 100 * teacher] if teacher is not None else late
    margin = max(1.0, 0.08 * (max(values) - min(values)))
    axes.set_ylim(max(0.0, min(values) - margin), min(100.5, max(values) + margin))
    last = max(line["epoch"] for curve in curves for run in curve.runs for line in run)
    axes.set_xlim(0, last)
