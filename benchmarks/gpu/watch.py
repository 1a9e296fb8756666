"""Watches runs that are trained side by side: how long an epoch takes, what each came to, whether the time is up."""

import itertools
import statistics
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.sheet import Clock, Sheet, say
from svdistill.errors import SvdistillError
from svdistill.jobs.run import Run
from svdistill.sweep import Observer, Outcome, Task


class TimeUpError(Exception):
    """There is no time left for the runs that are being trained."""


class Watch(Observer):
    """Notes what runs come to, and raises `TimeUpError` when there is no time left.

    Args:
        sheet: takes the figures of the runs that have a name.
        clock: says how much time is left.
        named: names of runs, by the keys of their tasks.
        gpu: on which they are trained.

    Attributes:
        failure: one line on what went wrong last; "" where nothing did.
    """

    def __init__(self, sheet: Sheet, clock: Clock, *, named: Mapping[str, str], gpu: str | None) -> None:
        self.failure = ""
        self._sheet = sheet
        self._clock = clock
        self._named = named
        self._gpu = gpu
        self._last_end = time.time()  # of another run, after which a worker was free; at first, of none
        self._begins: dict[str, float] = {}
        self._epochs: dict[str, list[float]] = {}
        self._ended: dict[str, float] = {}
        self._warnings: dict[str, list[str]] = {}

    def timed(self, key: str) -> tuple[float, float] | None:
        """Return the seconds of a finished run beside its epochs, and those of one epoch; None if it has not finished.

        The first epoch, in which kernels are chosen and the step is captured, counts with what is beside the epochs.
        """
        ends = self._epochs.get(key, [])
        if key not in self._ended or len(ends) < 2:
            return None
        epoch = statistics.median(later - earlier for earlier, later in itertools.pairwise(ends))
        return max(0.0, self._ended[key] - self._begins[key] - len(ends) * epoch), epoch

    def started(self, task: Task, *, epochs: int, steps: int, done_epochs: int) -> None:
        """Note since when it has been prepared: a run begins as soon as another has ended."""
        self._begins[task.key] = self._last_end
        self._check()
        if task.key in self._named:
            say(f"row: {self._named[task.key]}: {epochs} epochs of {steps} steps")

    def stepped(self, task: Task, *, done_steps: int, loss: float) -> None:
        """See whether there is time left."""
        self._check()

    def measured(self, task: Task, metrics: Mapping[str, Any]) -> None:
        """Note when an epoch was over."""
        self._epochs.setdefault(task.key, []).append(time.time())
        self._check()

    def warned(self, task: Task, text: str) -> None:
        """Note it: for instance that the step is not captured, and why."""
        self._warnings.setdefault(task.key, []).append(text)

    def ended(self, task: Task, outcome: Outcome) -> None:
        """Note what the run came to."""
        name = self._named.get(task.key)
        self._last_end = time.time()
        if outcome.error is not None:
            self.failure = outcome.error
            self._sheet.errors[name or "timing"] = outcome.error
            say(f"row: {name or task.recipe.name} failed: {outcome.error}")
        else:
            self._ended[task.key] = self._last_end
            if name is not None:
                self._sheet.missing.pop(name, None)
                self._sheet.results[name] = self._figures(task)
                say(f"row: {name}: {self._sheet.results[name]['accuracy']:.2f} %")
        self._sheet.write()

    def _figures(self, task: Task) -> dict[str, Any]:
        try:
            summary = Run(task.key).summary
        except SvdistillError as error:  # it has just been written
            raise RuntimeError(f"the summary of {task.key} cannot be read: {error}") from error
        timed = self.timed(task.key)
        return {
            "accuracy": 100 * summary["accuracy"],
            "best accuracy": 100 * summary["best_accuracy"],
            "epochs": summary["epochs"],
            "batch": task.recipe.train.batch_size,
            "precision": task.recipe.train.precision,
            "seconds": summary["seconds"],
            "seconds an epoch": None if timed is None else timed[1],
            "parameters": summary["parameters"],
            "gpu": self._gpu,
            "warnings": self._warnings.get(task.key, []),
        }

    def _check(self) -> None:
        if self._clock.left <= 0:
            raise TimeUpError
