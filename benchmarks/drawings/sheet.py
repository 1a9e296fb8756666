"""SVG files that can be read on a light and on a dark page, and on a phone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from svdistill.report.svg import GRID, INK, MUTED, Frame, drawing

WIDTH = 560  # pixels; on a phone two thirds of them are left
TEXT = 15  # pixels, so that what is written there is still 10 high
TEACHER, STUDENT, ALONE = "#020100", "#020200", "#020300"  # stand-ins, as those of report.svg

_COLOURS = """
svg { --ink: #16191d; --muted: #5b636d; --grid: #c9ced6; font-family: "DejaVu Sans", Verdana, sans-serif;
      --method-1: #0072b2; --method-2: #c25200; --method-3: #00825f; }
@media (prefers-color-scheme: dark) { svg {
      --ink: #e8ebef; --muted: #a5aeb9; --grid: #4a525d; --method-1: #5cb8f0; --method-2: #ff9a4d; --method-3: #3fcf9f;
} }"""


@contextmanager
def sheet(name: str, title: str, height: int) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """Hand out an empty figure of 560 pixels width, and what turns it into the text of an SVG file.

    Args:
        name: of the file, without its ending.
        title: read out to those who do not see the drawing.
        height: in pixels.
    """
    frame = Frame(name, title, WIDTH, height)
    with drawing(frame) as (figure, finish):
        sizes: dict[Any, Any] = {"font.size": TEXT, "xtick.labelsize": TEXT - 1, "ytick.labelsize": TEXT - 1}
        more: dict[Any, Any] = {"axes.titlesize": TEXT, "axes.labelcolor": INK, "legend.fontsize": TEXT}
        more["savefig.dpi"] = 288  # of the pictures inside, four to a pixel, so that squares have sharp edges
        mpl.rcParams.update({**sizes, **more})

        def written() -> str:
            names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            size = f'width="{WIDTH}" height="{height}"'
            head, body = finish().split(">", 1)
            return f"{head.replace('<svg', f'<svg {names} {size}', 1)}>\n<style>{_COLOURS}\n</style>{body}\n"

        yield figure, written


def whole(figure: Figure) -> Axes:
    """Return axes that cover a figure, whose units are its pixels from the upper left corner."""
    figure.set_layout_engine("none")
    width, height = figure.get_size_inches() * figure.dpi
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    return axes


def text(axes: Axes, x: float, y: float, words: str, **options: Any) -> None:
    """Write words, centred on a place unless told otherwise."""
    usual: dict[str, Any] = {"ha": "center", "va": "center", "linespacing": 1.2}
    axes.text(x, y, words, **(usual | options))


def heat(
    axes: Axes, values: NDArray[Any], corner: tuple[float, float], size: tuple[float, float], **options: Any
) -> None:
    """Draw a matrix in a frame whose upper left corner is given, as sharp squares."""
    (left, top), (width, height) = corner, size
    axes.imshow(
        values,
        extent=(left, left + width, top + height, top),
        aspect="auto",
        interpolation="nearest",
        **options,
    )
    box(axes, corner, size, edgecolor=MUTED, linewidth=0.8)


def box(axes: Axes, corner: tuple[float, float], size: tuple[float, float], **options: Any) -> None:
    """Draw a rectangle; it is empty unless a colour is given."""
    usual: dict[str, Any] = {"facecolor": "none", "zorder": 3}
    axes.add_patch(Rectangle(corner, *size, **(usual | options)))


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], **options: Any) -> None:
    """Draw an arrow between two places."""
    style = {"arrowstyle": "-|>,head_width=0.28,head_length=0.55", "shrinkA": 0, "shrinkB": 0, "color": MUTED}
    axes.annotate("", end, start, arrowprops={"linewidth": 1.4, **style, **options}, zorder=4)


def tidy(axes: Axes) -> None:
    """Keep two spines and light lines across."""
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.tick_params(length=0)
