"""Which run is trained when, whoever trains it: tasks, the worker pool, and who is told what happens."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from svdistill.recipes import Recipe

PATIENCE = 5.0  # seconds until a run that another process trains is tried again
HEARTBEAT = 1.0  # seconds between two checks that the other side is still there

# A worker's message about its task: a kind and its details. The kinds are "started", "stepped", "measured", "warned",
# "memory" (for the pool alone) while the task runs, and those of LAST_WORDS, after which the worker is free: "busy" is
# a run that another process is training, "exhausted" one in which memory ran out, "broken" another failure after which
# the process is not to be trusted with a run. A pool may add "crowded", and "failed" for a worker that has died.
Message = tuple[Any, ...]
DISTRUSTED = ("broken", "exhausted")
LAST_WORDS = ("done", "failed", "busy", *DISTRUSTED)


@dataclass(frozen=True)
class Task:
    """One run to be trained.

    Attributes:
        key: identifies the run: its folder, as text.
        recipe: what is trained.
        needs: keys of the tasks that must be done before, for instance the teacher's.
    """

    key: str
    recipe: Recipe
    needs: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """How a task ended.

    Attributes:
        error: one line on what went wrong; None where the run has finished.
        trace: the traceback of an unexpected error.
    """

    error: str | None = None
    trace: str | None = None


class Observer(Protocol):
    """Is told how far the tasks are, between two messages, in the process that runs the scheduler.

    Each method does nothing by default; a subclass overrides those for what it wants to know.
    """

    def started(self, task: Task, *, epochs: int, steps: int, done_epochs: int) -> None:
        """A run starts, or resumes; told again where it is tried again.

        Args:
            task: the run.
            epochs: the number of epochs of the whole run.
            steps: the number of steps of an epoch.
            done_epochs: the number of epochs that are done already.
        """
        return

    def stepped(self, task: Task, *, done_steps: int, loss: float) -> None:
        """A run has made steps; told a few times a second at most.

        Args:
            task: the run.
            done_steps: the number of steps since its first epoch.
            loss: the main loss.
        """
        return

    def measured(self, task: Task, metrics: Mapping[str, Any]) -> None:
        """An epoch of a run is over; this is its line of metrics."""
        return

    def ended(self, task: Task, outcome: Outcome) -> None:
        """A run has finished or failed."""
        return

    def postponed(self, task: Task) -> None:
        """Another process is training this run, so it is put off; told once a task."""
        return

    def crowded(self, task: Task, *, runs: int, need: int) -> None:
        """A run waits until a GPU has memory for it; told when the number of runs that there is memory for changes.

        Args:
            task: the run.
            runs: the number of runs that are side by side.
            need: of each, in bytes.
        """
        return

    def warned(self, task: Task, text: str) -> None:
        """A run gave a warning."""
        return


class NoObserver(Observer):
    """Where nobody wants to know."""


class WorkerPool(Protocol):
    """The workers that train runs: processes of this machine, or of others."""

    @property
    def jobs(self) -> int:
        """The largest number of runs side by side."""

    @property
    def busy(self) -> int:
        """The number of runs that are being trained now, or were submitted and wait for a GPU's memory."""

    @property
    def description(self) -> str | None:
        """One line on the pool, where it is worth a line."""

    def submit(self, task: Task) -> None:
        """Have a run trained; only while fewer than ``jobs`` are."""

    def messages(self, timeout: float) -> Iterator[tuple[Task, Message]]:
        """Wait for messages for ``timeout`` seconds at most, and yield them; a task's last is one of ``LAST_WORDS``."""


def run_tasks(tasks: Sequence[Task], pool: WorkerPool, *, observer: Observer, patience: float = PATIENCE) -> None:
    """Have runs trained, each when its turn comes; a failure does not stop the others.

    A task that needs a failed one fails with it; a run that another program is training is put off until that has
    ended.

    Args:
        tasks: with distinct keys; of those that can start, the first starts first.
        pool: trains them.
        observer: is told what happens.
        patience: seconds until a run that another process trains is tried again.
    """
    scheduler = _Scheduler(tasks, observer=observer, patience=patience)
    while scheduler.unfinished:
        while pool.busy < pool.jobs and (task := scheduler.next()) is not None:
            pool.submit(task)
        for task, message in pool.messages(HEARTBEAT):
            scheduler.receive(task, *message)


class _Scheduler:
    """Which tasks are waiting, running, put off and done; passes on to the observer what their workers say."""

    def __init__(self, tasks: Sequence[Task], *, observer: Observer, patience: float) -> None:
        self._waiting = {task.key: task for task in tasks}
        self._running: dict[str, Task] = {}
        self._not_before: dict[str, float] = {}
        self._failed: set[str] = set()
        self._observer = observer
        self._patience = patience

    @property
    def unfinished(self) -> bool:
        return bool(self._waiting or self._running)

    def next(self) -> Task | None:
        """Return the first task that can start now, which then counts as running.

        Those that a failed one makes impossible end here.
        """
        for task in list(self._waiting.values()):
            if not self._failed.isdisjoint(task.needs):
                del self._waiting[task.key]
                self._end(task, Outcome("not begun, because its teacher failed"))
            elif self._can_start(task):
                self._running[task.key] = self._waiting.pop(task.key)
                return task
        return None

    def _can_start(self, task: Task) -> bool:
        open_needs = any(need in self._waiting or need in self._running for need in task.needs)
        return not open_needs and self._not_before.get(task.key, 0.0) <= time.monotonic()

    def receive(self, task: Task, kind: str, *details: Any) -> None:
        """Take note of a worker's message."""
        if kind == "started":
            epochs, steps, done_epochs = details
            self._observer.started(task, epochs=epochs, steps=steps, done_epochs=done_epochs)
        elif kind == "stepped":
            done_steps, loss = details
            self._observer.stepped(task, done_steps=done_steps, loss=loss)
        elif kind == "measured":
            self._observer.measured(task, *details)
        elif kind == "warned":
            self._observer.warned(task, *details)
        elif kind == "crowded":
            runs, need = details
            self._observer.crowded(task, runs=runs, need=need)
        elif kind == "busy":
            if task.key not in self._not_before:
                self._observer.postponed(task)
            self._not_before[task.key] = time.monotonic() + self._patience
            self._waiting[task.key] = self._running.pop(task.key)
        else:
            del self._running[task.key]
            self._end(task, Outcome(*details))

    def _end(self, task: Task, outcome: Outcome) -> None:
        if outcome.error is not None:
            self._failed.add(task.key)
        self._observer.ended(task, outcome)
