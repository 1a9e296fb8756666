"""Whole steps on the device against float64 on a CPU, in each method, layout and precision."""

import copy

import pytest
import torch
from tests.gpu.small import METHODS, differ, run

from svdistill import training
from svdistill.training import Examples, Learner


def steps(some, count, *, double=False):
    """Do steps on their batches, in float64 on request, and return weights and figures."""
    learner, objective = some.learner, some.objective
    for batch, _ in zip(some.batches.epoch(), range(count), strict=False):
        images = batch.images.double() if double else batch.images
        result = training.take_step(
            learner, Examples(images, *batch[1:]), epoch=1, objective=objective, health=some.health
        )
        some.metrics.add(result.figures, images=result.images)
    return some.weights, {**some.metrics.read(), **some.health.summary()}


def exact(method, **options):
    """Return a run in float64 on a CPU."""
    some = run(torch.device("cpu"), method, **options)
    distiller = copy.deepcopy(some.learner.distiller).double()
    optimizer = training.make_optimizer(options.get("optimizer", "sgd"), distiller, lr=0.02, weight_decay=1e-3)
    learner = Learner(some.learner.engine, distiller, optimizer, some.learner.accumulate)
    return some._replace(learner=learner)


def compare(device, method, *, count=2, **options):
    """Do the same steps on the device and in float64 on a CPU."""
    weights, figures = steps(exact(method, **options), count, double=True)
    found, seen = steps(run(device, method, **options), count)
    assert differ(found, weights) < 5e-4
    assert seen == pytest.approx(figures, rel=5e-3, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_method(device, method):
    """Weights, statistics, losses and health after two steps."""
    compare(device, method)


@pytest.mark.parametrize(
    "options",
    [{"accumulate": 2}, {"unlabelled": 4}, {"accumulate": 2, "unlabelled": 4}, {"teacher_width": 12}],
    ids=lambda options: ", ".join(options),
)
@pytest.mark.parametrize("method", ["svd", "fitnet", "svd beside dkd"])
def test_parts_images_without_labels_and_adapters(device, method, options):
    """What changes the way through a step."""
    compare(device, method, **options)


def test_adamw(device):
    """The other optimizer; its step divides by the gradient's size, so rounding counts for more in the first."""
    found, _ = steps(run(device, "svd", optimizer="adamw", lr=1e-3), 2)
    expected, _ = steps(run(torch.device("cpu"), "svd", optimizer="adamw", lr=1e-3), 2)
    assert differ(found, expected) < 5e-3


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_and_channels_last(device, method):
    """Losses near those of float32, weights finite and as precise as they were."""
    _, plain = steps(run(device, method), 3)
    some = run(device, method, precision="bf16-mixed", channels_last=True)
    weights, figures = steps(some, 3)
    assert all(value.isfinite().all() for value in weights.values())
    assert all(p.dtype == torch.float32 for p in some.learner.distiller.parameters())
    assert figures["loss"] == pytest.approx(plain["loss"], rel=0.05)
    if "transfer" in plain:
        assert figures["transfer"] == pytest.approx(plain["transfer"], rel=0.3)
