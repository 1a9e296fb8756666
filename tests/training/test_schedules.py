"""Tests of what the learning rate is in each epoch."""

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, SequentialLR

from svdistill.errors import OptionError
from svdistill.training import Stage
from svdistill.training.schedules import cosine_decay, linear_warm_up, step_decay


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1.0), (99, 1.0), (100, 0.1), (149, 0.1), (150, 0.01), (1000, 0.01)])
def test_the_rate_falls_at_the_milestones(epoch, factor):
    """×0.1 at epochs 100 and 150, counted from 0."""
    assert step_decay(epoch, milestones=(100, 150), gamma=0.1) == pytest.approx(factor)


def test_a_cosine_by_hand():
    """Four epochs: cos of 0, 45, 90 and 135 degrees; the next would have 0."""
    half = 2**0.5 / 2
    expected = [1.0, (1 + half) / 2, 0.5, (1 - half) / 2, 0.0]
    assert [cosine_decay(epoch, epochs=4) for epoch in range(5)] == pytest.approx(expected, abs=1e-15)


def test_a_warm_up_by_hand():
    """From a hundredth by equal steps to 1, which the first epoch after it has."""
    assert [linear_warm_up(epoch, epochs=3) for epoch in range(5)] == pytest.approx([0.01, 0.34, 0.67, 1.0, 1.0])
    assert linear_warm_up(0, epochs=0) == 1


@pytest.mark.parametrize("warm_up", [0, 1, 5])
@pytest.mark.parametrize("schedule", ["steps", "cosine"])
def test_the_rates_are_those_of_torch(schedule, warm_up):
    """As its schedulers give them in a row, a call after each epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    decay = (
        CosineAnnealingLR(optimizer, T_max=30 - warm_up)
        if schedule == "cosine"
        else MultiStepLR(optimizer, [12 - warm_up, 20 - warm_up], gamma=0.3)
    )
    both = decay
    if warm_up:
        rise = LinearLR(optimizer, start_factor=0.01, total_iters=warm_up)
        both = SequentialLR(optimizer, [rise, decay], milestones=[warm_up])
    expected = []
    for _ in range(30):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    milestones = () if schedule == "cosine" else (12, 20)
    stage = Stage(30, milestones=milestones, gamma=0.3, schedule=schedule, warm_up=warm_up)
    stage.check_schedule()
    assert [0.2 * stage.rate(epoch) for epoch in range(30)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage(5, schedule="cosin"), "unknown schedule 'cosin'; did you mean 'cosine'"),
        (Stage(5, warm_up=-1), "warm_up is -1, expected 0, or fewer epochs than the 5 until the stage ends"),
        (Stage(5, warm_up=5), "warm_up is 5, .* than the 5 until the stage ends"),
        (Stage(5, milestones=(2, 4), warm_up=2), "warm_up is 2, .* than the 2 until the rate falls"),
    ],
)
def test_a_schedule_that_does_not_fit(stage, message):
    """One line says why."""
    with pytest.raises(OptionError, match=message):
        stage.check_schedule()
