"""Tests of what a step strives for, and of the stages that follow each other."""

import math

import pytest
import torch

from svdistill.errors import OptionError
from svdistill.training import Objective, Stage
from svdistill.training.objective import locate


def test_without_weights_all_losses_take_part_as_they_are():
    """The default: the main task and every transfer loss, bounded variable by variable."""
    objective = Objective()
    assert objective.names is None
    assert objective.weight("anything", 0) == 1.0
    assert (objective.main, objective.clip, objective.max_norm, objective.has_main) == (1.0, "per_variable", None, True)


def test_with_weights_only_those_named_take_part():
    """In the order in which they are named; an empty mapping means none."""
    objective = Objective(weights={"b": 2.0, "a": 0.5})
    assert objective.names == ("b", "a")
    assert (objective.weight("a", 0), objective.weight("b", 7)) == (0.5, 2.0)
    assert Objective(weights={}).names == ()
    with pytest.raises(KeyError):
        objective.weight("c", 0)


def test_a_weight_rises_by_the_same_amount_in_each_epoch_of_its_warm_up():
    """And stays where it is then; of an epoch on a device the weight is there too."""
    objective = Objective(weights={"a": 2.0, "b": 3.0}, warm_up={"a": 4})
    assert [objective.weight("a", epoch) for epoch in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert objective.weight("b", 0) == 3.0
    found = objective.weight("a", torch.tensor(2, dtype=torch.float64))
    assert torch.equal(found, torch.tensor(1.5, dtype=torch.float64))
    assert Objective(warm_up={"a": 2}).weight("a", 0) == 0.5
    with pytest.raises(OptionError, match="warm_up is"):
        Objective(warm_up={"a": 0})


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, True), ({"main": 0.0}, False), ({"main": 0.0, "beside": {"a"}}, True), ({"main": 1e-9}, True)],
)
def test_there_is_a_main_gradient_where_the_main_task_or_a_loss_beside_it_takes_part(options, expected):
    """Only then can it bound that of the transfer task."""
    assert Objective(**options).has_main is expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"main": -1.0}, r"\(-1.0,\), expected none below 0"),
        ({"weights": {"svd": -2.0}}, r"\(1.0, -2.0\), expected none below 0"),
        ({"clip": "globl"}, "unknown clipping rule 'globl'; did you mean 'global'"),
        ({"clip": "own_norm", "bound": 0.0}, "the bound on the transfer gradient is 0.0, expected a finite number"),
        ({"max_norm": 0.0}, "max_norm is 0.0, expected a number above 0, or None"),
        ({"max_norm": -1.0}, "max_norm is -1.0"),
        ({"max_norm": math.nan}, "max_norm is nan"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0, expected 0 or more, and less than 1"),
        ({"label_smoothing": math.nan}, "label_smoothing is nan"),
    ],
)
def test_settings_out_of_range(options, message):
    """When it is made."""
    with pytest.raises(OptionError, match=message):
        Objective(**options)


def test_every_epoch_lies_in_one_stage():
    """Epochs are counted from 0 in the run and anew in each stage."""
    stages = (Stage(2), Stage(1), Stage(3))
    assert [locate(stages, epoch) for epoch in range(6)] == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]


def test_behind_the_last_stage_there_is_nothing():
    """Which would be an error of the loop."""
    with pytest.raises(ValueError, match="behind the last stage"):
        locate((Stage(2),), 2)
