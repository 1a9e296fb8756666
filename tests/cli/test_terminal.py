"""What the program says of itself, and how scripts and shells read it."""

import json
import os
import subprocess
import sys

import pytest

from svdistill import __version__, recipes
from svdistill.cli import app
from svdistill.recipes.groups import GROUPS


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables must not depend on the terminal that runs the tests."""
    monkeypatch.setenv("COLUMNS", "80")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the program and return what it writes to standard output."""
    assert app.run(list(arguments)) == 0
    return capsys.readouterr().out


def test_env(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells versions, threads and folders; where torch does not load, why, and all the rest."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    told = json.loads(said(capsys, "env", "--json"))
    assert told["versions"]["svdistill"] == __version__
    assert told["torch"]["threads"] >= 1
    assert told["folders"]["data sets"].startswith("/somewhere")
    assert told["libraries"]["numpy"]
    monkeypatch.setitem(sys.modules, "torch", None)
    text = said(capsys, "env")
    assert "error: ModuleNotFoundError" in text
    assert "numpy: " in text


def test_groups(capsys: pytest.CaptureFixture[str]) -> None:
    """Groups are listed, not recipes; each recipe is in one of them, and a group lists its own."""
    groups = json.loads(said(capsys, "recipes", "--json"))
    assert sorted(name for group in groups.values() for name in group["recipes"]) == list(recipes.names())
    text = said(capsys, "recipes")
    assert len(text.splitlines()) < 2 * len(GROUPS) + 8
    assert "digits/svd" not in text
    assert "digits/svd" in said(capsys, "recipes", "digits")
    assert "digits/svd" in said(capsys, "recipes", "list", "--all")
    assert app.run(["recipes", "digit"]) == 2
    assert capsys.readouterr().err == "error: no group of recipes 'digit'; did you mean 'digits'?\n"


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["networks", "--taps", "resnet8"], {"name", "shape"}),
        (["data", "list"], {"name", "shape", "classes", "train", "test", "found"}),
    ],
)
def test_json(capsys: pytest.CaptureFixture[str], arguments: list[str], keys: set[str]) -> None:
    """What a table shows is there as JSON."""
    told = json.loads(said(capsys, *arguments, "--json"))
    rows = told["taps"] if isinstance(told, dict) else told
    assert keys <= set(rows[0])


@pytest.mark.parametrize(("words", "word"), [("svdistill run", "runs"), ("svdistill train digits/sv", "digits/svd")])
def test_completion(words: str, word: str) -> None:
    """What completes a line in bash: commands, and names of recipes."""
    variables = {"_SVDISTILL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-m", "svdistill"], capture_output=True, text=True, env={**os.environ, **variables}
    )
    assert word in done.stdout.split()


@pytest.mark.parametrize("command", [[], ["compare"], ["runs", "list"]])
def test_help_on_a_narrow_terminal(command: list[str]) -> None:
    """At 40 columns no line is longer, and the names of options are whole."""
    done = subprocess.run(
        [sys.executable, "-m", "svdistill", *command, "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "40"},
    )
    assert max(map(len, done.stdout.splitlines())) <= 40
    assert "…" not in done.stdout.partition("Example")[0]
    assert {"compare": "--allow-code", "runs": "--reverse"}.get("".join(command[:1]), "--version") in done.stdout
