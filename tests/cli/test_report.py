"""``svdistill report``."""

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
