"""Inline SVG whose colours are the page's, so that a figure follows light and dark mode."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from svdistill.names import printable
from svdistill.report.methods import Look

WIDE, NARROW, PANEL = 1040, 350, 345  # pixels; a figure across the page, the same on a phone, one of several abreast
TEACHER_DASHES = (4, 3)

# Stand-ins while matplotlib draws; in the SVG each becomes a CSS variable of the page.
INK, MUTED, GRID, PAPER = "#010001", "#010002", "#010003", "#010004"
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"}
_STYLE: dict[str, Any] = {
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",  # text stays text: it takes the page's font, and can be searched and copied
    "font.family": "DejaVu Sans",  # what the room for texts is measured with; wider than most
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "xtick.major.width": 0.8,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


class Frame(NamedTuple):
    """What a figure is on the page.

    Attributes:
        name: differs from that of every other figure of the page; the ids inside the figure begin with it.
        title: read out to those who do not see the figure.
        width: in pixels.
        height: in pixels.
    """

    name: str
    title: str
    width: int = WIDE
    height: int = 400


@contextmanager
def drawing(frame: Frame) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """Hand out an empty figure and what turns it into an ``<svg>``, under the style of the page and no other."""
    larger = {"font.size": 13.5, "xtick.labelsize": 12.5, "ytick.labelsize": 12.5} if frame.width == WIDE else {}
    with matplotlib.style.context(["default", {**_STYLE, **larger, "svg.hashsalt": frame.name}]):
        figure = Figure(figsize=(frame.width / 72, frame.height / 72), dpi=72, layout="constrained")
        figure.patch.set_visible(False)
        FigureCanvasSVG(figure)

        def finish() -> str:
            for axes in figure.axes:
                axes.patch.set_visible(False)
            stream = io.StringIO()
            figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
            return _inline(stream.getvalue(), frame)

        yield figure, finish


def _inline(svg: str, frame: Frame) -> str:
    """Make an element of a page from an SVG file: ids of its own, colours and font of the page."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"^<svg[^>]*>", "", body)
    body = re.sub(r"<g id=\"[^\"]*\">", "<g>", body)
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{frame.name}-", body)
    body = re.sub(
        r"font-family: [^;\"]*;?|font: ([\d.]+px) [^;\"]*", lambda m: f"font-size: {m[1]}" if m[1] else "", body
    )
    body = re.sub(r"#0[12][0-9a-f]{4}", lambda m: f"var({_variable(m[0])})", body)
    body = re.sub(r"\n\s*", "\n", body)
    title = escape(printable(frame.title), {'"': "&quot;"})
    head = f'<svg role="img" aria-label="{title}" viewBox="0 0 {frame.width} {frame.height}"'
    return f'{head} style="max-width:{frame.width}px">{body}'


def _variable(colour: str) -> str:
    return _VARIABLES.get(colour) or f"--method-{int(colour[3:5], 16)}"


def colour_of(look: Look | None) -> str:
    """Return the stand-in for a method's colour; None is the teacher."""
    return INK if look is None else f"#02{int(look.variable.rpartition('-')[2]):02x}00"


def dashes_of(look: Look | None) -> tuple[float, ...]:
    """Return a method's dashes as matplotlib takes them; None is the teacher."""
    # matplotlib takes no empty pattern: a gap of nothing is a whole line.
    return TEACHER_DASHES if look is None else look.dashes or (1, 0)


def plot_line(axes: Axes, look: Look | None, x: Any, y: Any, *, marker: bool = False) -> None:
    """Draw a line in the look of its method, with a mark at each point where asked for; None is the teacher."""
    axes.plot(
        x,
        y,
        color=colour_of(look),
        linewidth=1.4 if look is None else 1.9,
        dashes=dashes_of(look),
        marker=(look.marker if look else "*") if marker else None,
        markersize=7,
        zorder=2 if look is None else 3,
    )


def embedded(pixels: NDArray[np.uint8], x: float, y: float, side: float) -> str:
    """Return a square image in a frame, for inside an ``<svg>``."""
    position = f'x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" height="{side:.1f}"'
    frame = f'<rect {position} fill="none" stroke="var(--grid)"/>'
    return f'<image {position} preserveAspectRatio="none" class="pixels" href="{png(pixels)}"/>{frame}'


def text_at(
    text: str, x: float, y: float, *, size: float, anchor: str, variable: str = "--ink", turn: bool = False
) -> str:
    """Return a text for inside an ``<svg>``, centred on its line; ``turn`` writes it upwards."""
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" dominant-baseline="central" text-anchor="{anchor}" fill="var({variable})" '
        f'font-size="{size:.1f}"{turned}>{text}</text>'
    )


def png(pixels: NDArray[np.uint8]) -> str:
    """Return pixels as a PNG in a ``data:`` address."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
