"""A run that was killed with SIGKILL in the middle of an epoch ends as if nothing had been."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.trees import equal

from svdistill.records import RunRecord

PROGRAM = [sys.executable, str(Path(__file__).with_name("interruptible.py"))]


def finish(folder):
    """Run the program to its end, or from where it was to its end."""
    subprocess.run([*PROGRAM, str(folder), "never"], check=True, stdin=subprocess.DEVNULL)


def kill(folder, when):
    """Run the program until it says that it is time, and kill it."""
    with subprocess.Popen(
        [*PROGRAM, str(folder), when], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "now\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


def state(folder):
    """Return the last checkpoint without what a clock says."""
    content = torch.load(RunRecord(folder).last, weights_only=True)
    for name in ("seconds", "lines"):  # which say how long each epoch took
        del content[name]
    return content


def metrics(folder):
    """Return the run's lines without what a clock says."""
    lines = RunRecord(folder).metrics.read()
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of the run that was never killed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(folder)
    return folder


@pytest.mark.parametrize(("when", "position"), [("step", 4), ("saving", 2)])
def test_a_killed_run_continues_bit_for_bit(uninterrupted, tmp_path, when, position):
    """Killed between two steps, the last checkpoint at the epoch's beginning; and in the middle of writing one."""
    kill(tmp_path, when)
    left = state(tmp_path)
    assert left["epoch"] == 1
    assert left["batches"]["position"] == position
    assert not equal(left["model"], state(uninterrupted)["model"])
    finish(tmp_path)
    assert equal(state(tmp_path), state(uninterrupted))
    assert metrics(tmp_path) == metrics(uninterrupted)
    assert len(metrics(tmp_path)) == 3


def test_a_checkpoint_keeps_the_names_of_its_format(uninterrupted):
    """A run that was interrupted before an update is resumed after it: another name asks for another format."""
    assert set(torch.load(RunRecord(uninterrupted).last, weights_only=True)) == {
        "format",
        "identity",
        "model",
        "epoch",
        "accuracy",
        "seconds",
        "optimizer_name",
        "optimizer",
        "batches",
        "tally",
        "health",
        "random",
        "lines",
    }
