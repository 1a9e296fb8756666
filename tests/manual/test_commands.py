"""The page of commands has them all, as they are."""

import re
from pathlib import Path

import pytest
from manual.record import COMMANDS, WIDTH, name_of, tidy
from typer.testing import CliRunner

from manual import commands
from svdistill.cli.app import app

ROOT = Path(__file__).parent.parent.parent
# What needs no training, and prints the same on every machine.
_INSTANT = ["new", "networks", "taps", "recipes list", "recipes methods", "recipes show"]


def test_every_command_has_an_example():
    """What is recorded covers every command of the program, and no other."""
    assert {name_of(line) for line in COMMANDS} == set(commands.every())
    for name in commands.every():
        lines = [f"$ svdistill {line}" for line in COMMANDS if name_of(line) == name]
        assert [line for line in (commands.recorded(name) or "").splitlines() if line.startswith("$ ")] == lines


def test_the_table_names_every_command():
    """The table at the top of the page leads to each section."""
    text = (ROOT / "docs/commands.md").read_text("utf-8")
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) == {name.replace(" ", "-") for name in commands.every()}


def test_a_section():
    """Arguments, options and defaults are told, and nothing in them is taken for Markdown."""
    text = commands.section("compare", commands.every()["compare"])
    assert "svdistill compare [OPTIONS] RECIPE [KEY=VALUE]...\n" in text
    assert "| `--jobs N` |" in text
    assert "KEY=\\[A,B,C\\] lets one vary." in text
    assert "Example: `svdistill compare " in text


@pytest.mark.parametrize("name", _INSTANT)
def test_recorded_output_is_as_it_is_now(name, tmp_path, monkeypatch):
    """Examples that can be made in an instant are those that were recorded; if not, `python -m manual.record`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    texts = []
    for line in COMMANDS:
        if name_of(line) == name:
            result = CliRunner().invoke(app, line.split())
            assert result.exit_code == 0, result.output
            texts.append(f"$ svdistill {line}\n{tidy(result.output)}\n")
    assert "\n".join(texts) == commands.recorded(name)
