"""Tests of ``svdistill taps``."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from svdistill import nets
from svdistill.cli import app


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the program in this process; return its status and both outputs."""
    status = app.run(["taps", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table must not depend on the terminal that runs the tests."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")


def test_places(capsys: pytest.CaptureFixture[str]) -> None:
    """Each place with its map, stage and depth; our own networks are tapped where their recipes tap them."""
    status, out, err = call(capsys, "resnet8", "--classes", "10", "--width", "0.5")
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert ["stage1", "8", "×", "32", "×", "32", "B", "C", "H", "W", "2", "43", "%", "tap"] in rows
    assert ["classifier.flatten", "32", "B", "D", "100", "%", "tap"] in rows
    assert "in a recipe:  model.taps: [stem, stage1, stage2, stage3, classifier.flatten]" in out


def test_pair_of_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Two networks side by side, one of them read from a file, with vectors counted on real images."""
    file = tmp_path / "teacher.safetensors"
    settings = {"name": "vgg8", "num_classes": 10, "in_channels": 1, "width": 0.125}
    nets.save(nets.create(**settings), file, **settings, extra={"image_size": "16"})
    options = ("--channels", "1", "--image-size", "16", "--width", "0.25", "--images", "digits", "--json")
    status, out, err = call(capsys, "resnet8", "--pair", str(file), *options)
    assert (status, err) == (0, "")
    found = json.loads(out)
    student, teacher = found["networks"]
    assert (student["image"], teacher["image"], teacher["trained"]) == ([1, 16, 16], [1, 16, 16], True)
    assert found["pairs"][-1] == ["classifier.flatten", "classifier.flatten"]
    assert [name for name, _ in found["pairs"]] == list(nets.default_taps("resnet8"))
    assert all(place["rank"] >= 1 for network in found["networks"] for place in network["places"] if place["tap"])
    status, out, _ = call(capsys, "resnet8", "--pair", str(file), *options[:-1])
    assert status == 0
    assert "has fresh weights" in out


def test_rank_worked_by_hand(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Channels that are multiples of one another span one direction, and so have one singular vector."""
    from svdistill.jobs import taps

    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.AvgPool2d(4), nn.Conv2d(2, 3, 1), nn.Flatten())
    model = nn.Sequential(*model, nn.Linear(48, 10))
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([1.0, -2.0])[:, None, None, None]
        model[2].bias[:] = 0
    monkeypatch.setattr(taps, "_resolve", lambda *_: taps._Model("own", model, (1, 16, 16), ["0", "2"]))
    status, out, _ = call(capsys, "own", "--images", "digits", "--json")
    ranks = {place["name"]: place["rank"] for place in json.loads(out)["networks"][0]["places"] if place["tap"]}
    assert (status, ranks) == (0, {"0": 1, "2": 1})


def test_everything(capsys: pytest.CaptureFixture[str]) -> None:
    """With --all also what lies inside of blocks is shown."""
    _, few, _ = call(capsys, "resnet8")
    status, out, _ = call(capsys, "resnet8", "--all")
    assert status == 0
    assert "stage1.0.conv1" in out
    assert "stage1.0.conv1" not in few


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["resnet9"], "error: no network is called 'resnet9'; did you mean 'resnet8'"),
        (["missing.safetensors"], "error: there is no run and no file missing.safetensors"),
        (["digits/svg"], "error: no network is called 'digits/svg'"),
        (["resnet8", "--images", "digit"], "error: no data set is called 'digit'; did you mean 'digits'"),
        (["own.net:make"], "error: 'own.net:make' is code, which runs only where you allow it"),
    ],
)
def test_wrong_input(arguments: list[str], match: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong is one line and status 2."""
    status, out, err = call(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(match)
    assert err.count("\n") == 1
