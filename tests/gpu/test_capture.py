"""Steps on buffers, captured where the device is a GPU, against steps one by one on the same device."""

import itertools

import pytest
import torch
from tests.gpu.small import EVERYTHING, METHODS, TAPS, Network, differ, image_set, run
from tests.plain_loss import PlainLoss

from svdistill import losses, training
from svdistill.data import Augmentation, Batches, Mixing, channel_statistics
from svdistill.distiller import Distiller
from svdistill.errors import OptionError, TrainingError
from svdistill.records import RunRecord
from svdistill.training import NoProgress, Objective, checkpoint

STEADY = {"lr": 1e-3}  # what rounding does to a step, the next ones must not blow up


def buffered(some, count):
    """Do steps on buffers, whole epochs."""
    ways = some.buffered()
    for _ in range(count // len(some.batches)):
        for _ in ways.epoch(0):
            pass


def figures(some):
    """Return sums and health."""
    return {**some.metrics.read(), **some.health.summary()}


@pytest.mark.parametrize("method", METHODS)
def test_many_steps(device, method):
    """Weights, statistics and figures: on a CPU to the bit, on a GPU but for the order in which it adds."""
    steps = 9 if device.type == "cpu" else 51  # whole epochs
    eager, captured = (run(device, method, **STEADY) for _ in range(2))
    eager.eager(steps)
    buffered(captured, steps)
    difference = differ(captured.weights, eager.weights)
    assert difference <= (0 if device.type == "cpu" else 2e-3)
    assert figures(captured) == pytest.approx(figures(eager), rel=0 if device.type == "cpu" else 2e-2)
    assert len(captured.health) == len(eager.health)
    assert differ(captured.weights, run(device, method, **STEADY).weights) > 10 * difference


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate": 2},
        {"unlabelled": 4},
        {"augmentation": EVERYTHING, "mixing": Mixing(mixup=0.5, cutmix=1.0)},
        {"teacher_width": 12},
        {"optimizer": "adamw"},
        {"precision": "bf16-mixed", "channels_last": True},
    ],
    ids=lambda options: ", ".join(options),
)
def test_a_few_steps_in_other_ways(device, options):
    """Parts, images without labels, adapters, the other optimizer, mixed precision."""
    eager, captured = (run(device, "svd", **STEADY, **options) for _ in range(2))
    eager.eager(6)
    buffered(captured, 6)
    assert differ(captured.weights, eager.weights) <= (0 if device.type == "cpu" else 2e-2)
    assert figures(captured)["loss"] == pytest.approx(figures(eager)["loss"], rel=1e-2)


def test_rate_and_epoch_are_read_at_each_replay(device):
    """A rate of almost nothing stops the weights; the epoch decides how much of the transfer gradient comes through."""
    some = run(device, "svd")
    ways = some.buffered()
    for _ in ways.epoch(0):
        pass
    before = some.weights
    training.optimizers.set_learning_rate(some.learner.optimizer, 1e-12)
    for _ in ways.epoch(0):
        pass
    parameters = dict(some.learner.distiller.named_parameters())
    assert all(torch.allclose(some.weights[name], before[name], atol=1e-7) for name in parameters)
    ends = []
    for epoch in (0, 5):
        # So large a transfer gradient is always bounded.
        some = run(device, "svd")._replace(objective=Objective(weights={"transfer": 1000.0}))
        for _ in some.buffered().epoch(epoch):
            pass
        ends.append(some.weights)
    assert differ(*ends) > 1e-5


def test_warming_up_leaves_no_trace(device):
    """Weights, statistics, momentum, sums, health and random numbers are as they were before the first step."""
    some = run(device, "svd", dropout=0.5)
    ways = some.buffered()
    before, random = some.weights, checkpoint.random_state()
    ways.begin(0)
    assert all(torch.equal(value, before[name]) for name, value in some.weights.items())
    kept = [value for state in some.learner.optimizer.state.values() for value in state.values()]
    assert kept
    assert not any(value.any() for value in kept if torch.is_tensor(value))
    assert len(some.health) == some.metrics.steps == 0
    assert all(torch.equal(a, b) for a, b in zip(tensors(checkpoint.random_state()), tensors(random), strict=True))


def tensors(value):
    """Return the tensors of a nested value, in order."""
    return [one for one in torch.utils._pytree.tree_leaves(value) if torch.is_tensor(one)]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_draws_anew_in_each_step(device, dropout):
    """With weights that stand still, all images in each batch and no warps, dropout alone makes steps differ."""
    some = run(device, "alone", dropout=dropout, lr=1e-12, augmentation=Augmentation())
    shared = {"augmentation": Augmentation(), "mean": torch.zeros(3), "std": torch.ones(3)}
    some = some._replace(batches=Batches(image_set(24).to(device), 24, seed=0, **shared))
    ways, seen = some.buffered(), [0.0]
    for _ in range(6):
        for _ in ways.epoch(0):
            seen.append(some.metrics.read()["loss"] * some.metrics.steps)
    each = [after - before for before, after in itertools.pairwise(seen)]
    apart = min(abs(a - b) for a, b in itertools.combinations(each, 2))
    assert apart > 1e-5 if dropout else max(each) - min(each) < 1e-5


class PulledError(Exception):
    """The plug of the machine."""


class Plug(NoProgress):
    """Pulls the plug at a step of the run."""

    def __init__(self, at):
        self.left = at

    def step(self, *, loss, images):
        """Count down."""
        self.left -= 1
        if self.left < 0:
            raise PulledError


def trained(device, folder, *, loss=None, progress=None, capture="on", ema=None):
    """Train for three epochs of three steps, or what is left of them, with a checkpoint after each step."""
    some = run(device, "svd", dropout=0.3, **STEADY)
    distiller, optimizer = some.learner.distiller, some.learner.optimizer
    if loss is not None:
        distiller = Distiller(Network(8), Network(8), loss=loss, student_taps=TAPS, teacher_taps=TAPS).to(device)
        optimizer = training.make_optimizer("sgd", distiller, lr=1e-3)
    mean, std = channel_statistics(image_set(24).images)
    plan = training.TrainingPlan(
        distiller=distiller,
        optimizer=optimizer,
        batches=some.batches,
        test=image_set(30, seed=9).to(device),
        mean=mean,
        std=std,
        stages=[training.Stage(3, milestones=(2,))],
        checkpoint_minutes=0,
        capture=capture,
        ema=ema,
    )
    engine = training.launch(device=str(device), seed=4)
    record = RunRecord(folder) if RunRecord(folder).exists else RunRecord.create(folder, {"name": "run"})
    training.fit(engine, plan, record, progress=progress)
    return distiller.state_dict(), record.metrics.read()


@pytest.mark.parametrize("at", [2, 4, 6])
def test_a_run_resumes_from_the_middle(device, tmp_path, at):
    """The plug pulled within an epoch: momentum, sums, health and random numbers go on where they were."""
    expected, lines = trained(device, tmp_path / "whole")
    with pytest.raises(PulledError):
        trained(device, tmp_path / "run", progress=Plug(at))
    found, resumed = trained(device, tmp_path / "run")
    both = ({name: value.cpu() for name, value in state.items()} for state in (found, expected))
    assert differ(*both) <= (0 if device.type == "cpu" else 1e-3)
    for line, right in zip(resumed, lines, strict=True):
        for name in ("epoch", "lr", "loss", "transfer", "ratio", "clipped", "set_aside"):
            assert line[name] == pytest.approx(right[name], rel=1e-2), name


def test_a_run_resumes_uncaptured(device, tmp_path):
    """A checkpoint does not depend on how the steps were done."""
    expected, _ = trained(device, tmp_path / "whole")
    with pytest.raises(PulledError):
        trained(device, tmp_path / "run", progress=Plug(4))
    found, _ = trained(device, tmp_path / "run", capture="off")
    both = ({name: value.cpu() for name, value in state.items()} for state in (found, expected))
    assert differ(*both) <= (0 if device.type == "cpu" else 1e-3)


def test_an_average_follows_captured_steps(device, tmp_path):
    """It is the one that steps without a graph come to, and not the weights themselves."""
    found, captured = trained(device, tmp_path / "on", ema=0.5)
    expected, plain = trained(device, tmp_path / "off", ema=0.5, capture="off")
    raw, _ = trained(device, tmp_path / "raw")
    both = ({name: value.cpu() for name, value in state.items()} for state in (found, expected))
    assert differ(*both) <= (0 if device.type == "cpu" else 1e-3)
    assert any(not torch.equal(value, raw[name]) for name, value in found.items())
    assert captured[-1].keys() == plain[-1].keys() >= {"accuracy", "raw_accuracy"}


def test_a_rank_beyond_products_is_refused(device, tmp_path):
    """Before any work, with the reason."""
    with pytest.raises(OptionError, match=r"cannot be captured: .*rank 8 .*cuSOLVER"):
        trained(device, tmp_path / "run", loss=losses.SVDLoss(8))


class Looks(torch.nn.Module, PlainLoss):
    """A transfer loss that asks the device for a number, and does not say so."""

    reads = "maps"

    def compare(self, student, teacher):
        """Return a loss that depends on what was read."""
        distance = (student[0] - teacher[0]).square().mean()
        return distance * (2.0 if distance.item() > 1 else 1.0), {}


def test_a_loss_that_waits_is_refused_where_it_is_captured(device, tmp_path):
    """With the reason, and weights and random numbers as they were; without a graph nothing stands in its way."""
    if device.type == "cpu":
        trained(device, tmp_path / "run", loss=Looks())
        return
    with pytest.raises(TrainingError, match="cannot be captured"):
        trained(device, tmp_path / "run", loss=Looks())
    with pytest.warns(UserWarning, match="the step is not captured"):
        trained(device, tmp_path / "again", loss=Looks(), capture="auto")
