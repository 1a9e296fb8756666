"""Tests of the picture of the small-data series."""

from pathlib import Path

import matplotlib.image
import pytest
from tests.benchmarks.test_regimes import runs

from benchmarks import regimes, series


def test_gains_over_the_shares(tmp_path: Path) -> None:
    """Paired by seed, with the student alone of the labelled images as the baseline of both panels; then drawn."""
    found = {
        "cifar100-resnet-5": {"alone": runs(0.10, 0.12), "svd-recommended": runs(0.14, 0.16)},
        "cifar100-resnet-10": {"alone": runs(0.20, 0.22), "svd-recommended": runs(0.21, 0.25), "dkd": runs(0.22)},
        "cifar100-resnet-10-unlabelled": {"fsp": runs(0.19)},
    }
    labelled = series.curves({"regimes": found}, "resnet", unlabelled=False)
    assert [(line.method, line.shares) for line in labelled] == [("dkd", (10,)), ("svd-recommended", (5, 10))]
    assert [gain.mean for gain in labelled[1].gains] == pytest.approx([4, 2])
    (beside,) = series.curves({"regimes": found}, "resnet", unlabelled=True)
    assert (beside.method, beside.shares) == ("fsp", (10,))
    assert beside.gains[0].mean == pytest.approx(-1)
    series.draw({"regimes": found}, tmp_path / "series.png")
    assert matplotlib.image.imread(tmp_path / "series.png").std() > 0.05


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    """One line says which command measures; no file appears."""
    with pytest.raises(SystemExit, match="python -m benchmarks regimes"):
        series.draw({"regimes": {}}, tmp_path / "series.png")
    assert not list(tmp_path.iterdir())


def test_every_method_looks_different() -> None:
    """Of those that the series compares."""
    some = next(one for one in regimes.SECTIONS["regimes-cifar100"])
    looks = [series._look(name) for name in some.methods if name != "alone" and not name.startswith("svd")]
    assert len(set(looks)) == len(looks)
