"""Figures of the page."""

import base64
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from svdistill.report import figures
from svdistill.report.collect import Key
from svdistill.report.figures import Bar, Line
from svdistill.report.methods import looks
from svdistill.report.statistics import Interval
from svdistill.report.svg import NARROW, Frame

FRAME = Frame("f", "t")
ALONE, SVD = looks([Key("alone"), Key("svd")]).values()
LINES = [Line(ALONE, [1, 2, 3], [[0.5, 0.6, 0.7], [0.4, 0.6, 0.8]]), Line(SVD, [2, 3], [[0.7, 0.75]])]
ROWS = [(SVD, Interval(1.0, 0.5, 1.5), [0.8, 1.2]), (ALONE, Interval(-2.0, None, None), [-2.0])]
WIDE_ROWS = [(SVD, Interval(1.0, -80.0, 82.0), [0.8, 1.2])]
BARS = [Bar(ALONE, 2.0, 70.0, 69.0, 71.0), Bar(SVD, 2.0, 71.0, None, None), Bar(None, 30.0, 90.0, None, None)]
SPECTRUM = [(SVD, [0.7, 0.2, 0.1, np.nan]), (None, [1.0, 0.0, 0.0, 0.0])]
DRAWN: dict[str, Callable[[], str]] = {
    "curves": lambda: figures.curves(LINES, FRAME, teacher=0.9, scale=100, late=True),
    "one epoch": lambda: figures.curves([Line(SVD, [1], [[0.5]])], FRAME),
    "constant": lambda: figures.curves([Line(SVD, [1, 2], [[0.0, 0.0]])], FRAME),
    "logarithmic": lambda: figures.curves([Line(SVD, [1, 2], [[1e-6, 10.0], [1e-7, 9.0]])], FRAME, log=True),
    "many": lambda: figures.curves([Line(SVD, [1, 2], [[0.1, 0.2]] * 2)] * 9, FRAME),
    "gains": lambda: figures.gains(ROWS, name="f", title="t"),
    "no gain": lambda: figures.gains([(SVD, Interval(0.0, 0.0, 0.0), [0.0, 0.0])], name="f", title="t"),
    "wide intervals": lambda: figures.gains(WIDE_ROWS, name="f", title="t", width=NARROW),
    "bars": lambda: figures.bars(BARS, FRAME, x_label="x", joined=True, zero=True),
    "bars in logarithm": lambda: figures.bars(BARS, FRAME, x_label="x", log=True),
    "ticks": lambda: figures.bars(BARS, FRAME, x_label="x", ticks=[(2.0, "two"), (30.0, "30")]),
    "one bar": lambda: figures.bars(BARS[:1], FRAME, x_label="x"),
    "spectrum": lambda: figures.spectrum(SPECTRUM, FRAME),
    "no spectrum": lambda: figures.spectrum([(SVD, [np.nan, np.nan])], FRAME),
    "confusion": lambda: figures.confusion(np.eye(3) * 4 + 1, ["<a>", "b & c", "d" * 40], title="t"),
    "many classes": lambda: figures.confusion(np.eye(100), list(map(str, range(100))), title="t"),
    "no images": lambda: figures.confusion(np.zeros((2, 2)), ["a", "b"], title="t"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_svg_belongs_into_a_page(draw: Callable[[], str]) -> None:
    """Each is well-formed, in the page's colours and font, with ids of its own, and says what it is."""
    svg = draw()
    root = ET.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))
    assert root.tag == "svg"
    assert root.attrib["aria-label"] == "t"
    assert "var(--" in svg
    assert not re.search(r"#0[12]0", svg)  # no stand-in is left
    assert "DejaVu" not in svg
    assert "metadata" not in svg
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert all(name.startswith("f-") for name in ids)
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg)) <= set(ids)
    assert draw() == svg  # the same numbers give the same file


def texts(svg: str) -> list[str]:
    """Return what is written in a figure."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_colours_are_the_methods() -> None:
    """The lines have the colours of their methods, the teacher's that of the text."""
    svg = DRAWN["curves"]()
    assert SVD.variable in svg
    assert ALONE.variable in svg
    assert "var(--ink)" in svg


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    """The page's style is not everybody's."""
    before = dict(mpl.rcParams)
    DRAWN["curves"]()
    assert dict(mpl.rcParams) == before


def test_gains_are_written_beside_their_bars() -> None:
    """Name, mean and interval stand there; a long name on a narrow figure leaves out the interval."""
    assert {"KD-SVD", "+1.00 (+0.50 to +1.50)", "student alone", "−2.00"} <= set(texts(DRAWN["gains"]()))
    long = SVD._replace(label="FitNets + soft targets, two stages")
    svg = figures.gains([(long, ROWS[0][1], [1.0])], name="f", title="t", width=NARROW)
    assert {long.label, "+1.00"} <= set(texts(svg))


def pixels(address: str) -> Any:
    """Decode a PNG in a data address."""
    kind, _, data = address.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_heat() -> None:
    """One pixel a value; what is below the darkest colour is as dark."""
    drawn = pixels(figures.heat(np.array([[0.2, 0.5], [1.0, 0.5]]), low=0.5))
    assert drawn.shape == (2, 2, 3)
    assert (drawn[0, 0] == drawn[0, 1]).all()
    assert drawn[1, 0].sum() > drawn[0, 0].sum()
    assert pixels(figures.heat(np.ones((2, 2)), low=1.0)).shape == (2, 2, 3)


@pytest.mark.parametrize(("channels", "shape"), [(1, (4, 5)), (3, (4, 5, 3)), (2, (4, 5))])
def test_picture(channels: int, shape: tuple[int, ...]) -> None:
    """Grey, colour, and something else of which the first channel is shown."""
    image = np.random.default_rng(0).integers(0, 256, (channels, 4, 5)).astype(np.uint8)
    drawn = pixels(figures.picture(image))
    assert drawn.shape == shape
    np.testing.assert_array_equal(drawn[..., 0] if channels == 3 else drawn, image[0])


def test_confusion_numbers() -> None:
    """Percent of the true class, halves up; small ones are left out."""
    counts = np.array([[199, 1, 0], [3, 5, 0], [0, 0, 0]])
    written = texts(figures.confusion(counts, ["a", "b", "c"], title="t"))
    assert [text for text in written if text.isdigit()] == ["100", "1", "38", "63"]


def test_confusion_of_any_names() -> None:
    """Tags, dollars, control characters and bytes that are not text are written out."""
    names = ["<b>&", "$\\frac$", "a\x1b[31m", "caf\udce9"]
    svg = figures.confusion(np.eye(4), names, title="\x1b<t>")
    assert {"&lt;b&gt;&amp;", "$\\frac$", r"a\x1b[31m", r"caf\xe9"} <= set(texts(svg))
    assert not {"\x1b", "\udce9"} & set(svg)


def test_a_dollar_in_a_name_is_a_dollar() -> None:
    """Names beside bars are text, not formulas."""
    look = SVD._replace(label="$\\frac$ US$")
    assert look.label in texts(figures.gains([(look, *ROWS[0][1:])], name="f", title="t"))
