"""Tests of recipes that name no taps of networks from outside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svdistill import jobs, nets, recipes
from svdistill.jobs.callbacks import Callbacks
from svdistill.recipes import Recipe

OWN = "tests.nets.own_code:Small"


class Hearing(Callbacks):
    """Keeps what it is told of taps."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []

    def taps(self, recipe: Recipe, pairs: Sequence[tuple[str, str]]) -> None:
        """Keep them."""
        self.pairs = list(pairs)


def recipe(*, model: dict[str, Any], teacher: dict[str, Any]) -> Recipe:
    """Return a recipe for twenty scans and one epoch."""
    settings = {
        "name": "unnamed",
        "allow_code": True,
        "data": {"name": "digits", "train_size": 20},
        "model": model,
        "teacher": teacher,
        "loss": "svd",
        "optimizer": {"name": "sgd", "lr": 0.1},
        "train": {"epochs": 1, "batch_size": 10, "device": "cpu"},
    }
    return recipes.validate(settings)


@pytest.mark.parametrize(
    ("model", "teacher", "pairs"),
    [
        ({"name": OWN}, {"model": {"name": OWN, "arguments": {"width": 6}, "pretrained": False}},
         [("first", "first"), ("second", "second")]),
        ({"name": OWN}, {"taps": ["first.0", "second"], "model": {"name": OWN, "pretrained": False}},
         [("first", "first.0"), ("second", "second")]),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::svdistill.errors.SvdistillWarning")  # of a teacher with random weights
def test_a_run(model: dict[str, Any], teacher: dict[str, Any], pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    """Both networks are tapped as suggested, which is told; the run is called after the recipe as it was written."""
    settings, heard = recipe(model=model, teacher=teacher), Hearing()
    run = jobs.train(settings, runs=tmp_path, callbacks=heard)
    assert heard.pairs == pairs
    assert run.path.name == recipes.identity(settings)
    assert run.recipe.model.taps is None
    with np.load(run.record.diagnostics) as arrays:
        assert list(zip(arrays["student_taps"], arrays["teacher_taps"], strict=True)) == pairs
    assert nets.spec(run.student_file)["taps"] == '["first", "second"]'
    assert "alignment" in run.metrics[0]
    assert jobs.train(settings, runs=tmp_path, callbacks=heard).path == run.path
