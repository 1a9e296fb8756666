"""Steps on data that lie on the device: all that a step reads or counts is in memory that stays where it is."""

from collections.abc import Callable, Iterable, Iterator
from warnings import warn

import torch
from torch import Tensor

from svdistill.data import Batches, Draws, Mixed
from svdistill.errors import SvdistillWarning
from svdistill.gradients import TransferHealth
from svdistill.training import checkpoint
from svdistill.training.capture import CaptureError, Step, record
from svdistill.training.metrics import Metrics
from svdistill.training.objective import Objective
from svdistill.training.optimizers import hold_on_device
from svdistill.training.skips import Buffers
from svdistill.training.step import Examples, Learner, take_step
from svdistill.training.trouble import broke_first


class BufferedSteps:
    """The steps of a stage, each a call without arguments, which a GPU can capture as one graph.

    A step gathers its images by what was drawn for the epoch, varies and standardizes them, and does what
    :func:`svdistill.training.take_step` does; the next call takes the next draws. Between two epochs the host sends
    draws, rate and the epoch's number; within one it sends nothing and waits for nothing. On a CPU everything is the
    same to the bit as with :func:`take_step`.

    Args:
        learner: student, teacher, optimizer and parts, on the device; there must be one process.
        batches: of images in memory, on the device.
        objective: of the stage.
        metrics: the epoch's sums.
        health: the epoch's rows.
        capture: whether to capture the step as a CUDA graph; on another device it is warmed up as if.
        required: whether a step that cannot be captured is an error; otherwise it is called, with a warning.

    Attributes:
        images: how many images a step has.
    """

    def __init__(
        self,
        learner: Learner,
        batches: Batches | Mixed,
        *,
        objective: Objective,
        metrics: Metrics,
        health: TransferHealth,
        capture: bool,
        required: bool = True,
    ) -> None:
        self._learner = learner
        self._batches = batches
        self._objective = objective
        self._metrics = metrics
        self._health = health
        self._capture = capture
        self._required = required
        self._labelled_only = not objective.has_transfer
        self._device = learner.engine.device
        self._epoch = torch.zeros((), dtype=torch.float64, device=self._device)
        self._number = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._draws: tuple[Draws, ...] = ()
        self._run: Step | None = None
        self.images = 0
        health.reserve(len(batches))
        hold_on_device(learner.optimizer)
        learner.distiller.source.bring(self._device)

    def epoch(self, epoch: int) -> Iterator[int]:
        """Do the rest of the current epoch, or a new one if the current one is over.

        Args:
            epoch: of the stage, from 0.

        Yields:
            After each step, how many images it had.

        Raises:
            ShapeError: nothing is stored of one of the images.
            TrainingError: the step cannot be captured.
        """
        for _ in range(self.begin(epoch)):
            self.step()
            yield self.images
        # While the device works on what is left to do, the host draws for the next epoch.
        self._batches.upcoming(len(self._batches))

    def begin(self, epoch: int) -> int:
        """Send the device what the rest of the current epoch needs, or a new one if the current one is over.

        The first call captures the step.

        Args:
            epoch: of the stage, from 0.

        Returns:
            How many steps there are to do.

        Raises:
            ShapeError: nothing is stored of one of the images.
            CaptureError: the step waits for the host, and so cannot be captured; nothing has changed.
            TrainingError: it cannot be captured for another reason.
        """
        left = len(self._batches) - self._batches.position % len(self._batches)
        self._send(self._batches.upcoming(left))
        self._epoch.fill_(epoch)
        self._number.zero_()
        if self._run is None:
            self._run = self._recorded() if self._capture else self._step
        return left

    def _recorded(self) -> Step:
        try:
            return record(
                self._step, device=self._device, untouched=self._untouched, rewind=lambda: self._number.zero_()
            )
        except CaptureError as error:
            if self._required:
                raise CaptureError(
                    f"the step cannot be captured as a CUDA graph: {error}; take train.capture=auto or off"
                ) from error
            warn(f"the step is not captured as a CUDA graph: {error}", SvdistillWarning, stacklevel=2)
            return self._step

    def step(self) -> None:
        """Do the next step; at most as often as `begin` said."""
        assert self._run is not None, "begin comes first"
        self._run()
        self._batches.advance()
        self._metrics.count(self.images)

    def broke_first(self) -> str | None:
        """Say what was the first that was not finite in the latest step; see `trouble.broke_first`."""
        return broke_first(self._learner, self._examples(self._number - 1), self._objective, epoch=self._epoch)

    def _examples(self, number: Tensor) -> Examples:
        row = [draws.each(lambda one: one.index_select(0, number)[0]) for draws in self._draws]
        return Examples(*self._batches.assemble(row, labelled_only=self._labelled_only))

    def _step(self) -> None:
        result = take_step(
            self._learner,
            self._examples(self._number),
            epoch=self._epoch,
            objective=self._objective,
            health=self._health,
            skips=self._metrics.skips,
        )
        self._metrics.accumulate(result.figures, applied=result.applied)
        self._number += 1
        self.images = result.images

    def _send(self, upcoming: tuple[Draws, ...]) -> None:
        """Copy draws to the front of the buffers, which have room for a whole epoch."""
        for draws in upcoming:
            self._learner.distiller.source.check_rows(draws.indices, draws.views)
        if not self._draws:
            rows = len(self._batches)
            self._draws = tuple(
                draws.each(lambda one: torch.zeros(rows, *one.shape[1:], dtype=one.dtype, device=self._device))
                for draws in upcoming
            )
        for buffers, draws in zip(self._draws, upcoming, strict=True):
            for buffer, values in zip(buffers.tensors, draws.tensors, strict=True):
                _copy(values, buffer[: len(values)])

    def _untouched(self) -> Callable[[], None]:
        """Note everything that a step changes, and return what puts it back in place."""
        distiller, optimizer = self._learner.distiller, self._learner.optimizer
        random = checkpoint.random_state()
        changed = [*distiller.parameters(), *distiller.buffers(), self._number, *_state_of(optimizer)]
        kept = [(one, one.detach().clone()) for one in changed]
        buffers = Buffers(distiller)
        others = (self._metrics.untouched(), self._health.untouched())

        @torch.no_grad()
        def put_back() -> None:
            buffers.put_in_place()
            known = {id(one) for one, _ in kept}
            for one, value in kept:
                one.copy_(value)
            # What the optimizer has made since begins at zero: from there its first step is the same to the bit.
            for one in _state_of(optimizer):
                if id(one) not in known:
                    one.zero_()
            for other in others:
                other()
            checkpoint.set_random_state(random)

        return put_back


def _state_of(optimizer: torch.optim.Optimizer) -> Iterable[Tensor]:
    """Yield the tensors that an optimizer keeps of each parameter."""
    for kept in optimizer.state.values():
        yield from (value for value in kept.values() if isinstance(value, Tensor))


def _copy(values: Tensor, buffer: Tensor) -> None:
    """Copy from the host; a GPU is not waited for."""
    buffer.copy_(values.pin_memory() if buffer.device.type == "cuda" else values, non_blocking=True)
