"""Figures from records."""

from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

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


def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> Figure:
    """Draw a figure and return it as it was written."""
    written: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **o: (written.append(self), save(self, *a, **o))[1])
    plots.training_curves(*arguments, tmp_path / "figure.png", **options)
    return written[0]


def test_shows_the_numbers_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Means over the epochs, every seed's last accuracy, its mean in words, and the teacher, all in percent."""
    curves = [plots.Curve("alone", runs(0.8, 0.82)), plots.Curve("soft targets", runs(0.85, 0.87))]
    lines, ends = draw(tmp_path, monkeypatch, curves, teacher=0.95, title="Digits").axes
    drawn = [line.get_ydata() for line in lines.lines]
    assert drawn[0] == pytest.approx([8.1 * (epoch + 1) for epoch in range(10)])
    assert drawn[1][-1] == pytest.approx(86.0)
    assert list(drawn[2]) == [95.0, 95.0]
    dots = [sorted(dots.get_offsets()[:, 1]) for dots in ends.collections if isinstance(dots, PathCollection)]
    assert dots == [pytest.approx([80.0, 82.0]), pytest.approx([85.0, 87.0])]
    assert [label.get_text() for label in ends.get_xticklabels()] == ["alone\n81.0", "soft\ntargets\n86.0"]
    assert "teacher 95.0" in [text.get_text() for text in lines.texts]


@pytest.mark.parametrize("epochs", [1, 2, 200])
def test_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """A single run of a single epoch is drawn, and runs of different lengths as far as all of them go."""
    common = max(1, epochs - 1)
    uneven = [*runs(0.5, epochs=epochs), *runs(0.6, epochs=common)]
    lines, ends = draw(tmp_path, monkeypatch, [plots.Curve("a", uneven)]).axes
    assert list(lines.lines[0].get_xdata()) == list(range(1, common + 1))
    assert lines.lines[0].get_ydata()[-1] == pytest.approx(100 * (0.5 * common / epochs + 0.6) / 2)
    assert (lines.lines[0].get_marker() == "o") == (common == 1)
    assert [label.get_text() for label in ends.get_xticklabels()] == ["a\n55.0"]


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


@pytest.mark.parametrize("name", ["$\\frac$", "caf\udce9\x1b[31m"])
def test_any_name(tmp_path: Path, name: str) -> None:
    """Dollars are no formula, and bytes that are not text no error."""
    plots.training_curves([plots.Curve(name, runs(0.8))], tmp_path / "figure.png", title=name)
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_title_of_two_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own line end stays one; what else it holds does nothing."""
    figure = draw(tmp_path, monkeypatch, [plots.Curve("alone", runs(0.8))], title="above\nbelow \x1b[31m")
    assert figure.get_suptitle() == "above\nbelow \\x1b[31m"
