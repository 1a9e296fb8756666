"""Tests of the moving average of weights: by itself, and in a run."""

import pytest
import torch
from tests.training.runs import StopError, Stopper, same, weights, without_time
from torch import nn

from svdistill import training
from svdistill.errors import OptionError
from svdistill.training import Objective, Stage
from svdistill.training.average import MovingAverage


def model():
    """A layer and a batch norm, whose buffers are two floats a channel and a counter."""
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def moved(net, generator):
    """Change everything, as a step does."""
    with torch.no_grad():
        for value in net.state_dict().values():
            value += 1 if value.dtype == torch.int64 else torch.randn(value.shape, generator=generator)


def test_the_recurrence():
    """As in float64, from the weights after the first step on; the counter stays the model's own."""
    net, generator = model(), torch.Generator().manual_seed(0)
    average = MovingAverage(net, decay=0.9)
    expected = None
    for _ in range(20):
        moved(net, generator)
        average.follow()
        state = {name: value.double() for name, value in net.state_dict().items()}
        expected = state if expected is None else {n: 0.9 * expected[n] + 0.1 * v for n, v in state.items()}
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    with average.applied():
        for name, value in net.state_dict().items():
            if name == "1.num_batches_tracked":
                assert value == 20
            else:
                torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert same(net.state_dict(), kept)
    average.hand_over()
    torch.testing.assert_close(net[0].weight.double(), expected["0.weight"], rtol=1e-5, atol=1e-6)


class Replacing(nn.Module):
    """Puts another tensor in its buffer's place in each forward pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        """Add up."""
        self.seen = self.seen + x
        return x


def test_a_buffer_that_is_replaced():
    """Its average is of what stood in its place after each step: 4, then ½ (4 + 6), then ½ (5 + 16)."""
    net = nn.Sequential(Replacing(), Replacing())
    average = MovingAverage(net, decay=0.5)
    for number in (4.0, 2.0, 10.0):
        net(torch.tensor(number))
        average.follow()
    with average.applied():
        assert [value.item() for value in net.state_dict().values()] == [10.5, 10.5]
    assert net[0].seen == 16
    average.hand_over()
    assert net[1].seen == 10.5


def test_it_begins_again():
    """What was before counts for nothing."""
    net, generator = model(), torch.Generator().manual_seed(0)
    average = MovingAverage(net, decay=0.9)
    for _ in range(3):
        moved(net, generator)
        average.follow()
    average.restart()
    average.follow()
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    average.hand_over()
    assert same(net.state_dict(), kept)


def test_a_weight_of_several_names():
    """It is exchanged once, and so comes back; averaged as one."""
    net = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    net[1].weight = net[0].weight
    average = MovingAverage(net, decay=0.5)
    average.follow()
    first = net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight += 1
    average.follow()
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    with average.applied():
        torch.testing.assert_close(net[1].weight, nn.Parameter(first + 0.5))
    assert same(net.state_dict(), kept)


def test_a_state_of_another_model_is_refused():
    """By names or shapes."""
    state = MovingAverage(model(), decay=0.9).state_dict()
    for other in (nn.Linear(3, 2), nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))):
        with pytest.raises(ValueError, match="of another model"):
            MovingAverage(other, decay=0.9).load_state_dict(state)


@pytest.mark.parametrize("ema", [0.0, 1.0, -0.5, float("nan")])
def test_a_decay_out_of_range(make_run, ema):
    """Before anything is trained."""
    with pytest.raises(OptionError, match=r"ema is .*, expected more than 0 and less than 1, or None"):
        make_run().fit(ema=ema)


class Kept(training.NoProgress):
    """Keeps the weights after each step, in float64."""

    def __init__(self, run):
        self.run, self.states = run, []

    def step(self, *, loss, images):
        """Keep them."""
        state = self.run.distiller.state_dict()
        self.states.append({name: value.double() for name, value in state.items()})


# Two epochs of the transfer task, then two of the main task; six steps each.
STAGES = (Stage(2, Objective(main=0.0, weights={"transfer": 5.0}, max_norm=0.5)), Stage(2, Objective(weights={})))


@pytest.mark.parametrize("capture", ["off", "on"])
def test_a_run_hands_over_the_average_of_its_last_stage(make_run, capture):
    """It is measured beside the weights, which learn as if it were not there."""
    plain = make_run(name="plain")
    plain.fit(stages=STAGES, capture=capture)
    run = make_run()
    kept = Kept(run)
    run.fit(stages=STAGES, ema=0.8, progress=kept, capture=capture)
    lines, raw = run.record.metrics.read(), plain.record.metrics.read()
    assert [line["raw_accuracy"] for line in lines] == [line["accuracy"] for line in raw]
    assert [line["loss"] for line in lines] == [line["loss"] for line in raw]
    assert "raw_accuracy" not in raw[0]
    expected = kept.states[12]
    for state in kept.states[13:]:
        expected = {name: 0.8 * expected[name] + 0.2 * value for name, value in state.items()}
    for name, value in run.distiller.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    found = training.evaluate(run.engine, run.distiller, run.test, mean=run.mean, std=run.std)
    assert found["accuracy"] == lines[-1]["accuracy"]
    assert not same(weights(run), weights(plain))


@pytest.mark.parametrize("capture", ["off", "on"])
@pytest.mark.parametrize("steps", [8, 12, 15])
def test_a_stopped_run_continues_its_average(make_run, steps, capture):
    """Bit for bit, stopped in the first stage, between the two and in the second."""
    whole = make_run(name="whole")
    whole.fit(stages=STAGES, ema=0.8, capture=capture)
    options = {"stages": STAGES, "ema": 0.8, "capture": capture, "checkpoint_minutes": 0}
    with pytest.raises(StopError):
        make_run().fit(**options, progress=Stopper(steps))
    parts = make_run()
    parts.fit(**options)
    assert same(weights(whole), weights(parts))
    assert without_time(whole.record.metrics.read()) == without_time(parts.record.metrics.read())
    again = make_run()
    again.fit(**options)
    assert same(weights(again), weights(parts))
