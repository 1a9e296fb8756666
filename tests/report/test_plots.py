"""Figures from records."""

from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from svdistill.errors import DataError
from svdistill.report import plots


def runs(*lasts: float, epochs: int = 10) -> list[list[dict[str, Any]]]:
    """Return the metrics of runs that rise to a last accuracy."""
    return [[{"epoch": e + 1, "accuracy": last * (e + 1) / epochs} for e in range(epochs)] for last in lasts]


def test_writes_a_png(tmp_path: Path) -> None:
    """The figure has the promised size and shows more than its background."""
    file = tmp_path / "figure.png"
    curves = [plots.Curve("alone", runs(0.8, 0.82)), plots.Curve("soft targets", runs(0.85, 0.86))]
    plots.training_curves(curves, file, teacher=0.95, title="Digits")
    pixels = matplotlib.image.imread(file)
    assert pixels.shape[:2] == (780, 1500)
    assert pixels[..., :3].std() > 0.01
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.parametrize("epochs", [1, 2, 200])
def test_any_length(tmp_path: Path, epochs: int) -> None:
    """A single run of a single epoch is drawn, and so are runs that were cut off at different places."""
    uneven = [*runs(0.5, epochs=epochs), *runs(0.6, epochs=max(1, epochs - 1))]
    plots.training_curves([plots.Curve("a", uneven)], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0


def test_nothing_to_draw(tmp_path: Path) -> None:
    """No methods, no runs or no epochs are refused."""
    for curves in ([], [plots.Curve("empty", [])], [plots.Curve("empty", [[]])]):
        with pytest.raises(DataError, match="nothing to draw"):
            plots.training_curves(curves, tmp_path / "figure.png")


def test_not_writable(tmp_path: Path) -> None:
    """A missing folder is found before and while writing."""
    for wrong in (tmp_path / "missing" / "figure.png", tmp_path):
        with pytest.raises(DataError, match="cannot write the figure"):
            plots.check_writable(wrong)
    with pytest.raises(DataError, match="cannot write the figure"):
        plots.training_curves([plots.Curve("a", runs(0.5))], tmp_path)
    plots.check_writable(tmp_path / "figure.png")
