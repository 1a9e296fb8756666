"""Tests of the table of data sets and the sheet of sample images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from svdistill import data
from svdistill.errors import DataError, ShapeError
from svdistill.report import sheet
from svdistill.report.datasets import datasets_table


def pixels(channels: int = 3, size: int = 8) -> np.ndarray:
    """Four images of each of three classes, each filled with a value of its own."""
    values = np.arange(12, dtype=np.uint8).reshape(3, 4, 1, 1, 1) * 20
    return np.broadcast_to(values, (3, 4, channels, size, size)).copy()


def drawn(path: Path) -> np.ndarray:
    """The pixels of a sheet."""
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_on_the_sheet(tmp_path: Path, channels: int) -> None:
    """Each value covers an area of its own, on the left and, where images were varied, on the right."""
    path = tmp_path / "sheet.png"
    sheet.draw_sheet(pixels(channels), 255 - pixels(channels), ["a", "b", "c"], path, title="some")
    found = drawn(path)
    half = found.shape[1] // 2
    for part, expected in ((found[:, :half], pixels(channels)), (found[:, half:], 255 - pixels(channels))):
        for value in np.unique(expected)[1:-1]:
            assert (part == value).all(-1).sum() > 0.8 * 56 * 56


def test_pixels_are_not_blurred(tmp_path: Path) -> None:
    """A pixel of 8×8 becomes a square of one colour: no grey between black and white but in the texts."""
    board = np.broadcast_to(np.indices((8, 8)).sum(0) % 2 * 255, (2, 2, 1, 8, 8)).astype(np.uint8)
    path = tmp_path / "sheet.png"
    sheet.draw_sheet(board, board, ["a", "b"], path)
    found = drawn(path)[40:, 60:-20, 0]
    assert ((found > 0) & (found < 255)).mean() < 0.02


def test_long_names_and_titles_fit(tmp_path: Path) -> None:
    """Neither is cut off at the edge of the sheet."""
    path = tmp_path / "sheet.png"
    one = pixels()[:, :1]
    sheet.draw_sheet(one, one, ["a" * 60, "b", "c"], path, title="title " * 20)
    found = drawn(path)
    assert (found[:, :3] == 255).all()
    assert (found[:, -3:] == 255).all()


def test_unfit_images(tmp_path: Path) -> None:
    """Arrays that do not belong together are refused, and so is a file that cannot be written."""
    for images, varied, names in (
        (pixels(), pixels()[:2], "abc"),
        (pixels(), pixels(), "ab"),
        (pixels(2), pixels(2), "abc"),
        (pixels()[0], pixels()[0], "abc"),
    ):
        with pytest.raises(ShapeError, match="names came with images"):
            sheet.draw_sheet(images, varied, list(names), tmp_path / "a.png")
    with pytest.raises(DataError, match="cannot write the sheet"):
        sheet.draw_sheet(pixels(), pixels(), list("abc"), tmp_path)


def test_table() -> None:
    """Each data set has a line no wider than a terminal that says what it is and whether it is here."""
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(datasets_table(data.describe(name) for name in data.names()))
    lines = {line.split()[0]: line.split()[1:] for line in console.export_text().splitlines() if line.strip()}
    assert lines["digits"] == ["1×8×8", "10", "1,000", "797", "–", "yes"]
    assert lines["cifar100"][:6] == ["3×32×32", "100", "50,000", "10,000", "169", "MB"]
    assert lines["image-folder"] == ["any", "any", "any", "any", "–", "–"]
    assert set(lines) >= set(data.names())


@pytest.mark.parametrize("name", ["$\\frac$", "US$_and_CA$", "caf\udce9", "a\x1b[31m\x00b", "two\nlines"])
def test_any_name(tmp_path: Path, name: str) -> None:
    """Dollars are no formula, and nothing in a name breaks the sheet, in a class nor in the title."""
    sheet.draw_sheet(pixels(), pixels(), [name, "b", "c"], tmp_path / "sheet.png", title=name)
    assert drawn(tmp_path / "sheet.png").shape[1] > 400
