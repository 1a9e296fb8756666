"""Tests of runs whose images to measure on choose the best epoch."""

import pytest
import torch
from tests.training.runs import StopError, Stopper, same, weights, without_time
from torch import nn

from svdistill import training
from svdistill.training import Objective, Stage, checkpoint
from svdistill.training.average import MovingAverage
from svdistill.training.best import BestWeights
from svdistill.training.state import RunState

STAGES = (Stage(1, Objective(main=0.0, weights={"transfer": 5.0}, max_norm=0.5)), Stage(3, Objective(weights={})))


class Kept(training.NoProgress):
    """Keeps the state after each epoch."""

    def __init__(self, run):
        self.run, self.states = run, []

    def epoch(self, metrics):
        """Keep it."""
        self.states.append(weights(self.run))


def test_the_earliest_of_the_best_epochs(make_run, monkeypatch):
    """Of 0.5, 0.9, 0.9 and 0.7 the second; what is measured is not called the accuracy."""
    accuracies = iter((0.5, 0.9, 0.9, 0.7))
    monkeypatch.setattr("svdistill.training.loop.evaluate", lambda *_, **__: {"accuracy": next(accuracies)})
    run = make_run()
    kept = Kept(run)
    run.fit(stages=STAGES, validates=True, progress=kept)
    assert same(weights(run), kept.states[1])
    assert not run.distiller.training
    assert [line["validation_accuracy"] for line in run.record.metrics.read()] == [0.5, 0.9, 0.9, 0.7]
    assert not any("accuracy" in line for line in run.record.metrics.read())
    last = checkpoint.load(run.record.last, model=run.distiller)
    assert same(last["model"], kept.states[3])


def test_without_it_the_last_epoch_counts(make_run, monkeypatch):
    """And nothing is kept of another."""
    accuracies = iter((0.9, 0.5))
    monkeypatch.setattr("svdistill.training.loop.evaluate", lambda *_, **__: {"accuracy": next(accuracies)})
    run = make_run()
    kept = Kept(run)
    run.fit(epochs=2, progress=kept)
    assert same(weights(run), kept.states[1])
    assert "best" not in checkpoint.load(run.record.last, model=run.distiller)


def test_the_average_of_the_best_epoch(make_run, monkeypatch):
    """It chooses, not the weights themselves, which are best in the third: the run ends as a shorter one would."""
    accuracies = iter((0.1, 0.6, 0.2, 0.8, 0.9, 0.7, 0.1, 0.6, 0.2, 0.8))
    monkeypatch.setattr("svdistill.training.loop.evaluate", lambda *_, **__: {"accuracy": next(accuracies)})
    run = make_run()
    run.fit(epochs=3, ema=0.8, validates=True)
    lines = run.record.metrics.read()
    assert [line["validation_accuracy"] for line in lines] == [0.6, 0.8, 0.7]
    assert [line["raw_validation_accuracy"] for line in lines] == [0.1, 0.2, 0.9]
    shorter = make_run(name="shorter")
    shorter.fit(epochs=2, ema=0.8)
    assert same(weights(run), weights(shorter))


@pytest.mark.parametrize("options", [{}, {"ema": 0.8, "capture": "on"}])
@pytest.mark.parametrize("steps", [12, 21])
def test_a_stopped_run_ends_with_the_same(make_run, steps, options):
    """Bit for bit, stopped in or after an epoch, and without what `best.pt` holds."""
    options = {"stages": STAGES, "validates": True, **options}
    whole = make_run(name="whole")
    whole.fit(**options)
    with pytest.raises(StopError):
        make_run().fit(**options, checkpoint_minutes=0, progress=Stopper(steps))
    parts = make_run()
    parts.record.best.unlink()
    parts.fit(**options)
    assert same(weights(whole), weights(parts))
    assert without_time(whole.record.metrics.read()) == without_time(parts.record.metrics.read())
    again = make_run()
    again.fit(**options)
    assert same(weights(again), weights(whole))


def test_what_is_kept_does_not_change_with_the_model():
    """And comes back from a checkpoint; that of another model is refused."""
    net, other = nn.Linear(2, 2), nn.Linear(3, 2)
    best = BestWeights(net)
    best.hand_over()
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    best.keep()
    with torch.no_grad():
        net.weight.zero_()
    again = BestWeights(net)
    again.load_state_dict(best.state_dict())
    again.hand_over()
    assert same(net.state_dict(), kept)
    with pytest.raises(ValueError, match="best weights are of another model"):
        BestWeights(other).load_state_dict(best.state_dict())


def test_keeping_leaves_average_and_weights_alone(make_run):
    """The state is kept of the average, while the weights go on."""
    run = make_run()
    average, best = MovingAverage(run.distiller, decay=0.5), BestWeights(run.distiller)
    state = RunState(run.distiller, run.optimizer, run.batches, device=run.engine.device, average=average, best=best)
    average.follow()
    averaged = weights(run)
    with torch.no_grad():
        for parameter in run.distiller.parameters():
            parameter += 1
    before = weights(run)
    assert state.next_epoch(0.5)
    assert same(weights(run), before)
    assert same(best.state_dict(), averaged)
