"""A few real steps of each stage of a training, whose weights are thrown away."""

import itertools
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from svdistill import training
from svdistill.distiller import Distiller
from svdistill.jobs import inspection
from svdistill.jobs.doctor.findings import StageFindings
from svdistill.jobs.doctor.networks import MEASURED, sample
from svdistill.recipes import Recipe, build
from svdistill.recipes.images import Images
from svdistill.training.optimizers import set_learning_rate
from svdistill.training.state import RunState
from svdistill.training.steps import Steps, make_steps

SECONDS = 12.0  # that the steps of a stage may take
FIRST, MOST = 2, 60  # steps before the clock starts, and steps altogether


class Trial(NamedTuple):
    """What a few steps came to.

    Attributes:
        stages: of the training.
        checkpoint_bytes: of one checkpoint.
    """

    stages: list[StageFindings]
    checkpoint_bytes: int

    @property
    def seconds(self) -> float:
        """To the end of the run."""
        return sum(stage.epochs * stage.epoch_seconds for stage in self.stages)


def try_steps(recipe: Recipe, distiller: Distiller, images: Images, engine: training.Engine) -> Trial:
    """Take a few steps of each stage as the run would, measure, save, and forget.

    Args:
        recipe: of the run.
        distiller: prepared; its student and adapters are changed.
        images: on the device of the training.
        engine: device and precision.
    """
    distiller.to(engine.device)
    plan = build.training_plan(recipe, distiller, images)
    inspection.warn_of_slow_norms(recipe.name, distiller.student, plan.epochs * len(plan.batches))
    state = RunState(distiller, plan.optimizer, plan.batches, device=engine.device)
    found = []
    with build.recomputing(recipe, distiller.student):
        beside, size = _evaluation(plan, engine) / plan.evaluate_every, 0
        for stage in plan.stages:
            state.begin_stage()
            distiller.train()
            with stage.learning(distiller.student):
                figures = _try(_steps(make_steps(engine, plan, state, stage.objective), stage, plan.optimizer), state)
            if not size:  # the optimizer has its momentum by now
                saving, size = _saved(state)
                beside += saving
            found.append(_stage(stage, len(plan.batches), figures, beside))
    return Trial(found, size)


class _Figures(NamedTuple):
    tried: int
    seconds: float
    first: dict[str, float]
    rest: dict[str, float]
    health: dict[str, float]
    images: int


def _steps(steps: Steps, stage: training.Stage, optimizer: torch.optim.Optimizer) -> Iterator[int]:
    """Take the steps of a stage, each epoch at its own learning rate; after the stage its last one is repeated."""
    for epoch in itertools.chain(range(stage.epochs), itertools.repeat(stage.epochs - 1)):
        set_learning_rate(optimizer, stage.rate(epoch))
        yield from steps.epoch(epoch)


def _try(taken: Iterator[int], state: RunState) -> _Figures:
    for _ in itertools.islice(taken, FIRST):
        pass
    first = state.metrics.read()
    state.metrics.reset()
    start, tried = time.monotonic(), 0
    for _ in itertools.islice(taken, MOST - FIRST):
        tried += 1
        if time.monotonic() - start > SECONDS:
            break
    rest = state.metrics.read()  # waits for the device
    seconds = (time.monotonic() - start) / tried
    return _Figures(FIRST + tried, seconds, first, rest, state.health.summary(), state.metrics.images)


def _stage(stage: training.Stage, steps: int, figures: _Figures, beside: float) -> StageFindings:
    rest, health = figures.rest, figures.health
    compared = stage.objective.has_main and stage.objective.has_transfer
    return StageFindings(
        epochs=stage.epochs,
        steps=steps,
        main=stage.objective.has_main,
        tried=figures.tried,
        first_loss=figures.first["loss"],
        loss=rest["loss"],
        transfer=rest.get("transfer"),
        ratio=_finite(health.get("ratio")) if compared else None,
        clipped=_finite(health.get("clipped")) if compared else None,
        passed=_finite(health.get("passed")),
        set_aside=rest["set_aside"] / max(1, figures.images) if "set_aside" in rest else None,
        step_seconds=figures.seconds,
        epoch_seconds=steps * figures.seconds + beside,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _evaluation(plan: training.TrainingPlan, engine: training.Engine) -> float:
    """Return how many seconds an evaluation takes, by that of a part of the images; averaged weights have their own."""
    part = sample(plan.test, MEASURED)
    start = time.monotonic()
    training.evaluate(engine, plan.distiller.student, part, mean=plan.mean, std=plan.std)
    return (time.monotonic() - start) * len(plan.test) / len(part) * (1 if plan.ema is None else 2)


def _saved(state: RunState) -> tuple[float, int]:
    """Return how many seconds and bytes a checkpoint takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.pt"
        start = time.monotonic()
        state.save(path)
        return time.monotonic() - start, path.stat().st_size
