"""Whether a run is still sound, looked at a few times a second while an epoch is running."""

import math
import time
from collections.abc import Callable
from warnings import warn

import torch

from svdistill.errors import SvdistillWarning, TrainingError
from svdistill.training.metrics import Reading
from svdistill.training.post_mortem import PostMortem
from svdistill.training.progress import Progress
from svdistill.training.skips import LIMIT, Skip
from svdistill.training.state import RunState

# How often the monitor looks at what the device has counted: often enough for a progress bar and to stop a run that has
# gone wrong, seldom enough that the device is never kept waiting.
_LOOK_SECONDS = 0.3
# Before this many steps of an epoch, many samples set aside may be an accident of a batch.
_STEPS_TO_JUDGE = 5


class Monitor:
    """Looks after one epoch from the side: the clock, the progress bar, soundness, checkpoints inside the epoch.

    It reads from the device a few times a second and never changes a result. On a GPU no step waits for that: what was
    read is looked at in the first step after it has arrived. Only a checkpoint, the end of the epoch, and what is
    written of a step that was not applied wait.

    Args:
        state: of the run.
        post_mortem: takes note of steps that are not applied.
        progress: who is told about each step.
        broke_first: says what was the first that was not finite in the latest step.
        precision: of the engine, for advice.
        checkpoint_minutes: how often to write a checkpoint; 0 after every step.
        is_rank_zero: whether it is this process that writes, and looks before the epoch is over. The figures are the
            same on all ranks; each looking by its own clock, one would stop where another continues.
    """

    def __init__(
        self,
        state: RunState,
        post_mortem: PostMortem,
        progress: Progress,
        *,
        broke_first: Callable[[], str | None],
        precision: str,
        checkpoint_minutes: float,
        is_rank_zero: bool = True,
    ) -> None:
        self._state = state
        self._post_mortem = post_mortem
        self._progress = progress
        self._broke_first = broke_first
        self._precision = precision
        self._every = 60 * checkpoint_minutes
        self._is_rank_zero = is_rank_zero
        self._begin = time.monotonic() - state.seconds
        self._saved = time.monotonic()
        self._looked = -math.inf
        self._loss = math.nan
        self._reading: Reading | None = None
        self._skipped = 0
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
        # A CPU is asked at no cost, so that there the end comes with the step that brings it.
        over = self._state.device.type == "cpu" and self._state.metrics.skips.in_a_row >= LIMIT
        if save or over or (self._reading is None and now - self._looked >= _LOOK_SECONDS):
            self._reading = self._state.metrics.begin()
            self._looked = now
        if self._reading is not None and (save or over or self._reading.ready):
            self._loss = self._sound(self._reading)["loss"]
            self._reading = None
        self._progress.step(loss=self._loss, images=images)
        if save:
            self._look_at_weights()
            self._state.seconds = self.seconds()
            self._state.save(self._post_mortem.record.last, keep=self._post_mortem.record.previous)
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
        if skipped := figures.get("skipped", 0):
            if skipped == self._state.metrics.steps:
                self._end(self._state.metrics.skips.noted())
            self._tell_of_skipped(int(skipped))
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
        if reading.skipped > self._skipped:
            self._note_skipped(reading)
        if not math.isfinite(figures["loss"]) and reading.skipped < reading.steps:
            raise TrainingError(self._not_finite("the loss is"))
        if not math.isfinite(figures.get("transfer", 0.0)) and reading.skipped < reading.steps:
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

    def _note_skipped(self, reading: Reading) -> None:
        """Write down which steps were not applied; where no further one will be, end the run."""
        self._skipped = reading.skipped
        skips = self._state.metrics.skips
        noted = skips.noted()
        if self._is_rank_zero:
            self._post_mortem.note(noted)
        self._look_at_weights()
        if skips.in_a_row >= LIMIT:
            self._end(noted)

    def _end(self, noted: list[Skip]) -> None:
        """End the run after steps in a row that were not applied, and say what broke first in them."""
        if self._is_rank_zero:
            self._post_mortem.save_state()
        broken = self._broke_first()
        if self._is_rank_zero:
            self._post_mortem.end(noted, broken=broken)
        what = "a gradient is" if noted and math.isfinite(noted[-1].loss) else "the loss is"
        row = f"{self._state.metrics.skips.in_a_row} steps in a row were not applied"
        first = "" if broken is None else f"; what broke first is {broken}"
        raise TrainingError(
            self._not_finite(what, why=f": {row}{first}")
            + f"; the images and weights of these steps: {self._post_mortem.record.post_mortem}"
        )

    def _tell_of_skipped(self, count: int) -> None:
        if self._is_rank_zero and not self._post_mortem.told:
            self._post_mortem.told = True
            warn(
                f"{count} of {self._state.metrics.steps} steps of epoch {self._state.epoch + 1} were not applied, "
                f"since their loss or gradient was not finite; lower lr if there are many (the images of these steps: "
                f"{self._post_mortem.record.post_mortem})",
                SvdistillWarning,
                stacklevel=2,
            )

    def _look_at_weights(self) -> None:
        values = {name: v for name, v in self._state.model.state_dict().items() if v.is_floating_point()}
        finite = torch.stack([v.isfinite().all() for v in values.values()]).tolist()
        broken = [name for name, sound in zip(values, finite, strict=True) if not sound]
        if broken:
            raise TrainingError(self._not_finite("a weight is", why=f", first {broken[0]}"))

    def _not_finite(self, what: str, *, why: str = "", advice: str = "") -> str:
        state = self._state
        path = self._post_mortem.record.last
        kept = f"the last checkpoint stays: {path}" if path.exists() else "no checkpoint had been written yet"
        advice += "take precision 32-true, " if self._precision != "32-true" else ""
        return (
            f"{what} not finite in epoch {state.epoch + 1}, at step {state.metrics.steps} of {len(state.batches)} at "
            f"the latest{why}; {advice}lower lr, or weight if there is a transfer loss, and train afresh ({kept})"
        )
