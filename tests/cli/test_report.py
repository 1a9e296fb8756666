"""``svdistill report``."""

import json
from pathlib import Path

import pytest
from tests.report.runs import make_run

from svdistill.cli.app import run


def test_writes_a_page_and_tells_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The path goes to standard output, what is missing to standard error."""
    make_run(tmp_path, "alone")
    make_run(tmp_path, "svd", finished=False)
    output = tmp_path / "page.html"
    assert run(["report", str(tmp_path), "--output", str(output)]) == 0
    told = capsys.readouterr()
    assert str(output) in told.out
    assert "has not finished" in told.err
    assert output.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For scripts: the page's path, its sentences, each method's figures, unrounded, and what was left out."""
    for seed in (0, 1):
        make_run(tmp_path, "alone", seed)
        make_run(tmp_path, "svd", seed)
    make_run(tmp_path, "svd-k2", finished=False)
    assert run(["report", str(tmp_path), "--output", str(tmp_path / "page.html"), "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert told.err == ""
    assert found["path"] == str(tmp_path / "page.html")
    assert found["headline"][0].startswith("KD-SVD won")
    alone, ours = found["regimes"][0]["methods"]
    assert (alone["gain"], found["regimes"][0]["best"]) == (None, "KD-SVD")
    assert ours["gain"] == pytest.approx({"mean": 0.02, "low": 0.02, "high": 0.02})
    assert ours["accuracy"]["mean"] == pytest.approx(0.745)
    assert ours["health"]["energy_teacher"] == pytest.approx(0.6)
    assert [one["reason"] for one in found["left_out"]] == ["has not finished"]
    assert {"seen", "change", "settings", "command"} == set(found["next_steps"][0])


@pytest.mark.parametrize("opens", [True, False])
def test_open(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, opens: bool) -> None:
    """The browser is given the page; where there is none, one line says where the page is, and the status is 0."""
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or opens)
    monkeypatch.setenv("DISPLAY", ":0")
    output = tmp_path / "a page.html"
    command = ["report", str(make_run(tmp_path, "alone")), "-o", str(output), "--open"]
    assert run(command) == 0
    assert opened == [output.as_uri()]
    assert ("there is no browser here" in capsys.readouterr().out) == (not opens)
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert run(command) == 0
    assert len(opened) == 1
    assert f"open {output} in one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "holds no run"),
        ({"finished": False}, "has not finished"),
    ],
)
def test_nothing_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str], made: object, message: str) -> None:
    """An empty folder and a half-written run are one line with status 2, and nothing is written."""
    if isinstance(made, dict):
        make_run(tmp_path / "runs", "svd", **made)
    (tmp_path / "runs").mkdir(exist_ok=True)
    output = tmp_path / "page.html"
    assert run(["report", str(tmp_path / "runs"), "-o", str(output)]) == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert told.count("\n") == 0
    assert not output.exists()
