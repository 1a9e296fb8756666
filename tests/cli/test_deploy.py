"""``svdistill predict`` and ``svdistill export``: tables, JSON, statuses, errors of one line."""

import json
from pathlib import Path

import pytest
from PIL import Image

from svdistill import data, jobs
from svdistill.cli import app
from svdistill.jobs import Run

TINY = ["model.width=0.1", "data.image_size=8", "data.train_size=20", "train.batch_size=10", "train.epochs=1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a finished run of a very small network."""
    return jobs.train("digits/student", overrides=[*TINY, "train.device=cpu"], runs=tmp_path_factory.mktemp("runs"))


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of two scans and a torn one; tables are of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "scans"
    folder.mkdir()
    digits = data.load("digits", image_size=8).test
    for index in range(2):
        Image.fromarray(digits.images[index, 0].numpy()).save(folder / f"{index}.png")  # type: ignore[union-attr]
    (folder / "torn.png").write_bytes((folder / "0.png").read_bytes()[:50])
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the program in this process; return its status and both outputs."""
    status = app.run([str(one) for one in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_predict(run: Run, scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row a picture, or a line of JSON; one that cannot be read has one line, and the status tells."""
    sound, torn = sorted(scans.iterdir())[:2], scans / "torn.png"
    status, out, err = call(capsys, "predict", run.path, *sound, "--top", 2)
    assert (status, err) == (0, "")
    assert out.count("%") == 2 * 2
    assert max(map(len, out.splitlines())) <= 80
    status, out, err = call(capsys, "predict", run.path, scans, "--json", "--top", 2)
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert [Path(line["image"]).name for line in lines] == ["0.png", "1.png", "torn.png"]
    assert [len(line["classes"]) for line in lines[:2]] == [2, 2]
    assert err.count("\n") == 1
    assert f"{torn} cannot be read: " in err
    assert lines[2]["error"] in err


def test_wrong_words(run: Run, scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, one line on standard error, nothing on standard output, nothing written."""
    before = sorted(run.path.iterdir())
    for arguments, words in [
        (["predict", run.path, "nothing.png"], "there is no picture and no folder nothing.png"),
        (["predict", "nothing", scans], "there is no run and no file nothing"),
        (["export", run.path, "--to", "onx"], "no format is called 'onx'"),
        (
            ["export", run.path, "--to", "torch-export", "--images", "nothing"],
            "no data folder nothing; name one that holds pictures",
        ),
        (["export", run.path, "--to", "torch-export", "-o", run.path / "recipe.yaml"], "does not end in .pt2"),
        (["export", run.path, "--to", "safetensors", "-o", scans / "0.png"], "does not end in .safetensors"),
    ]:
        status, out, err = call(capsys, *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), arguments
        assert words in err
    assert sorted(run.path.iterdir()) == before


def test_export(run: Run, scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table fits a terminal and the last line names the file; JSON has the same numbers."""
    status, out, err = call(capsys, "export", run.path, "--to", "torch-export", "-o", scans)
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines()[:-1])) <= 80
    assert out.splitlines()[-1] == f"wrote  {scans / 'student.pt2'}"
    assert (scans / "student.pt2").is_file()
    status, out, _ = call(capsys, "export", run.path, "--to", "torch-export", "-o", scans, "--json")
    found = json.loads(out)
    assert found["images"] == 797
    assert found["networks"][-1]["agreement"] == 1.0
    assert found["networks"][-1]["accuracy"] == pytest.approx(run.summary["accuracy"], abs=1e-9)
