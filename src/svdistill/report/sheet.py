"""A sheet of sample images of a data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from svdistill.atomic import replacing
from svdistill.errors import DataError, ShapeError
from svdistill.names import printable

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

# The least width of a picture on the sheet, so that 8×8 pixels can be seen too.
_CELL = 56
_DPI = 100
_NAME = FontProperties(size=9)
_TITLE = FontProperties(size=11, weight="bold")


def draw_sheet(
    images: Pixels,
    varied: Pixels,
    names: Sequence[str],
    path: Path,
    *,
    title: str = "",
    heads: tuple[str, str] = ("as they are", "augmented"),
) -> None:
    """Draw images of some classes, one class in each row; on the left as they are, on the right augmented.

    Args:
        images: (classes, each, C, H, W), uint8, C = 1 or 3.
        varied: of the same shape.
        names: the name of each class.
        path: the PNG file to be written, atomically.
        title: what stands above the sheet.
        heads: what stands above its left and its right half.

    Raises:
        ShapeError: the arrays, or the number of names, do not fit.
        DataError: the file cannot be written.
    """
    if images.ndim != 5 or images.shape != varied.shape or len(names) != len(images) or images.shape[2] not in (1, 3):
        raise ShapeError(
            f"{len(names)} names came with images {images.shape} and {varied.shape}, expected (classes, each, C, H, W) "
            "twice, C = 1 or 3; give one name for each class"
        )
    zoom = max(1, -(-_CELL // images.shape[4]))
    halves = [_mosaic(part, zoom) for part in (images, varied)]
    height, width = halves[0].shape[:2]
    cell = height / len(images)
    shown = [name if len(name) <= 22 else name[:21] + "…" for name in map(printable, names)]
    title = printable(title)
    # In pixels: a margin for the names, two mosaics with a gap, room for the heads.
    left, gap, top, edge = 16 + max(_width(name, _NAME) for name in shown), 24, 62 if title else 34, 8
    right = left + width + gap + max(width, _width(heads[1], _NAME)) + edge
    total = (max(right, 16 + _width(title, _TITLE)), top + height + edge)
    figure = Figure(figsize=(total[0] / _DPI, total[1] / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for position, (half, head) in enumerate(zip(halves, heads, strict=True)):
        start = left + position * (width + gap)
        frame = (start / total[0], edge / total[1], width / total[0], height / total[1])
        axes = figure.add_axes(frame)
        axes.imshow(half, interpolation="nearest", aspect="auto", vmin=0, vmax=255)
        axes.set_axis_off()
        figure.text(
            start / total[0], 1 - (top - 8) / total[1], head, fontproperties=_NAME, color="#444444", va="bottom"
        )
    for row, name in enumerate(shown):
        middle = 1 - (top + (row + 0.5) * cell) / total[1]
        label = figure.text((left - 8) / total[0], middle, name, fontproperties=_NAME, ha="right", va="center")
        label.set_parse_math(False)
    if title:
        figure.text(8 / total[0], 1 - 8 / total[1], title, fontproperties=_TITLE, va="top").set_parse_math(False)
    try:
        with replacing(path.absolute()) as file:
            figure.savefig(file, format="png")
    except OSError as error:
        raise DataError(f"cannot write the sheet {path}: {error.strerror or error}; choose another file") from error


def _width(text: str, font: FontProperties) -> float:
    """Return how many pixels a text takes."""
    renderer = FigureCanvasAgg(Figure(dpi=_DPI)).get_renderer()
    return float(renderer.get_text_width_height_descent(text, font, False)[0]) if text else 0.0


def _mosaic(images: Pixels, zoom: int) -> Pixels:
    """Put images (R, N, C, H, W) side by side: R rows of N, with white lines between, each pixel `zoom` wide."""
    rows, each, channels, height, width = images.shape
    line = 3
    large = images.repeat(zoom, axis=3).repeat(zoom, axis=4)
    framed = np.full((rows, each, channels, height * zoom + line, width * zoom + line), 255, dtype=np.uint8)
    framed[..., :-line, :-line] = large
    placed = framed.transpose(0, 3, 1, 4, 2).reshape(rows * framed.shape[3], each * framed.shape[4], channels)
    return placed if channels == 3 else placed.repeat(3, axis=2)
