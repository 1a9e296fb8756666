"""A student goes to the hub with its card and comes back the same; a small server stands in for the hub."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from tests.jobs.hub_server import TOKEN, Hub, serving

from svdistill import jobs
from svdistill.errors import CheckpointError, DataError, OptionError
from svdistill.jobs import HubError, Run
from svdistill.jobs.card import model_card

TINY = ["model.width=0.1", "data.image_size=8", "data.train_size=20", "train.batch_size=10", "train.epochs=1"]
ABOUT = {
    "network": "vgg-student",
    "classes": ["a|b", "<c>"],
    "channels": 3,
    "image_size": 8,
    "mean": [0.5, 0.25, 0.125],
    "std": [1.0, 1.0, 1.0],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a finished run of a very small network."""
    return jobs.train("digits/student", overrides=[*TINY, "train.device=cpu"], runs=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """Return a hub that runs; skips where the library that speaks to it is missing."""
    pytest.importorskip("huggingface_hub")
    with serving() as server:
        yield server


def call(hub: Hub, folder: Path, *arguments: object) -> tuple[int, str, str]:
    """Run the program in a folder, with this hub as the only one that it knows."""
    own = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HOME": str(folder / "home"), "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", "svdistill", *map(str, arguments)],
        env={**os.environ, **own, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_COLOR": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_there_and_back(run: Run, hub: Hub, tmp_path: Path) -> None:
    """The file comes back byte for byte, its card tells what the run did, and all of it is one commit."""
    extra = tmp_path / "notes.txt"
    extra.write_text("mine")
    before = hub.commits
    status, out, err = call(hub, tmp_path, "push", run.path, "me/digits", extra)
    assert (status, err) == (0, "")
    assert out.startswith(f"pushed  {hub.address}/me/digits/commit/")
    files = hub.repositories["me/digits"]
    assert files.keys() == {"README.md", "student.safetensors", "notes.txt"}
    assert hub.commits == before + 1
    card = files["README.md"].decode()
    header = yaml.safe_load(card.split("---\n")[1])
    (result,) = header["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == round(run.summary["accuracy"], 4)
    assert f"| test accuracy | {100 * run.summary['accuracy']:.2f} % |" in card
    recipe = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
    assert recipe["model"]["width"] == 0.1
    assert "root" not in recipe["data"]
    assert str(run.path.parent) not in card
    status, out, err = call(hub, tmp_path, "pull", "me/digits")
    assert (status, out, err) == (0, "digits/student.safetensors\n", "")
    jobs.pull("me/digits", tmp_path / "digits", endpoint=hub.address)  # once more over the same
    assert (tmp_path / "digits" / "student.safetensors").read_bytes() == run.student_file.read_bytes()
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["student.safetensors"]


def test_what_the_hub_refuses(run: Run, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each, and nothing is written on either side."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repositories |= {
        "me/empty": {},
        "me/torn": {"student.safetensors": run.student_file.read_bytes()[:500]},
        "me/whole": {"student.safetensors": run.student_file.read_bytes()},
    }
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "student.safetensors").write_bytes(b"mine")
    before = dict(hub.repositories)
    push, pull = partial(jobs.push, run.path, endpoint=hub.address), partial(jobs.pull, endpoint=hub.address)
    for call, kind, words in [
        (lambda: push("no//name"), OptionError, "is not the name of a repository, OWNER/NAME"),
        (lambda: push("digits"), OptionError, "'digits' is not the name of a repository, OWNER/NAME"),
        (lambda: pull("digits"), OptionError, "'digits' is not the name of a repository, OWNER/NAME"),
        (
            lambda: pull("me/whole", tmp_path / "whole" / "student.safetensors"),
            DataError,
            "is in the way; name another",
        ),
        (lambda: push("me/other", also=["nothing.onnx"]), DataError, "there is no file nothing.onnx"),
        (lambda: push("me/other", also=[run.student_file]), DataError, "there are two files called student"),
        (lambda: pull("me/nothing"), HubError, "has no repository me/nothing"),
        (lambda: pull("me/empty"), HubError, "holds no student.safetensors"),
        (lambda: pull("me/whole", revision="v2"), HubError, "no such revision"),
        (lambda: pull("me/torn"), CheckpointError, "is damaged or not a safetensors file"),
        (lambda: pull("me/whole"), DataError, "is there and is another network"),
    ]:
        with pytest.raises(kind, match=words):
            call()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="log in with 'hf auth login'"):
        push("me/other")
    with pytest.raises(HubError, match=r"http://127\.0\.0\.1:9, is out of reach \(.*refused"):  # nobody answers there
        push("me/other", endpoint="http://127.0.0.1:9")
    assert hub.repositories == before
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept == [tmp_path / "whole" / "student.safetensors"]
    assert kept[0].read_bytes() == b"mine"


def test_a_card_of_a_file_alone() -> None:
    """What is not known is left out, and no class name breaks the table."""
    card = model_card("me/alone", ABOUT)
    assert r"| classes | 2: a\|b, &lt;c> |" in card
    assert "| mean, deviation | 0.5, 0.25, 0.125; 1, 1, 1 (white is 1) |" in card
    assert "accuracy" not in card
    assert "## Recipe" not in card


def test_a_card_keeps_places_to_itself() -> None:
    """Of the recipe, folders are left out and a teacher's file is its name alone."""
    recipe = {"teacher": {"checkpoint": "/home/me/secret/t.safetensors"}, "data": {"root": "/home/me", "name": "x"}}
    card = model_card("me/alone", ABOUT, recipe=recipe)
    assert "t.safetensors" in card
    assert "/home/me" not in card
