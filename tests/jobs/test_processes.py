"""Runs in several processes: only rank zero writes, another number of them resumes, and they end together."""

import json
import subprocess
import time
from pathlib import Path

import pytest
from tests import processes
from tests.jobs.shared_runs import ALONE, HELPED, Stops

from svdistill import jobs, recipes
from svdistill.jobs import Run

PROGRAM = Path(__file__).with_name("shared_runs.py")


def the_run(runs, name, overrides):
    """Return the run of a recipe, made or not."""
    return Run(runs / name / recipes.identity(recipes.load(name, overrides)))


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Runs that two processes have made, and what each of them said."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.raises(KeyboardInterrupt):
        jobs.train("digits/student", overrides=ALONE, runs=runs, callbacks=Stops())
    assert not the_run(runs, "digits/student", ALONE).finished
    teacher = recipes.teacher_of(recipes.load("digits/svd", HELPED))
    held = Run(runs / teacher.name / recipes.identity(teacher))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    children = processes.start(PROGRAM, runs, **pipes)
    try:
        with held.locked():
            said = children[0].stdout.readline()
            assert not held.path.exists()
        ends = [processes.rest_of(child, timeout=120) for child in children]
    finally:
        for child in children:
            child.kill()
    for child, (_, errors) in zip(children, ends, strict=True):
        assert child.returncode == 0, errors
    return runs, [said + ends[0][0], ends[1][0]]


def test_a_teacher_that_others_train_is_awaited(together):
    """Whoever waits says so once; the second process says nothing of the kind."""
    runs, (first, second) = together
    assert first.count("waiting for digits/teacher") == 1
    assert "waiting" not in second
    run = the_run(runs, "digits/svd", HELPED)
    assert run.finished
    assert [line["epoch"] for line in run.metrics] == [1, 2]
    assert jobs.evaluate(run.path, device="cpu")["accuracy"] == pytest.approx(run.summary["accuracy"])
    assert json.loads((run.path / "environment.json").read_text())["processes"] == 2
    assert run.record.diagnostics.exists()


def test_what_is_stored_of_a_teacher_serves_all(together):
    """One process stores it, both read it; each works on its ten images two at a time."""
    runs, _ = together
    run = the_run(runs, "digits/svd", [*HELPED, "teacher.views=2", "train.batch_size=20", "train.accumulate=5"])
    assert run.finished
    assert len(list((runs / "knowledge").rglob("manifest*"))) == 1


def test_two_processes_continue_with_what_one_began(together):
    """And find it when it is there."""
    runs, (first, second) = together
    run = the_run(runs, "digits/student", ALONE)
    assert run.finished
    assert [line["epoch"] for line in run.metrics] == [1, 2]
    assert first.count("found digits/student") == 1
    assert "found" not in second


def test_one_process_continues_with_what_two_began(together):
    """The first was interrupted, and the second has noticed."""
    runs, (first, second) = together
    overrides = [*ALONE, "seed=7"]
    run = the_run(runs, "digits/student", overrides)
    assert "KeyboardInterrupt" in first
    assert "TrainingError another process of this run has ended" in second
    assert not run.finished
    assert [line["epoch"] for line in run.metrics] == [1]
    assert jobs.train("digits/student", overrides=overrides, runs=runs).path == run.path
    assert [line["epoch"] for line in run.metrics] == [1, 2]


def test_nothing_is_left_over(together):
    """No temporary files, one folder a run."""
    runs, _ = together
    assert not list(runs.rglob("*.tmp"))
    assert len([path for path in (runs / "digits" / "student").iterdir() if path.is_dir()]) == 2


def test_a_killed_process_ends_the_others(tmp_path):
    """With a message of one line, status 1, and a run that can be resumed."""
    command = ["-m", "svdistill", "train", "digits/student", *ALONE, "train.epochs=100000", "--runs", tmp_path]
    run = the_run(tmp_path, "digits/student", [*ALONE, "train.epochs=100000"])
    first, second = processes.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        limit = time.monotonic() + 60
        while not run.record.last.exists() and time.monotonic() < limit:
            time.sleep(0.1)
        second.kill()
        output, errors = first.communicate(timeout=60)
    finally:
        first.kill()
        second.kill()
        second.communicate()
    assert (first.returncode, output) == (1, "")
    last = [line for line in errors.splitlines() if line][-1]
    assert last.startswith("error: another process of this run has ended")
    assert "Traceback" not in errors
    assert run.record.last.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digits/studen"], "error: no recipe 'digits/studen'"),
        (["train", "digits/student", "train.batch_size=33"], "error: train.batch_size: 33 images cannot be divided"),
    ],
)
def test_an_early_error_is_printed_once(tmp_path, arguments, message):
    """By one of the processes; all end with status 2."""
    options = ["train.device=cpu", "--runs", tmp_path]
    ends = processes.run("-m", "svdistill", *arguments, *options)
    assert [status for status, _, _ in ends] == [2, 2]
    said = [line for _, output, errors in ends for line in (output + errors).splitlines()]
    assert len(said) == 1, said
    assert said[0].startswith(message)
    assert not list(tmp_path.iterdir())
