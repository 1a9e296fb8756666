"""``svdistill cache``: what it prints, and where it ends in one line."""

import shlex
from pathlib import Path

import pytest

from svdistill.cli import app

TINY = ["model.width=0.1", "data.image_size=8", "data.train_size=20", "train.batch_size=10", "train.epochs=1"]
TINY += ["model.taps=[block1,block2]"]
SETTINGS = [*TINY, *(f"teacher.overrides.{setting}" for setting in TINY), "train.device=cpu"]


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in a folder of its own, as in a narrow terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)


def test_cache_then_train(capsys: pytest.CaptureFixture[str]) -> None:
    """A table with sizes, the folder, and the command that trains without the teacher, which works as printed."""
    assert app.run(["cache", "digits/svd", *SETTINGS, "views=2"]) == 0
    out, err = capsys.readouterr()
    for row in ("training images", "views of each", "bytes an image and view", "in all", "teacher's images/s"):
        assert row in out
    assert "digits/svd: running the teacher once over 40 images" in err
    assert "runs/knowledge/digits/teacher/2-" in out
    (line,) = (line for line in out.splitlines() if line.startswith("train "))
    words = shlex.split(line)[2:]
    assert words[:2] == ["train", "digits/svd"]
    assert app.run(words) == 0
    out, err = capsys.readouterr()
    assert "what is stored of the teacher: found in runs/knowledge/digits/teacher/2-" in err
    assert "test accuracy" in out
    assert app.run(["cache", "digits/svd", *SETTINGS, "views=2", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert Path(out.strip()).is_dir()
    assert app.run(["cache", "digits/svd", *SETTINGS, "views=2"]) == 0
    assert "none: it was there" in capsys.readouterr().out


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """One line and status 2; nothing is written."""
    assert app.run(["cache", "digits/svd", *SETTINGS]) == 2
    assert "teacher.views: missing" in capsys.readouterr().err
    assert app.run(["cache", "digits/svd", *SETTINGS, "vews=2"]) == 2
    assert "vews: unknown key" in capsys.readouterr().err
    assert not Path("runs").exists()
