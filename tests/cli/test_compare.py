"""``svdistill compare`` as a program: one line for what is wrong, tables, and a restart after everything was killed."""

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from rich.console import Console

from svdistill import sweep
from svdistill.cli import app
from svdistill.cli.compare import parse_seeds
from svdistill.cli.compare_progress import CompareProgress
from svdistill.jobs import Run
from svdistill.sweep import Outcome, Task

OWN = ["model.width=0.1", "data.image_size=16", "data.train_size=20", "train.batch_size=10"]
TINY = [*OWN, *(f"teacher.overrides.{setting}" for setting in OWN), "teacher.overrides.train.epochs=1"]
SMALL = ["digits/svd", *TINY, "train.device=cpu", "--methods", "alone,svd"]


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in a folder of its own, with tables that do not depend on the terminal that runs the tests."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", [0, 1, 2]), ("1", [0]), ("7,", [7]), ("0,1,5", [0, 1, 5]), ("4-6", [4, 5, 6]), ("1, 3-4", [1, 3, 4])],
)
def test_seeds(text: str, seeds: list[int]) -> None:
    """A number, a list, a range, or a list of both."""
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "x", "1,,2", "3-1", "1.5", "-1", "5000", "0-5000"])
def test_seeds_that_are_none(text: str) -> None:
    """Everything else is refused in words that show what is right."""
    with pytest.raises(typer.BadParameter, match="expected how many"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["digits/svd", "--methods", "alone,sdv"], "no method 'sdv'; did you mean 'svd'"),
        (["digits/svd", "loss.rnk=[1,2]"], "loss.rnk: unknown key"),
        (["digits/svd", "--seeds", "none"], "Invalid value for '--seeds': 'none': expected how many"),
        (["digits/svd", "--jobs", "0"], "Invalid value for '--jobs'"),
        (["digits/svd", "--on", "rays"], "no backend 'rays'; did you mean 'ray'"),
        (["digits/sdv"], "no recipe 'digits/sdv'; did you mean 'digits/svd'"),
        (["digits/student"], "method 'soft-target' needs a teacher, and digits/student has none"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], match: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Status 2, one line, nothing written."""
    assert app.run(["compare", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert match in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_ray_that_is_not_installed(
    dry: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One line says how to install it, and nothing is written."""
    monkeypatch.setitem(sys.modules, "ray", None)
    assert app.run(["compare", *SMALL, "--on", "ray", *dry]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "pip install 'svdistill[ray]'" in err
    assert list(tmp_path.iterdir()) == []


def test_dry_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It lists every run and writes nothing."""
    assert app.run(["compare", *SMALL, "loss.rank=[1,2]", "--seeds", "2", "--dry-run"]) == 0
    out, _ = capsys.readouterr()
    assert "7 runs, 0 of them found finished" in out
    assert "svd rank=2" in out
    assert list(tmp_path.iterdir()) == []


def test_resumes_after_everything_was_killed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The parent dies of SIGKILL, its workers follow, and the same command finishes what they had begun."""
    arguments = ["compare", *SMALL, "train.epochs=25", "--seeds", "1", "--jobs", "2"]
    with subprocess.Popen([sys.executable, "-m", "svdistill", *arguments], stderr=subprocess.DEVNULL) as parent:
        until = time.monotonic() + 100
        # A line of metrics is written before the checkpoint: only with that is there something to resume from.
        while not (saved := list(tmp_path.glob("runs/digits/svd/0-*/checkpoints/last.pt"))):
            assert parent.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        parent.send_signal(signal.SIGKILL)
    folder = saved[0].parent.parent
    teacher = next(tmp_path.glob("runs/digits/teacher/0-*/summary.json")).stat().st_mtime_ns
    with Run(folder).locked(waiting=lambda: None):  # free once the worker is gone
        done = len(Run(folder).metrics)
    assert 1 <= done < 25
    assert not Run(folder).finished

    assert app.run(arguments) == 0
    out, err = capsys.readouterr()
    assert f"svd seed 0: resumes after epoch {done}" in err or f"after epoch {done - 1}" in err
    assert len(Run(folder).metrics) == 25
    assert next(tmp_path.glob("runs/digits/teacher/0-*/summary.json")).stat().st_mtime_ns == teacher
    assert "digits/svd: 2 methods, 1 seed, test accuracy" in out
    written = json.loads((tmp_path / "comparisons" / "digits-svd" / "comparison.json").read_text())
    assert [run["state"] for run in written["runs"]] == ["finished"] * 3

    assert app.run([*arguments[:-1], "1"]) == 0
    again, err = capsys.readouterr()
    assert "3 runs, 3 of them found finished" in err
    assert again == out


def test_tables_that_cannot_be_written_stop_nothing(tmp_path: Path) -> None:
    """A full disk is reported, and training continues."""
    planned = sweep.plan("digits/svd", overrides=TINY, methods=["alone"], seeds=[0], runs=tmp_path)
    text = io.StringIO()
    progress = CompareProgress(planned, tmp_path / "out", Console(file=text, width=200, color_system=None))
    with progress.shown():
        for file in (tmp_path / "out").iterdir():
            file.unlink()
        (tmp_path / "out").rmdir()
        (tmp_path / "out").write_text("in the way")
        progress.ended(Task(planned.members[0].key, planned.members[0].recipe), Outcome("it broke"))
    assert "cannot write the tables to" in text.getvalue()
    assert "1/1  alone seed 0: failed: it broke" in text.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_the_view_follows_the_runs(terminal: bool, tmp_path: Path) -> None:
    """Bars in a terminal, lines elsewhere; tables after each run; a failure is red and counted."""
    planned = sweep.plan(
        "digits/svd", overrides=[*TINY, "train.epochs=4"], methods=["alone"], seeds=[0, 1], runs=tmp_path
    )
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=80, color_system=None)
    progress = CompareProgress(planned, tmp_path / "out", console, pause=0)
    first, second = (Task(member.key, member.recipe) for member in planned.members)
    with progress.shown():
        progress.started(first, epochs=4, steps=2, done_epochs=1)
        progress.stepped(first, done_steps=3, loss=1.25)
        progress.measured(first, {"epoch": 2})
        progress.measured(first, {"epoch": 3, "accuracy": 0.5})
        progress.warned(first, "odd [thing]")
        planned.members[0].settle(Outcome("it broke"))
        progress.ended(first, Outcome("it broke"))
        progress.postponed(second)
        assert '"error": "it broke"' in (tmp_path / "out" / "comparison.json").read_text()
    lines = text.getvalue()
    assert "2 runs, 0 of them found finished" in lines
    assert "alone seed 0: warning: odd [thing]" in lines
    assert "1/2  alone seed 0: failed: it broke" in lines
    assert "alone seed 1: another process is training it" in lines
    if not terminal:
        assert "alone seed 0: resumes after epoch 1, 4 × 2 steps" in lines
        assert "0/2 runs" in lines
        assert "alone seed 0: epoch 4/4  loss 1.250  50.0 %" in lines


def test_the_time_that_is_left_is_told_by_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """80 of a teacher's 160 steps in 80 s, and four students of 200 each, whose epochs have two: 880 s."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    overrides = ["teacher.overrides.train.epochs=8", "train.epochs=100", "data.train_size=50", "train.batch_size=25"]
    planned = sweep.plan("digits/svd", overrides=overrides, methods=["alone", "svd"], seeds=[0, 1], runs=tmp_path)
    text = io.StringIO()
    progress = CompareProgress(planned, tmp_path / "out", Console(file=text, width=200, color_system=None), pause=0)
    teacher, first, *_ = (Task(member.key, member.recipe) for member in planned.members)
    progress.started(teacher, epochs=8, steps=20, done_epochs=0)
    now[0] = 80
    progress.measured(teacher, {"epoch": 4})
    assert "0/5 runs  about 14 min 40 s left; digits/teacher seed 0: epoch 5/8" in text.getvalue()
    progress.started(first, epochs=100, steps=4, done_epochs=0)  # more than were counted, of all students
    now[0] = 100
    progress.stepped(first, done_steps=20, loss=1)
    assert "about 27 min 40 s left" in text.getvalue()  # 1,660 of 1,760 steps, at 1 s

    unknown = sweep.plan("digits/student", overrides=["data.train_size=[50,null]"], methods=["alone"], runs=tmp_path)
    text = io.StringIO()
    progress = CompareProgress(unknown, tmp_path / "out", Console(file=text, width=200, color_system=None), pause=0)
    progress.started(Task(unknown.members[0].key, unknown.members[0].recipe), epochs=100, steps=2, done_epochs=0)
    progress.stepped(Task(unknown.members[0].key, unknown.members[0].recipe), done_steps=40, loss=1)
    assert "0/6 runs; alone train_size=50 seed 0" in text.getvalue()
    assert "left" not in text.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_runs_that_wait_for_memory(terminal: bool, tmp_path: Path) -> None:
    """One line says how many there is room for; a run that is tried again has one bar, not two."""
    planned = sweep.plan("digits/svd", overrides=[*TINY, "train.epochs=4"], methods=["alone"], seeds=[0], runs=tmp_path)
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120, color_system=None)
    progress = CompareProgress(planned, tmp_path / "out", console)
    (task,) = (Task(member.key, member.recipe) for member in planned.members)
    with progress.shown():
        progress.started(task, epochs=4, steps=2, done_epochs=0)
        progress.crowded(task, runs=3, need=9_120_000_000)
        progress.crowded(task, runs=1, need=30_000_000_000)
        progress.started(task, epochs=4, steps=2, done_epochs=1)
        assert progress._bars is None or len(progress._bars.tasks) == 2  # its own and that of all runs
    lines = text.getvalue()
    assert "the GPU's memory holds 3 runs side by side (each needs 9.1 GB); the others wait their turn" in lines
    assert "the GPU's memory holds 1 run at a time (each needs 30.0 GB); the others wait their turn" in lines


def test_another_comparison_of_the_recipe_loses_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It has a folder of its own; the same one again, or with more seeds, is written where it was."""
    arguments = ["compare", "digits/student", *OWN, "train.epochs=1", "train.device=cpu", "--methods", "alone"]
    folder = tmp_path / "comparisons" / "digits-student"
    for more in (
        ["--seeds", "1"],
        ["train.epochs=2", "--seeds", "1"],
        ["--seeds", "2"],
        ["train.epochs=2", "--seeds", "2"],
    ):
        assert app.run([*arguments, *more]) == 0
    assert "written to comparisons/digits-student-2/comparison.md" in capsys.readouterr().err
    assert {path.name for path in folder.parent.iterdir()} == {"digits-student", "digits-student-2"}
    for path, epochs in ((folder, 1), (folder.with_name("digits-student-2"), 2)):
        runs = json.loads((path / "comparison.json").read_text())["runs"]
        assert [run["summary"]["epochs"] for run in runs] == [epochs] * 2
    folder.joinpath("comparison.json").write_text("mine")
    assert app.run([*arguments, "--seeds", "1"]) == 0
    assert folder.joinpath("comparison.json").read_text() == "mine"
    assert folder.with_name("digits-student-3").is_dir()


def test_a_failed_run_gives_status_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Table and files say what failed."""
    arguments = ["digits/svd", *TINY, "train.device=cpu", "optimizer.lr=1e9", "train.epochs=3", "--methods", "alone"]
    assert app.run(["compare", *arguments, "--seeds", "1", "--output", "out"]) == 1
    out, err = capsys.readouterr()
    assert "failed  alone seed 0: a weight is not finite" in " ".join(out.split()).replace(
        "failed alone", "failed  alone"
    )
    assert "1/1  alone seed 0: failed" in err
    assert "a weight is not finite" in (tmp_path / "out" / "comparison.md").read_text()
