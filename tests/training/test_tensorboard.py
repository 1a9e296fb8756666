"""Tests of the figures for TensorBoard: written where they are asked for, and refused where the package is missing."""

import sys

import pytest

from svdistill.errors import OptionError
from svdistill.training import tensorboard


def test_tensorboard_has_the_same_numbers(make_run):
    """One scalar a figure and epoch, also where a run resumes."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    make_run().fit(epochs=1, tensorboard=True)
    run = make_run()
    run.fit(epochs=2, tensorboard=True)
    events = accumulator.EventAccumulator(str(run.record.tensorboard)).Reload()
    metrics = run.record.metrics()
    assert set(events.Tags()["scalars"]) == metrics[0].keys() - {"epoch"}
    assert [(e.step, e.value) for e in events.Scalars("accuracy")] == [
        (line["epoch"], pytest.approx(line["accuracy"])) for line in metrics
    ]


def test_nothing_is_written_where_it_is_not_asked_for(make_run, monkeypatch):
    """And the package may be missing."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run = make_run()
    run.fit(epochs=1)
    assert not run.record.tensorboard.exists()


def test_a_missing_package_is_one_line(monkeypatch):
    """It says how to install it."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(OptionError) as caught:
        tensorboard.check_installed()
    assert str(caught.value) == (
        "TensorBoard needs the package tensorboard; install it with: pip install 'svdistill[tensorboard]'"
    )
