"""Tests of ``svdistill networks``."""

import pytest

from svdistill.cli import app


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the program in this process; return its status and both outputs."""
    status = app.run(["networks", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table must not depend on the terminal that runs the tests."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    """One command prints what is counted beside what is published."""
    status, out, err = call(capsys)
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert ["vgg-teacher", "10.886", "10.9", "576.27", "576.3", "block1–4"] in rows
    assert ["mobilenet-student", "0.817", "0.82", "36.78", "37.8", "stage1–5"] in rows
    assert max(map(len, out.splitlines())) <= 80


def test_taps_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    """The maps of one network, for images and a width of one's choice."""
    arguments = ("--taps", "vgg8", "--image-size", "64", "--width", "0.5", "--channels", "1", "--classes", "7")
    status, out, _ = call(capsys, *arguments)
    assert status == 0
    assert "256 × 4 × 4" in out
    assert "16 × 256" in out


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--taps", "vgg-techer"], "error: no network is called 'vgg-techer'; did you mean 'vgg-teacher'"),
        (["--width", "nan"], "error: width is nan, expected a finite number above 0"),
        (["--image-size", "0"], "error: Invalid value for '--image-size'"),
        (["--classes", "many"], "error: Invalid value for '--classes'"),
    ],
)
def test_wrong_input(arguments: list[str], match: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong is one line and status 2."""
    status, out, err = call(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(match)
    assert err.count("\n") == 1
