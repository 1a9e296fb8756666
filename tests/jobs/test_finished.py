"""A run that has finished is handed back only whole: what is missing or damaged is made again, or named."""

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.jobs.test_train import Diary, train

from svdistill.errors import CheckpointError, DataError, SvdistillWarning
from svdistill.jobs import Run

NAMES = ("student.safetensors", "metrics.jsonl", "summary.json", "insight.npz")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a finished teacher."""
    runs: Path = tmp_path_factory.mktemp("runs")
    train("digits/teacher", runs=runs)
    return runs


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture
def run(runs: Path) -> Run:
    """The teacher's run."""
    (folder,) = (path for path in (runs / "digits" / "teacher").iterdir() if path.is_dir())
    return Run(folder)


def flip(file: Path) -> None:
    """Flip a bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    """Keep the first half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


# A summary that is missing is what a kill before the end leaves.
CASES = [(name, damage) for name in NAMES for damage in (Path.unlink, flip, cut)]
CASES.remove(("summary.json", Path.unlink))


@pytest.mark.parametrize(("name", "damage"), CASES)
def test_a_run_that_is_not_whole_is_finished_again(
    runs: Path, run: Run, name: str, damage: Callable[[Path], None]
) -> None:
    """From its last checkpoint, without a step, to the same files; with one line for what was wrong."""
    kept = {file: (run.path / file).read_bytes() for file in NAMES}
    damage(run.path / name)
    if damage is Path.unlink:
        assert not run.finished
    diary = Diary()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", SvdistillWarning)
        train("digits/teacher", runs=runs, callbacks=diary)
    said = [str(one.message) for one in told if one.category is SvdistillWarning]
    assert f"had finished, but {name} " in said[0]
    assert said[0].endswith("; it is finished again from its last checkpoint")
    assert ["were restored from it" in one for one in said[1:]] == [True] * (name == "metrics.jsonl")
    assert diary.entries == [("training", "digits/teacher")]
    assert run.finished
    assert run.record.damage() == {}
    for file in ("student.safetensors", "metrics.jsonl"):
        assert (run.path / file).read_bytes() == kept[file]
    diary = Diary()
    train("digits/teacher", runs=runs, callbacks=diary)
    assert diary.entries == [("found", "digits/teacher")]


@pytest.mark.parametrize("also", ["checkpoints", "last.pt", "recipe.yaml"])
def test_what_cannot_be_made_again_is_named(runs: Path, run: Run, also: str) -> None:
    """Nothing is trained from the start in silence, and a recipe is nobody's to guess."""
    run.student_file.unlink()
    if also == "checkpoints":
        shutil.rmtree(run.record.last.parent)
    elif also == "last.pt":
        cut(run.record.last)
        cut(run.record.best)
    else:
        (run.path / also).write_text((run.path / also).read_text().replace("seed: 0", "seed: 1"))
    there = sorted(run.path.rglob("*"))
    why = "which no checkpoint holds" if also == "recipe.yaml" else "and no checkpoint is left"
    with pytest.raises(DataError, match=rf"student\.safetensors is missing.*, {why}.* train afresh \(--fresh\)"):
        train("digits/teacher", runs=runs)
    assert sorted(run.path.rglob("*")) == there
    assert train("digits/teacher", runs=runs, fresh=True).record.damage() == {}


def test_a_teacher_that_is_damaged_is_finished_again(runs: Path, run: Run) -> None:
    """Before its student learns from it; read by itself it is refused."""
    kept = run.student_file.read_bytes()
    flip(run.student_file)
    with pytest.raises(CheckpointError, match="has changed since it was written"):
        run.student()
    diary = Diary()
    with pytest.warns(SvdistillWarning, match="it is finished again"):
        train("digits/svd", runs=runs, callbacks=diary)
    assert diary.entries == [("training", "digits/teacher"), ("training", "digits/svd")]
    assert run.student_file.read_bytes() == kept


def test_leftovers_of_a_killed_process(runs: Path, run: Run) -> None:
    """They are cleared when the run resumes; those of processes that run stay."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    run.record.reopen()
    for process in (child.pid, os.getppid()):
        for file in (run.record.last, run.student_file):
            file.with_name(f".{file.name}.{process}.tmp").write_bytes(b"half")
    train("digits/teacher", runs=runs)
    left = sorted(file.name for file in run.path.rglob(".*.tmp"))
    assert left == [f".{name}.{os.getppid()}.tmp" for name in ("last.pt", "student.safetensors")]
