"""Whether a run is still sound, looked at a few times a second while an epoch is running."""

import math
import time

import torch

from svdistill.errors import TrainingError
from svdistill.records import RunRecord
from svdistill.training.metrics import Reading
from svdistill.training.progress import Progress
from svdistill.training.state import RunState

# How often the monitor looks at what the device has counted: often enough for a progress bar and to stop a run that has
# gone wrong, seldom enough that the device is never kept waiting.
_LOOK_SECONDS = 0.3
# Before this many steps of an epoch, many samples set aside may be an accident of a batch.
_STEPS_TO_JUDGE = 5


class Monitor:
    """Looks after one epoch from the side: the clock, the progress bar, soundness, checkpoints inside the epoch.

    It reads from the device a few times a second and never changes a result. On a GPU no step waits for that: what was
    read is looked at in the first step after it has arrived. Only a checkpoint and the end of the epoch wait.

    Args:
        state: of the run.
        record: of the run, where a checkpoint is written now and then.
        progress: who is told about each step.
        checkpoint_minutes: how often to write it; 0 after every step.
        is_rank_zero: whether it is this process that writes, and looks before the epoch is over. The figures are the
            same on all ranks; each looking by its own clock, one would stop where another continues.
    """

    def __init__(
        self,
        state: RunState,
        record: RunRecord,
        progress: Progress,
        *,
        checkpoint_minutes: float,
        is_rank_zero: bool = True,
    ) -> None:
        self._state = state
        self._record = record
        self._progress = progress
        self._every = 60 * checkpoint_minutes
        self._is_rank_zero = is_rank_zero
        self._begin = time.monotonic() - state.seconds
        self._saved = time.monotonic()
        self._looked = -math.inf
        self._loss = math.nan
        self._reading: Reading | None = None
        for _ in range(state.metrics.steps):  # done before the run was interrupted
            progress.step(loss=math.nan, images=0)

    def seconds(self) -> float:
        """Return the time spent in this epoch, that before an interruption included."""
        return time.monotonic() - self._begin

    def step(self, images: int) -> None:
        """Take note of a step; where it is time, look, and write a checkpoint.

        Args:
            images: the number of images in the step.

        Raises:
            TrainingError: see :meth:`look`.
        """
        if not self._is_rank_zero:
            return
        now = time.monotonic()
        save = now - self._saved >= self._every and self._state.batches.position < len(self._state.batches)
        if save or (self._reading is None and now - self._looked >= _LOOK_SECONDS):
            self._reading = self._state.metrics.begin()
            self._looked = now
        if self._reading is not None and (save or self._reading.ready):
            self._loss = self._sound(self._reading)["loss"]
            self._reading = None
        self._progress.step(loss=self._loss, images=images)
        if save:
            self._look_at_weights()
            self._state.seconds = self.seconds()
            self._state.save(self._record.last, keep=self._record.previous)
            self._saved = time.monotonic()

    def end(self) -> dict[str, float]:
        """Look for the last time, before the epoch is evaluated and written down.

        Returns:
            The epoch's figures: those of the metrics and of the transfer gradients' health, and ``images_per_second``.

        Raises:
            TrainingError: see :meth:`look`; also where a weight is not finite.
        """
        figures = self.look()
        self._look_at_weights()
        return {
            **figures,
            **self._state.health.summary(),
            "images_per_second": self._state.metrics.images / self.seconds(),
        }

    def look(self) -> dict[str, float]:
        """Wait for the device, see whether the epoch is sound so far, and return its figures.

        Raises:
            TrainingError: a loss was not finite, or the transfer loss set more than half of all samples aside.
        """
        return self._sound(self._state.metrics.begin())

    def _sound(self, reading: Reading) -> dict[str, float]:
        """Wait for a reading and return its figures, or raise what :meth:`look` does."""
        figures = reading.figures()
        if not math.isfinite(figures["loss"]):
            raise TrainingError(self._not_finite("the loss is"))
        if not math.isfinite(figures.get("transfer", 0.0)):
            raise TrainingError(self._not_finite("the transfer loss is", advice="check the teacher and the taps, or "))
        aside = figures.get("set_aside", 0)
        enough = reading.steps >= min(_STEPS_TO_JUDGE, len(self._state.batches))
        if enough and aside > reading.images / 2:
            raise TrainingError(
                f"the transfer loss set aside {aside:.0f} of {reading.images} samples of epoch "
                f"{self._state.epoch + 1}: their feature maps are zero or not finite; check the teacher, the taps "
                "and lr"
            )
        return figures

    def _look_at_weights(self) -> None:
        values = [v for v in self._state.model.state_dict().values() if v.is_floating_point()]
        if not torch.stack([v.isfinite().all() for v in values]).all():
            raise TrainingError(self._not_finite("a weight is"))

    def _not_finite(self, what: str, *, advice: str = "") -> str:
        state = self._state
        path = self._record.last
        kept = f"the last checkpoint stays: {path}" if path.exists() else "no checkpoint had been written yet"
        return (
            f"{what} not finite in epoch {state.epoch + 1}, at step {state.metrics.steps} of {len(state.batches)} at "
            f"the latest; {advice}lower lr, or weight if there is a transfer loss, and train afresh ({kept})"
        )
