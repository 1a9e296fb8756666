"""What the bound lets through of the transfer gradient over a run: the rule of the paper, and the one we recommend."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from benchmarks.drawings.scene import Scene
from benchmarks.drawings.sheet import ALONE, STUDENT, sheet, tidy
from svdistill.report.svg import INK, MUTED

HEIGHT = 440
WINDOW = 9  # epochs that the strong line is a median of


def draw(scene: Scene) -> str:
    """Draw how large the transfer gradient is beside that of the main task, and which part of it is let through."""
    title = "The ratio of transfer and main gradient over the epochs, and what two bounds let through of the former"
    rules = (("bound of the paper", scene.published, ALONE), ("the one we recommend", scene.metrics, STUDENT))
    with sheet("method-bound", title, HEIGHT) as (figure, written):
        ratio, passed = figure.subplots(2, 1, sharex=True)
        for name, metrics, colour in rules:
            _draw_line(ratio, metrics, "ratio", colour)
            _draw_line(passed, metrics, "passed", colour, name)
        ratio.axhline(1, color=INK, linewidth=1, dashes=(4, 3))
        ratio.set_yscale("log")
        ratio.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ratio.set_title("transfer gradient ÷ main gradient", loc="left")
        passed.set_title("part of the transfer gradient let through, %", loc="left")
        passed.set_xlabel("epoch")
        passed.set_ylim(0, None)
        second = next(line["epoch"] for line in scene.metrics if line.get("stage") == 2)
        for axes in (ratio, passed):
            axes.axvline(second - 0.5, color=MUTED, linewidth=1.2)
            axes.set_xlim(0, scene.metrics[-1]["epoch"])
            tidy(axes)
        place = {"transform": passed.get_xaxis_transform(), "ha": "center", "color": MUTED}
        passed.text(second / 2, 0.5, "1st stage:\nthe transfer\ntask alone", va="center", **place)
        figure.legend(*passed.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return written()


def smooth(values: Sequence[float]) -> list[float]:
    """Return the median of each value and its neighbours."""
    half = WINDOW // 2
    return [float(np.median(values[max(0, i - half) : i + half + 1])) for i in range(len(values))]


def _draw_line(axes: Axes, metrics: Sequence[Mapping[str, Any]], key: str, colour: str, name: str = "") -> None:
    """Draw a figure of each epoch, pale, and the median over a few of them."""
    lines = [line for line in metrics if line.get(key) is not None and line.get("stage") == 2]
    epochs, values = [line["epoch"] for line in lines], [(100 if name else 1) * line[key] for line in lines]
    axes.plot(epochs, values, color=colour, linewidth=1, alpha=0.35)
    axes.plot(epochs, smooth(values), color=colour, linewidth=2.4, label=name)
