"""The drawing of the method: two networks, their taps, the first vectors, the relations, and what is compared."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from svdistill.atomic import replacing
from svdistill.errors import DataError, ShapeError
from svdistill.report.plots import PALETTE
from svdistill.report.plots import TEACHER as GREY
from svdistill.report.relations import channel_order, darkest, relation, relations

WIDTH, HEIGHT = 900, 690  # pixels that positions and sizes are given in; the file has two for each
LEFT, RIGHT = 132, 132  # room for the image and for the student's own task
MOST_TAPS = 6  # with more, they overlap
BLUE, ORANGE = PALETTE[:2]

Array = NDArray[np.float64]


class TapView(NamedTuple):
    """One tap of a network on one image.

    Attributes:
        name: what stands in its box.
        matrix: (N, D), its map: rows are positions, columns are channels.
        vector: (D,), the first right singular vector of the matrix, with the sign that the loss gives it.
    """

    name: str
    matrix: Array
    vector: Array


class Pair(NamedTuple):
    """What is drawn: two networks on one image.

    Attributes:
        image: (C, H, W), uint8.
        teacher: its taps, in order, two to six.
        student: as many, with the same widths.
        weights: the numbers of weights of teacher and student.
        outputs: (classes,), the student's probabilities.
        label: the name of the image's class.
        beta: of the relation.
    """

    image: NDArray[np.uint8]
    teacher: Sequence[TapView]
    student: Sequence[TapView]
    weights: tuple[int, int]
    outputs: Array
    label: str
    beta: float


def distances(pair: Pair) -> list[float]:
    """Return ½ Σ (student's relation − teacher's)² for each two neighbouring taps; they add up to the transfer loss."""
    made = [
        [relation(front.vector, back.vector, pair.beta) for front, back in itertools.pairwise(taps)]
        for taps in (pair.student, pair.teacher)
    ]
    return [0.5 * float(np.square(own - goal).sum()) for own, goal in zip(*made, strict=True)]


def draw_method(pair: Pair, path: Path) -> None:
    """Draw what KD-SVD compares, on one image, with the values of two real networks.

    Args:
        pair: the networks.
        path: the PNG file to be written, atomically.

    Raises:
        ShapeError: fewer than two taps or more than six, or the networks' taps differ in number or width.
        DataError: the file cannot be written.
    """
    widths = [[len(tap.vector) for tap in taps] for taps in (pair.teacher, pair.student)]
    if widths[0] != widths[1] or not 2 <= len(widths[0]) <= MOST_TAPS:
        raise ShapeError(
            f"taps of widths {widths[0]} (teacher) and {widths[1]} (student) came, expected two to {MOST_TAPS} of "
            "equal widths; draw a pair that needs no adapters"
        )
    figure = compose(pair)
    try:
        with replacing(path.absolute()) as file:
            figure.savefig(file, format="png", pil_kwargs={"optimize": True})
    except OSError as error:
        raise DataError(f"cannot write the drawing {path}: {error.strerror or error}; choose another file") from error


def compose(pair: Pair) -> Figure:
    """Return the drawing of a pair that fits; see `draw_method`."""
    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=200, facecolor="white")
    FigureCanvasAgg(figure)
    sheet = _Sheet(figure.add_axes((0, 0, 1, 1)), len(pair.teacher))
    sheet.axes.set_xlim(0, WIDTH)
    sheet.axes.set_ylim(HEIGHT, 0)
    sheet.axes.set_axis_off()
    orders = [channel_order(tap.vector) for tap in pair.teacher]
    goals = relations([tap.vector for tap in pair.teacher], orders, pair.beta)
    owns = relations([tap.vector for tap in pair.student], orders, pair.beta)
    teacher, student = _Row(BLUE, down=True), _Row(ORANGE, down=False)
    for row, taps, made in ((teacher, pair.teacher, goals), (student, pair.student, owns)):
        _draw_network(sheet, row, taps)
        for i, (tap, order) in enumerate(zip(taps, orders, strict=True)):
            _draw_tap(sheet, row, i, tap, pair.teacher[i].vector, order)
        for i, (values, goal) in enumerate(zip(made, goals, strict=True)):
            _draw_relation(sheet, row, i, values, darkest(goal))
    for i, distance in enumerate(distances(pair)):
        _draw_comparison(sheet, i, distance)
    _draw_image(sheet, pair, (teacher, student))
    _draw_words(sheet, pair, teacher, student)
    return figure


class _Sheet(NamedTuple):
    """The surface, in pixels from its upper left corner, and its columns."""

    axes: Axes
    taps: int

    @property
    def pitch(self) -> float:
        return (WIDTH - LEFT - RIGHT) / self.taps

    def centre(self, tap: float) -> float:
        """Return where a tap is across; half of one more is between it and the next."""
        return LEFT + (tap + 0.5) * self.pitch

    def text(self, x: float, y: float, words: str, *, size: float = 14, **options: Any) -> None:
        """Write text of a height in pixels; by default it is centred on the place."""
        usual: dict[str, Any] = {"ha": "center", "va": "center", "color": "#222222", "linespacing": 1.25}
        self.axes.text(x, y, words, fontsize=0.72 * size, **(usual | options))

    def heat(self, values: NDArray[Any], x: float, y: float, size: tuple[float, float], **colours: Any) -> None:
        """Draw a matrix as a heat map in a frame, centred on a place."""
        left, top = x - size[0] / 2, y - size[1] / 2
        extent = (left, left + size[0], top + size[1], top)
        self.axes.imshow(values, extent=extent, aspect="auto", interpolation="nearest", zorder=3, **colours)
        self.box(x, y, size, edgecolor="#666666", linewidth=0.6, zorder=4)

    def box(self, x: float, y: float, size: tuple[float, float], **options: Any) -> None:
        """Draw a rectangle, centred on a place."""
        corner = (x - size[0] / 2, y - size[1] / 2)
        self.axes.add_patch(Rectangle(corner, *size, **({"facecolor": "none"} | options)))

    def line(self, *points: tuple[float, float], colour: str, arrow: bool = False, width: float = 1.3) -> None:
        """Join points, perhaps with an arrowhead at the last."""
        xs, ys = zip(*points, strict=True)
        self.axes.plot(xs, ys, color=colour, linewidth=width, zorder=2, solid_capstyle="butt")
        if arrow:
            style = {"arrowstyle": "-|>,head_width=0.28,head_length=0.5", "color": colour, "shrinkA": 0, "shrinkB": 0}
            self.axes.annotate("", points[-1], points[-2], arrowprops={**style, "linewidth": width}, zorder=2)


class _Row(NamedTuple):
    """One network: drawn downwards from the upper edge, or upwards from the lower one, to the relations."""

    colour: str
    down: bool

    def at(self, distance: float) -> float:
        """Return the height of what is so far from the network's edge."""
        return distance if self.down else HEIGHT - distance


# Distances from the network's edge to the middle of each part, and sizes (width, height).
_TITLE, _BOXES, _SIZES, _MAPS, _VECTORS, _RELATIONS = 16, 52, 87, 134, 190, 253
_BOX, _MAP, _VECTOR, _RELATION = (98.0, 38.0), (104.0, 72.0), (104.0, 14.0), (76.0, 76.0)


def _draw_network(sheet: _Sheet, row: _Row, taps: Sequence[TapView]) -> None:
    """Draw the boxes of a network, from left to right, each with its tap."""
    y = row.at(_BOXES)
    for i, tap in enumerate(taps):
        x = sheet.centre(i)
        sheet.box(x, y, _BOX, edgecolor=row.colour, facecolor=row.colour + "1f", linewidth=1.5, zorder=3)
        sheet.text(x, row.at(_BOXES - 2), tap.name, size=14 if "\n" not in tap.name else 12.5, zorder=5)
        if i:
            sheet.line((sheet.centre(i - 1) + _BOX[0] / 2, y), (x - _BOX[0] / 2, y), colour=row.colour, arrow=True)
        edge = row.at(_BOXES + _BOX[1] / 2)
        sheet.axes.plot([x], [edge], "o", color=row.colour, markersize=4.5, zorder=6)


def _draw_tap(sheet: _Sheet, row: _Row, number: int, tap: TapView, goal: Array, order: NDArray[np.intp]) -> None:
    """Draw what a tap gives: its matrix, taller for more positions, and its first vector."""
    x, positions = sheet.centre(number), len(tap.matrix)
    height = min(_MAP[1], 12 + 10 * float(np.log2(positions)))
    sheet.text(x, row.at(_SIZES), f"{positions} × {len(tap.vector)}", size=13, color=GREY)
    middle = row.at(_MAPS)
    sheet.heat(tap.matrix[:, order], x, middle, (_MAP[0], height), cmap="Greys", vmin=0)
    near = row.at(_MAPS + height / 2)
    sheet.line((x, near), (x, row.at(_VECTORS - _VECTOR[1] / 2)), colour=GREY, arrow=True, width=1)
    colours = {"cmap": "cividis", "vmin": float(goal.min()), "vmax": float(goal.max())}
    sheet.heat(tap.vector[None, order], x, row.at(_VECTORS), _VECTOR, **colours)


def _draw_relation(sheet: _Sheet, row: _Row, number: int, values: Array, low: float) -> None:
    """Draw the relation of a tap to the next, between the two."""
    x, y = sheet.centre(number + 0.5), row.at(_RELATIONS)
    sheet.heat(values, x, y, _RELATION, cmap="viridis", vmin=low, vmax=1)
    start, end = row.at(_VECTORS + _VECTOR[1] / 2), row.at(_RELATIONS - _RELATION[1] / 2)
    for side in (-1, 1):
        sheet.line((x + side * 0.36 * sheet.pitch, start), (x + side * 22, end), colour=GREY, arrow=True, width=1)


def _draw_comparison(sheet: _Sheet, number: int, distance: float) -> None:
    """Draw the arrow from a relation of the teacher to that of the student, with the number that it comes to."""
    x, reach = sheet.centre(number + 0.5), HEIGHT / 2 - _RELATIONS - _RELATION[1] / 2 - 3
    sheet.line((x, HEIGHT / 2 - reach), (x, HEIGHT / 2 + reach), colour="#222222", arrow=True, width=1.8)
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    sheet.text(x, HEIGHT / 2 - 4, f"½ Σ (…)²\n= {distance:.2g}", weight="bold", bbox=behind, zorder=5)


def _draw_image(sheet: _Sheet, pair: Pair, rows: Sequence[_Row]) -> None:
    """Draw the image and the way it takes into both networks."""
    pixels = pair.image.transpose(1, 2, 0) if len(pair.image) == 3 else pair.image[0]
    sheet.heat(pixels, 54, HEIGHT / 2, (84, 84), cmap="gray", vmin=0, vmax=255)
    for row in rows:
        corner, y = LEFT - 12, row.at(_BOXES)
        points = ((96, HEIGHT / 2), (corner, HEIGHT / 2), (corner, y), (sheet.centre(0) - _BOX[0] / 2, y))
        sheet.line(*points, colour=row.colour, arrow=True)


def _draw_words(sheet: _Sheet, pair: Pair, teacher: _Row, student: _Row) -> None:
    """Say what each network and each part is, and what the student learns beside it."""
    left: dict[str, Any] = {"ha": "left", "color": GREY}
    titles = ("Teacher: large, trained, frozen", "Student: small, learns")
    for row, title, weights in zip((teacher, student), titles, pair.weights, strict=True):
        words = f"{title} ({weights / 1e6:.2g} million weights)"
        sheet.text(LEFT + 12, row.at(_TITLE), words, size=15, weight="bold", ha="left", color=row.colour)
        sheet.text(8, row.at(_MAPS), "its map:\npositions\n× channels", **left)
        sheet.text(8, row.at(_VECTORS), "first right\nsingular vector", **left)
        sheet.text(8, row.at(_RELATIONS - 4), "relation of\nneighbours", **left)
    sheet.text(54, HEIGHT / 2 + 54, "same image", color=GREY)
    beside = sheet.centre(sheet.taps - 1.5) + _RELATION[0] / 2 + 24
    formula = "exp(−(f[m] − b[n])² / β)\nof neighbouring taps’\nvectors f and b"
    sheet.text(beside, teacher.at(_RELATIONS), formula, **left)
    sheet.text(beside, HEIGHT / 2 - 16, "compared:", weight="bold", ha="left")
    sheet.text(beside, HEIGHT / 2 + 12, "no label is needed,\nonly the image", ha="left")
    sheet.text(WIDTH - RIGHT + 12, teacher.at(_BOXES), "its answer\nis not used", **left)
    _draw_task(sheet, pair, student)


def _draw_task(sheet: _Sheet, pair: Pair, row: _Row) -> None:
    """Draw the student's own task: its probabilities, and the label that they are compared with."""
    left, y = WIDTH - RIGHT + 22, row.at(_BOXES)
    sheet.line((sheet.centre(sheet.taps - 1) + _BOX[0] / 2, y), (left - 4, y), colour=row.colour, arrow=True)
    step, height = (WIDTH - 10 - left) / len(pair.outputs), 40.0
    for i, value in enumerate(pair.outputs):
        bar = max(1.0, height * float(value))
        sheet.box(left + (i + 0.5) * step, y + 18 - bar / 2, (0.7 * step, bar), facecolor=row.colour, zorder=3)
    sheet.line((left, y + 18), (WIDTH - 10, y + 18), colour=GREY, width=0.8)
    words = f"its own task:\nlabel “{pair.label}”,\nif there is one"
    sheet.text(left - 8, row.at(_MAPS - 6), words, ha="left", color=GREY)
