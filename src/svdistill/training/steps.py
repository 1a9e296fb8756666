"""Which way the steps of a stage are done: batch by batch as the host reads them, or on buffers, captured or not."""

from collections.abc import Iterable, Iterator
from typing import Protocol
from warnings import warn

import torch

from svdistill.data import Batch, Batches, Mixed
from svdistill.distiller import Distiller
from svdistill.errors import OptionError, SvdistillWarning
from svdistill.nets import recomputes_activations
from svdistill.training.buffered import BufferedSteps
from svdistill.training.engine import Engine
from svdistill.training.memory import has_room_for
from svdistill.training.objective import Objective
from svdistill.training.plan import TrainingPlan
from svdistill.training.processes import Processes
from svdistill.training.reduce import Reducer
from svdistill.training.state import RunState
from svdistill.training.step import Examples, Learner, take_step
from svdistill.training.trouble import broke_first


class Steps(Protocol):
    """The steps of a stage."""

    def epoch(self, epoch: int) -> Iterator[int]:
        """Do the rest of the current epoch, or a new one if the current one is over.

        Args:
            epoch: of the stage, from 0.

        Yields:
            After each step, how many images it had, over all processes.
        """
        yield from ()

    def broke_first(self) -> str | None:
        """Say what was the first that was not finite in the latest step; see `trouble.broke_first`."""
        return None


class StreamedSteps(Steps):
    """Steps on batches that the host reads or assembles, one after the other.

    Args:
        learner: student, teacher, optimizer and parts.
        batches: of the run.
        objective: of the stage.
        state: of the run, whose metrics and health are added to.
    """

    def __init__(self, learner: Learner, batches: Batches | Mixed, *, objective: Objective, state: RunState) -> None:
        self._learner = learner
        self._batches = batches
        self._objective = objective
        self._state = state
        self._latest: Batch | None = None
        self._epoch = 0

    def epoch(self, epoch: int) -> Iterator[int]:
        """Do the rest of the current epoch; see :meth:`Steps.epoch`."""
        self._epoch = epoch
        for examples in self._examples():
            metrics = self._state.metrics
            result = take_step(
                self._learner,
                examples,
                epoch=epoch,
                objective=self._objective,
                health=self._state.health,
                skips=metrics.skips,
            )
            metrics.add(result.figures, images=result.images, applied=result.applied)
            yield result.images

    def _examples(self) -> Iterator[Examples]:
        # Where no transfer loss takes part, the main task would see the other images in its batch norm alone.
        for batch in self._batches.epoch(labelled_only=not self._objective.has_transfer):
            self._latest = batch
            yield self._sent(batch)

    def _sent(self, batch: Batch) -> Examples:
        images, labels = self._learner.engine.to_device((batch.images, batch.labels))
        if batch.others is None or batch.share is None:
            return Examples(images, labels, batch.indices, batch.views)
        others, share = self._learner.engine.to_device((batch.others, batch.share))
        return Examples(images, labels, batch.indices, batch.views, others, share)

    def broke_first(self) -> str | None:
        """Say what was the first that was not finite in the latest step; see `trouble.broke_first`."""
        if self._latest is None:
            return None
        return broke_first(self._learner, self._sent(self._latest), self._objective, epoch=self._epoch)


def make_steps(engine: Engine, plan: TrainingPlan, state: RunState, objective: Objective) -> Steps:
    """Choose how the steps of a stage are done: captured where they can be, else on buffers, else streamed.

    On a GPU all that can be captured is, unless the plan says otherwise, and what stands in the way is a warning of one
    line. On a CPU steps are streamed, or done on the same buffers without a graph where the plan asks for capture.

    Args:
        engine: device and processes.
        plan: of the run, whose distiller is on the device.
        state: of the run.
        objective: of the stage.

    Returns:
        The steps.

    Raises:
        OptionError: the plan asks for capture, and something stands in the way.
    """
    state.metrics.skips.reserve(len(plan.batches))
    learner = Learner(engine, plan.distiller, plan.optimizer, plan.accumulate, Reducer(Processes(engine)))
    wanted = plan.capture == "on" or (plan.capture == "auto" and engine.device.type == "cuda")
    streamed = obstacle_to_buffers(plan.distiller, plan.batches, device=engine.device, processes=engine.world_size)
    reason = streamed or obstacle_to_capture(plan.distiller, [objective])
    if wanted and reason is not None:
        if plan.capture == "on":
            raise OptionError(f"the step cannot be captured: {reason}; take capture off or auto")
        warn(f"the step is not captured as a CUDA graph: {reason}", SvdistillWarning, stacklevel=2)
    if streamed is not None or (engine.device.type == "cpu" and not wanted):
        return StreamedSteps(learner, plan.batches, objective=objective, state=state)
    return BufferedSteps(
        learner,
        plan.batches,
        objective=objective,
        metrics=state.metrics,
        health=state.health,
        capture=wanted and reason is None,
        required=plan.capture == "on",
    )


def obstacle_to_buffers(
    distiller: Distiller, batches: Batches | Mixed, *, device: torch.device, processes: int
) -> str | None:
    """Say why steps cannot be done on data that lie on the device; None where they can."""
    if processes > 1:
        return f"{processes} processes exchange gradients in each step"
    if not batches.in_memory:
        return "the images are read from disk"
    if batches.device != device:
        return f"the images do not fit on {device}"
    lacking = distiller.source.lacking(device)
    if not has_room_for(lacking, device):
        return f"what is stored of the teacher, {lacking / 2**30:.1f} GiB, does not fit on {device}"
    return None


def obstacle_to_capture(
    distiller: Distiller, objectives: Iterable[Objective], *, stored: bool | None = None
) -> str | None:
    """Say why steps on buffers cannot be captured as far as one can tell without trying; None where nothing is known.

    Args:
        distiller: student, teacher and losses.
        objectives: of all stages.
        stored: whether steps read what is stored of the teacher; None = as the distiller does now.
    """
    if recomputes_activations(distiller.student):
        return "activations that are recomputed restore random numbers, which a graph cannot"
    return next(
        (reason for one in objectives if (reason := distiller.waits(one.names, stored=stored)) is not None), None
    )
