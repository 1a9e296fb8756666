"""Runs that are killed at random moments, resumed until they end, and compared with runs that nobody killed."""

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from svdistill.records import RunRecord

# What a clock says differs between any two runs.
_TIMES = ("seconds", "images_per_second")
_MOST_KILLS_OF_A_RUN = 3
# An unkilled run takes a few seconds: one that takes this long hangs.
_PATIENCE_SECONDS = 300

_SIZE = ("model.width=0.1", "data.image_size=16", "train.batch_size=10", "train.device=cpu")
_OF_TEACHER = (*_SIZE[:-1], "data.train_size=20", "train.epochs=3")
_STUDENT = ("digits/svd", *_SIZE, *(f"teacher.overrides.{setting}" for setting in _OF_TEACHER))
_EVERY_STEP = "train.checkpoint_minutes=1e-6"
# What a training loads, most of it late: kills are to hit the training and not its imports.
_LIBRARIES = ["torch._dynamo", "svdistill.cli.app", "svdistill.cli.progress", "svdistill.jobs.train"]


class Scenario(NamedTuple):
    """What is trained while it is killed.

    Attributes:
        name: what the kills are to hit.
        arguments: of ``svdistill train``.
        has_teacher: whether the teacher is there at the start, so that every kill hits the student.
    """

    name: str
    arguments: Sequence[str]
    has_teacher: bool = True


# The first trains the teacher that the others begin with.
SCENARIOS = (
    Scenario("one stage", (*_STUDENT, "data.train_size=20", "train.epochs=6"), has_teacher=False),
    Scenario("two stages", (*_STUDENT, "data.train_size=20", "train.epochs=6", "train.first_stage=3")),
    Scenario("stored knowledge", (*_STUDENT, "data.train_size=100", "train.epochs=3", "teacher.views=8")),
    Scenario("first epoch", (*_STUDENT, "data.train_size=150", "train.epochs=1", _EVERY_STEP)),
    Scenario("buffered step", (*_STUDENT, "data.train_size=40", "train.epochs=4", "train.capture=on", _EVERY_STEP)),
    Scenario(
        "average and validation",
        (*_STUDENT, "data.train_size=40", "data.validation=0.25", "train.epochs=4", "train.ema=0.5", _EVERY_STEP),
    ),
    Scenario("teacher", ("digits/teacher", *_SIZE, "data.train_size=40", "train.epochs=4", _EVERY_STEP), False),
)


@dataclass(frozen=True)
class Unkilled:
    """A scenario that ran to its end in one go.

    Attributes:
        scenario: which.
        runs: its folder of runs.
        seconds: how long it took.
        start: the folder of runs that it began with; None = an empty one.
    """

    scenario: Scenario
    runs: Path
    seconds: float
    start: Path | None


@dataclass(frozen=True)
class Killed:
    """A scenario that was killed, resumed until it ended, and compared.

    Attributes:
        runs: its folder of runs.
        moments: how far it was at each kill.
        differences: what is not as in the run that nobody killed.
    """

    runs: Path
    moments: Sequence[str]
    differences: Sequence[str]


def run_unkilled(scenario: Scenario, runs: Path, *, start: Path | None) -> Unkilled:
    """Train a scenario in one go.

    Args:
        scenario: what is trained.
        runs: its folder of runs, which is made.
        start: a folder of runs to begin with.

    Raises:
        RuntimeError: it does not end well, and so says nothing about kills.
    """
    _begin(runs, start)
    before = time.monotonic()
    process = _train(scenario, runs)
    process.join(_PATIENCE_SECONDS)
    seconds = time.monotonic() - before
    if process.exitcode != 0:
        _kill(process)
        raise RuntimeError(f"{scenario.name} does not even end well where nobody kills it: {_last_words(runs)}")
    return Unkilled(scenario, runs, seconds, start)


def run_killed(unkilled: Unkilled, runs: Path, *, most: int, draw: random.Random) -> Killed:
    """Train a scenario, kill it with SIGKILL at random moments, resume it until it ends, and compare.

    Args:
        unkilled: the same scenario where nobody killed it.
        runs: the folder of runs, which is made.
        most: how many kills there may be; there are also at most three. A process that ends before its kill is none.
        draw: random numbers.
    """
    _begin(runs, unkilled.start)
    moments: list[str] = []
    for _ in range(min(most, draw.randint(1, _MOST_KILLS_OF_A_RUN))):
        process = _train(unkilled.scenario, runs)
        process.join(draw.uniform(0, unkilled.seconds))
        if not _kill(process):
            break
        moments.append(_moment(runs))
    process = _train(unkilled.scenario, runs)
    process.join(_PATIENCE_SECONDS)
    if _kill(process):
        return Killed(runs, moments, [f"it had not ended after {_PATIENCE_SECONDS} s"])
    if process.exitcode != 0:
        return Killed(runs, moments, [f"it ended with status {process.exitcode}: {_last_words(runs)}"])
    return Killed(runs, moments, differences(unkilled.runs, runs))


def differences(expected: Path, found: Path) -> list[str]:
    """Compare two folders of runs: files, weights, stored knowledge, metrics, summaries and diagnostics.

    Args:
        expected: the runs as they should be.
        found: the runs in question.

    Returns:
        What differs, a line each.
    """
    files = {path: _files(path) for path in (expected, found)}
    lines = [f"{name} is missing" for name in sorted(files[expected] - files[found])]
    lines += [f"{name} should not be there" for name in sorted(files[found] - files[expected])]
    for name in sorted(files[expected] & files[found]):
        if not _equal(expected / name, found / name):
            lines.append(f"{name} differs")
    return lines


def _files(runs: Path) -> set[str]:
    """Return all files but locks, by their paths; temporary ones count too, as nothing should be left of a kill."""
    found = (path for path in runs.rglob("*") if path.is_file() and path.suffix not in (".lock", ".log"))
    return {path.relative_to(runs).as_posix() for path in found}


def _equal(first: Path, second: Path) -> bool:
    runs = RunRecord(first.parent), RunRecord(second.parent)
    match first.name:
        case "metrics.jsonl":
            ours, theirs = ([_timeless(line) for line in run.metrics.read()] for run in runs)
            return bool(ours) and ours == theirs
        case "summary.json":
            return _timeless(runs[0].summary()) == _timeless(runs[1].summary())
        case "insight.npz":
            return _same_arrays(first, second)
    return first.suffix not in (".safetensors", ".npy") or first.read_bytes() == second.read_bytes()


def _timeless(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in _TIMES}


def _same_arrays(first: Path, second: Path) -> bool:
    with np.load(first) as ours, np.load(second) as theirs:
        floats = [name for name in ours if ours[name].dtype.kind == "f"]
        same = all(np.array_equal(ours[name], theirs[name], equal_nan=name in floats) for name in ours)
        return bool(floats) and ours.files == theirs.files and same


def _begin(runs: Path, start: Path | None) -> None:
    if start is None:
        runs.mkdir(parents=True)
    else:
        shutil.copytree(start, runs)


def _train(scenario: Scenario, runs: Path) -> BaseProcess:
    """Begin to train a scenario."""
    return start(["train", *scenario.arguments, "--runs", str(runs)], _log(runs))


def start(arguments: Sequence[str], log: Path) -> BaseProcess:
    """Begin to be the program ``svdistill`` in a process of its own, which does not have to load libraries first.

    Args:
        arguments: of the program; with none it says what it can do.
        log: where its output is added.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    process = context.Process(target=_work, args=(list(arguments), log))
    process.start()
    return process


def _work(arguments: list[str], log: Path) -> None:
    """Be the program ``svdistill``, at the head of a group of processes."""
    os.setsid()
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    import torch

    from svdistill.cli import app

    torch.set_num_threads(1)
    sys.exit(app.run(arguments))


def _kill(process: BaseProcess) -> bool:
    """Kill a process and all that it has started; tell whether it was still running."""
    assert process.pid is not None
    while True:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not made its group yet, or has ended
            if not process.is_alive():
                return False
        else:
            process.join()
            return process.exitcode == -signal.SIGKILL


def _log(runs: Path) -> Path:
    return runs / "output.log"


def _last_words(runs: Path) -> str:
    lines = _log(runs).read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def _moment(runs: Path) -> str:
    """Say how far the youngest run in a folder is."""
    records = [record for record in RunRecord.find(runs) if not record.finished]
    if not records:
        return "while no run was open"
    done = len(records[0].metrics.read())
    return f"after epoch {done}" if done else "in the first epoch"
