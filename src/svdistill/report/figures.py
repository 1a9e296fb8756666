"""The figures of a report page: inline SVG whose colours are the page's, so that they follow light and dark mode."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from svdistill.names import printable
from svdistill.report.methods import Look
from svdistill.report.numbers import points, row_fractions, signed, whole
from svdistill.report.statistics import Interval
from svdistill.report.svg import (
    INK,
    PANEL,
    PAPER,
    TEACHER_DASHES,
    WIDE,
    Frame,
    colour_of,
    dashes_of,
    drawing,
    embedded,
    plot_line,
    png,
    text_at,
)

MAX_BANDS = 5  # with more methods, bands hide each other
MAX_NAMED, MAX_NUMBERED = 30, 12  # classes of a confusion matrix: with more, names and numbers do not fit


class Line(NamedTuple):
    """One line of a figure.

    Attributes:
        look: of its method; None = the teacher.
        x: positions on the horizontal axis.
        runs: for each run its values there.
    """

    look: Look | None
    x: Sequence[float]
    runs: Sequence[Sequence[float]]


Gain = tuple[Look, Interval, Sequence[float]]


class Bar(NamedTuple):
    """A mean with an interval at a position.

    Attributes:
        look: of its method; None = the teacher.
        x: position on the horizontal axis.
        mean: the mean.
        low: lower end of the interval; None = no interval is known.
        high: upper end.
    """

    look: Look | None
    x: float
    mean: float
    low: float | None
    high: float | None


def curves(
    lines: Sequence[Line],
    frame: Frame,
    *,
    teacher: float | None = None,
    scale: float = 1.0,
    log: bool = False,
    x_label: str = "epoch",
    late: bool = False,
) -> str:
    """Draw the mean over the runs of each method, with a band of one deviation to either side.

    Args:
        lines: the methods.
        frame: name, title and size.
        teacher: the teacher's value, for a line across; None = no line.
        scale: what values are multiplied by, 100 for percent.
        log: whether the vertical axis is logarithmic; values of 0 and below are then left out.
        x_label: under the horizontal axis.
        late: whether the first fifth of the lines may leave the picture below, which gives room to where they differ.

    Returns:
        An ``<svg>`` element.
    """
    with drawing(frame) as (figure, finish):
        axes = figure.subplots()
        shown: list[float] = [] if teacher is None else [teacher * scale]
        for line in lines:
            means, low, high = _band(line, scale)
            if log:
                low = np.maximum(low, means / 10)
            plot_line(axes, line.look, line.x, means, marker=len(line.x) == 1)
            if len(lines) <= MAX_BANDS and len(line.runs) > 1:
                axes.fill_between(line.x, low, high, color=colour_of(line.look), alpha=0.13, linewidth=0)
            first = len(means) // 5 if late else 0
            shown += [*low[first:], *high[first:]]
        if teacher is not None:
            axes.axhline(teacher * scale, color=INK, linewidth=1.3, dashes=TEACHER_DASHES, zorder=1)
        _limit(axes, [value for value in shown if math.isfinite(value)], log=log)
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(6 if frame.width > 600 else 5, integer=True))
        return finish()


def gains(rows: Sequence[Gain], *, name: str, title: str, width: int = WIDE) -> str:
    """Draw the gain of each method over the student alone: each seed a dot, their mean, and its interval.

    Args:
        rows: look, interval and the gains themselves, in points, of each method.
        name: differs from that of every other figure of the page.
        title: read out to those who do not see the figure.
        width: in pixels.

    Returns:
        An ``<svg>`` element.
    """
    with drawing(Frame(name, title, width, height=46 * len(rows) + 46)) as (figure, finish):
        axes = figure.subplots()
        low, high = _gain_limits(rows)
        for position, row in enumerate(rows):
            _draw_gain(axes, row, position, limits=(low, high))
            _name_gain(axes, row, position, room=width / 7)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_xlim(low, high)
        axes.set_ylim(len(rows) - 0.45, -0.65)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(True, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(7 if width > 600 else 5))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:+.3g}".replace("-", "−") if value else "0")
        )
        axes.set_xlabel("points of accuracy over the student alone")
        return finish()


def _draw_gain(axes: Axes, row: Gain, position: float, *, limits: tuple[float, float]) -> None:
    """Draw one row's seeds, interval and mean; an arrowhead marks an interval that leaves the figure."""
    look, interval, values = row
    colour = colour_of(look)
    axes.scatter(values, [position + 0.2] * len(values), s=15, color=colour, alpha=0.75, linewidth=0)
    if interval.low is not None and interval.high is not None:
        low, high = limits
        axes.plot([interval.low, interval.high], [position] * 2, color=colour, linewidth=2.6)
        ends = [(low, "<")] * (interval.low < low) + [(high, ">")] * (interval.high > high)
        for end, marker in ends:
            axes.plot([end], [position], marker, color=colour, markersize=7, clip_on=False)
    axes.plot([interval.mean], [position], look.marker, color=colour, markersize=9, markeredgecolor=PAPER)


def _name_gain(axes: Axes, row: Gain, position: float, *, room: float) -> None:
    """Write one row's method and gain above its interval; where they need more letters than room, the mean alone."""
    look, interval, _ = row
    number = points(interval) if len(look.label) + len(points(interval)) < room else signed(interval.mean)
    behind = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}  # lines do not cross texts
    for x, text, side in ((0, look.label, "left"), (1, number, "right")):
        axes.text(x, position - 0.32, text, transform=axes.get_yaxis_transform(), va="center", ha=side, bbox=behind)


def bars(
    items: Sequence[Bar],
    frame: Frame,
    *,
    x_label: str,
    joined: bool = False,
    log: bool = False,
    ticks: Sequence[tuple[float, str]] | None = None,
    zero: bool = False,
) -> str:
    """Draw means with their intervals over a quantity; those at the same position stand side by side.

    Args:
        items: what to draw.
        frame: name, title and size.
        x_label: under the horizontal axis.
        joined: whether a line joins those of one method.
        log: whether the horizontal axis is logarithmic.
        ticks: positions and texts on the horizontal axis; None = round numbers.
        zero: whether a line marks zero on the vertical axis.

    Returns:
        An ``<svg>`` element.
    """
    with drawing(frame) as (figure, finish):
        axes = figure.subplots()
        if log:
            axes.set_xscale("log")
        positions = sorted({item.x for item in items})
        looks = list(dict.fromkeys(item.look for item in items))
        step = _step(positions, log=log)
        for look in looks:
            own = sorted((item for item in items if item.look == look), key=lambda item: item.x)
            at = [_moved(item, items, looks, step, log=log) for item in own]
            if joined and len(own) > 1:
                axes.plot(at, [item.mean for item in own], color=colour_of(look), linewidth=1.8, dashes=dashes_of(look))
            for x, item in zip(at, own, strict=True):
                if item.low is not None and item.high is not None:
                    axes.plot([x, x], [item.low, item.high], color=colour_of(look), linewidth=2, alpha=0.55)
                marker = "*" if look is None else look.marker
                size = 15 if look is None else 9
                axes.plot([x], [item.mean], marker, color=colour_of(look), markersize=size, markeredgecolor=PAPER)
        if zero:
            axes.axhline(0, color=INK, linewidth=1)
        _set_ticks(axes, log=log, ticks=ticks)
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(x_label)
        return finish()


def spectrum(lines: Sequence[tuple[Look | None, Sequence[float]]], frame: Frame) -> str:
    """Draw the fraction of a map's energy in each of its singular values, both axes logarithmic.

    Args:
        lines: for each method, and None for the teacher, the fractions in descending order; NaN where there is none.
        frame: name, title and size.

    Returns:
        An ``<svg>`` element.
    """
    with drawing(frame) as (figure, finish):
        axes = figure.subplots()
        longest = 1
        for look, fractions in lines:
            values = np.asarray(fractions, dtype=float)
            kept = np.flatnonzero(np.isfinite(values) & (values > 1e-7))
            if len(kept):
                longest = max(longest, int(kept[-1]) + 1)
                plot_line(axes, look, kept + 1, values[kept], marker=len(kept) == 1)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(0.93, max(longest, 2) * 1.08)
        axes.set_ylim(top=1.3)
        low = axes.get_ylim()[0]
        axes.set_ylim(bottom=max(min(low, 0.05), 1e-6))
        ticks = [2**i for i in range(12) if 2**i <= longest]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.set_xlabel("singular value, number")
        return finish()


def confusion(counts: NDArray[Any], classes: Sequence[str], *, title: str) -> str:
    """Draw a confusion matrix: rows are true classes, the right ones in grey, mistakes in orange.

    Args:
        counts: (C, C), rows are true classes.
        classes: their names.
        title: read out to those who do not see the figure.

    Returns:
        An ``<svg>`` element; with numbers in percent up to 12 classes and class names up to 30.
    """
    fractions = row_fractions(counts)
    classes = [printable(name) for name in classes]
    number = len(fractions)
    named = number <= MAX_NAMED
    left = min(92.0, 8 + 5.9 * max(map(len, classes))) if named else 4.0
    below = left if named and max(map(len, classes)) > 2 else 18.0 * named
    side = PANEL - left - 2
    cell = side / number
    parts = [embedded(_confusion_pixels(fractions), left, 2, side)]
    if named:
        parts += _class_names(classes, left=left, side=side, turn=below == left)
    if number <= MAX_NUMBERED:
        for (i, j), value in np.ndenumerate(fractions):
            if value >= 0.005:
                x, y = left + (j + 0.5) * cell, 2 + (i + 0.5) * cell
                parts.append(text_at(whole(value), x, y, size=min(10.5, 0.42 * cell), anchor="middle"))
    height = side + 4 + below
    return (
        f'<svg role="img" aria-label="{escape(printable(title))}" viewBox="0 0 {PANEL} {height:.1f}" '
        f'style="max-width:{PANEL}px">{"".join(parts)}</svg>'
    )


def _class_names(classes: Sequence[str], *, left: float, side: float, turn: bool) -> Iterator[str]:
    """Write each class to the left of its row and under its column, there upwards if asked for."""
    cell = side / len(classes)
    size = min(11.0, 0.85 * cell)
    anchor, y = ("end", side + 7) if turn else ("middle", side + 12)
    for i, label in enumerate(classes):
        middle = (i + 0.5) * cell
        text = escape(label if len(label) <= 15 else label[:14] + "…")
        yield text_at(text, left - 5, 2 + middle, size=size, anchor="end", variable="--muted")
        yield text_at(text, left + middle, y, size=size, anchor=anchor, variable="--muted", turn=turn)


def heat(values: NDArray[Any], *, low: float) -> str:
    """Colour a matrix.

    Args:
        values: (rows, columns).
        low: the value of the darkest colour; the brightest is 1.

    Returns:
        A PNG as a ``data:`` address, one pixel a value.
    """
    scaled = np.clip((values - low) / max(1 - low, 1e-12), 0, 1)
    return png((255 * matplotlib.colormaps["viridis"](scaled)[..., :3]).round().astype(np.uint8))


def picture(pixels: NDArray[Any]) -> str:
    """Return an image (C, H, W), uint8, as a PNG in a ``data:`` address; without 3 channels, the first is shown."""
    return png(np.ascontiguousarray(pixels.transpose(1, 2, 0)) if len(pixels) == 3 else pixels[0])


def _band(line: Line, scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    runs = scale * np.asarray(line.runs)
    means = runs.mean(axis=0)
    deviation = runs.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros_like(means)
    return means, means - deviation, means + deviation


def _limit(axes: Axes, shown: Sequence[float], *, log: bool) -> None:
    if log:
        axes.set_yscale("log")
        few = max(shown, default=1) / max(min(shown, default=1), 1e-300) < 100
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
        return
    if shown:
        low, high = min(shown), max(shown)
        margin = 0.07 * (high - low) or 0.05 * max(abs(high), 1e-3)
        axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _power(value: float) -> str:
    """Write a number of a logarithmic axis: ``0.01``, ``500``, ``10⁶``."""
    if 1e-3 <= value < 1e5:
        return f"{value:g}"
    digits = str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{digits}"


def _gain_limits(rows: Sequence[Gain]) -> tuple[float, float]:
    """Give room to the seeds and to intervals of ordinary width; those of two seeds can be a hundred times wider."""
    values = [0.0, *itertools.chain.from_iterable(gains for _, _, gains in rows)]
    reach = max(values) - min(values) or 1.0
    ends = [end for _, interval, _ in rows for end in interval[1:] if end is not None]
    low = max(min([*values, *ends]), min(values) - 0.75 * reach)
    high = min(max([*values, *ends]), max(values) + 0.75 * reach)
    margin = 0.04 * max(high - low, reach)
    return low - margin, high + margin


def _step(positions: Sequence[float], *, log: bool) -> float:
    """Return how far apart those at the same position stand: a small part of the axis."""
    first, last = (math.log(position) if log else position for position in (positions[0], positions[-1]))
    return 0.018 * ((last - first) or (0.5 if log else abs(first) or 1.0))


def _moved(item: Bar, items: Sequence[Bar], looks: Sequence[Look | None], step: float, *, log: bool) -> float:
    """Return where something is drawn beside the others at its position."""
    there = [one for one in looks if any(other.x == item.x and other.look == one for other in items)]
    shift = (there.index(item.look) - (len(there) - 1) / 2) * step
    return item.x * math.exp(shift) if log else item.x + shift


def _set_ticks(axes: Axes, *, log: bool, ticks: Sequence[tuple[float, str]] | None) -> None:
    axes.margins(x=0.08)
    if ticks is not None:
        axes.xaxis.set_major_locator(FixedLocator([position for position, _ in ticks]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda _, at: ticks[at][1] if at < len(ticks) else ""))
        axes.xaxis.set_minor_locator(NullLocator())
    elif log:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))


def _confusion_pixels(fractions: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Half transparent, so that it fits light and dark: the diagonal grey, the rest orange, stronger where rare."""
    pixels = np.empty((*fractions.shape, 4), dtype=np.uint8)
    pixels[...] = (224, 96, 16, 0)
    pixels[..., 3] = (255 * 0.9 * np.sqrt(np.clip(fractions / 0.4, 0, 1))).round()
    diagonal = np.arange(len(fractions))
    pixels[diagonal, diagonal, :3] = (122, 134, 150)
    pixels[diagonal, diagonal, 3] = (255 * 0.55 * fractions.diagonal()).round()
    return pixels
