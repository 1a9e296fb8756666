"""What is trained in which order, whoever trains it: tasks, what is heard of them, and who wants to know."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from svdistill.recipes import Recipe

PATIENCE = 5.0  # seconds until a run that another process trains is asked for again
HEARTBEAT = 1.0  # seconds between two looks at whether the other side is still there
# A message about a task: started, moved, measured, warned, or one of these, after which the worker is free. "broken"
# is a failure after which the process is not to be trusted with another run.
LAST_WORDS = ("done", "failed", "broken", "busy")
Message = tuple[Any, ...]


@dataclass(frozen=True)
class Task:
    """One run to be trained.

    Attributes:
        key: names the run: its folder, as text.
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
        trace: where it went wrong, for an error that nobody expected.
    """

    error: str | None = None
    trace: str | None = None


class Observer(Protocol):
    """Whoever wants to know how far the tasks are; called in the parent, between two messages."""

    def started(self, task: Task, *, epochs: int, steps: int, done_epochs: int) -> None:
        """A run begins, or goes on after some epochs."""

    def moved(self, task: Task, *, done_steps: int, loss: float) -> None:
        """A run has done so many steps, counted from its first epoch; a few times a second at most."""

    def measured(self, task: Task, metrics: Mapping[str, Any]) -> None:
        """An epoch of a run is over; this is its line of metrics."""

    def ended(self, task: Task, outcome: Outcome) -> None:
        """A run has finished, or will not."""

    def waiting(self, task: Task) -> None:
        """Another process trains this run, so that it is put off; told once a task."""

    def warned(self, task: Task, text: str) -> None:
        """A run was warned of something."""


class Unobserved:
    """Wants to know nothing."""

    def started(self, task: Task, *, epochs: int, steps: int, done_epochs: int) -> None:
        """Do nothing."""

    def moved(self, task: Task, *, done_steps: int, loss: float) -> None:
        """Do nothing."""

    def measured(self, task: Task, metrics: Mapping[str, Any]) -> None:
        """Do nothing."""

    def ended(self, task: Task, outcome: Outcome) -> None:
        """Do nothing."""

    def waiting(self, task: Task) -> None:
        """Do nothing."""

    def warned(self, task: Task, text: str) -> None:
        """Do nothing."""


class WorkerPool(Protocol):
    """Those who train: processes of this machine, or of others."""

    @property
    def jobs(self) -> int:
        """How many runs they train side by side at most."""

    @property
    def busy(self) -> int:
        """How many they are training now."""

    @property
    def description(self) -> str | None:
        """One line on who they are, where that is worth a line."""

    def give(self, task: Task) -> None:
        """Have a run trained; only while fewer than ``jobs`` are."""

    def listen(self, timeout: float) -> Iterator[tuple[Task, Message]]:
        """Wait so many seconds at most, and yield what is heard of the runs; of each, one of ``LAST_WORDS`` is last."""


def run_tasks(
    tasks: Sequence[Task], worker_pool: WorkerPool, *, observer: Observer, patience: float = PATIENCE
) -> None:
    """Have runs trained, each in its turn; what fails does not stop the others.

    A task that needs a failed one fails with it; a run that another program is training is put off until that has
    ended.

    Args:
        tasks: with distinct keys; of those that can start, the first starts first.
        worker_pool: trains them.
        observer: is told what happens.
        patience: seconds until a run that another process trains is asked for again.
    """
    agenda = _Agenda(tasks, observer=observer, patience=patience)
    while agenda.unfinished:
        while worker_pool.busy < worker_pool.jobs and (task := agenda.take()) is not None:
            worker_pool.give(task)
        for task, message in worker_pool.listen(HEARTBEAT):
            agenda.hear(task, *message)


class _Agenda:
    """Which tasks are waiting, running, put off and done; hands on to the observer what is heard of them."""

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

    def take(self) -> Task | None:
        """Take the first task that can start now; those that a failed one makes impossible end here."""
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

    def hear(self, task: Task, kind: str, *details: Any) -> None:
        """Take note of a worker's message."""
        if kind == "started":
            epochs, steps, done_epochs = details
            self._observer.started(task, epochs=epochs, steps=steps, done_epochs=done_epochs)
        elif kind == "moved":
            done_steps, loss = details
            self._observer.moved(task, done_steps=done_steps, loss=loss)
        elif kind == "measured":
            self._observer.measured(task, *details)
        elif kind == "warned":
            self._observer.warned(task, *details)
        elif kind == "busy":
            if task.key not in self._not_before:
                self._observer.waiting(task)
            self._not_before[task.key] = time.monotonic() + self._patience
            self._waiting[task.key] = self._running.pop(task.key)
        else:
            del self._running[task.key]
            self._end(task, Outcome(*details))

    def _end(self, task: Task, outcome: Outcome) -> None:
        if outcome.error is not None:
            self._failed.add(task.key)
        self._observer.ended(task, outcome)
