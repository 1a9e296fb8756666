"""Long-lived processes that train runs side by side, are replaced when they die, and end when their parent does."""

import os
import queue
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection as connections
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from svdistill import recipes
from svdistill.errors import RecipeError, SvdistillError, SvdistillWarning, TrainingError
from svdistill.jobs.run import BusyError, Run
from svdistill.jobs.train import train
from svdistill.jobs.watch import Nobody
from svdistill.recipes import Recipe
from svdistill.train.progress import Progress

PATIENCE = 5.0  # seconds until a run that another process trains is asked for again
HEARTBEAT = 1.0  # seconds between two looks at whether the other side is still there
PACE = 0.2  # seconds between two messages about a run's steps
# A message about a task: started, moved, measured, warned, or one of these, after which the worker is free. "broken"
# is a failure after which the process is not to be trusted with another run.
LAST_WORDS = ("done", "failed", "broken", "busy")


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


def threads_each(jobs: int) -> int:
    """Return how many threads each of several processes gets: its share of the cores, at most ``OMP_NUM_THREADS``.

    Args:
        jobs: number of processes.

    Returns:
        At least 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores // jobs, int(limit) if limit.isdigit() and int(limit) else cores))


def train_all(
    tasks: Sequence[Task],
    *,
    runs: str | os.PathLike[str],
    jobs: int,
    observer: Observer,
    patience: float = PATIENCE,
) -> None:
    """Train runs in ``jobs`` processes, each in its turn; what fails does not stop the others.

    The processes are spawned, so a program that calls this needs the usual ``if __name__ == "__main__":``. They end
    with their parent, also where that is killed; what they were training goes on after its last checkpoint next time. A
    task whose process dies has failed and the process is replaced; a task that needs a failed one fails with it; a run
    that another program is training is put off until that has ended.

    Args:
        tasks: with distinct keys; of those that can start, the first starts first.
        runs: folder of all runs.
        jobs: number of processes, at least 1.
        observer: is told what happens.
        patience: seconds until a run that another process trains is asked for again.

    Raises:
        RecipeError: fewer than one process.
    """
    if jobs < 1:
        raise RecipeError(f"jobs: expected at least 1 process, got {jobs}")
    agenda = _Agenda(tasks, observer=observer, patience=patience)
    with _crew(Path(runs), threads=threads_each(jobs)) as crew:
        while agenda.unfinished:
            while len(crew.busy) < jobs and (task := agenda.take()) is not None:
                crew.give(task)
            for worker in crew.wait(HEARTBEAT):
                for message in worker.messages():
                    agenda.hear(worker.task, *message)
                    if message[0] in LAST_WORDS:
                        crew.release(worker)
                if worker.dead:
                    if worker in crew.busy:
                        agenda.hear(worker.task, "failed", worker.epitaph(), None)
                    crew.bury(worker)


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


class _Worker:
    """A process, seen from its parent."""

    def __init__(self, runs: Path, threads: int) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        # No daemon: such a process may have no children of its own, and loading images from disk takes some.
        self.process = context.Process(
            target=_serve, args=(theirs, runs, threads, os.getpid()), name="svdistill-worker"
        )
        with _deaf_to_interrupts():
            self.process.start()
        # Only the child may hold this end: when it dies, the other end must see that nothing more comes.
        theirs.close()
        self.dead = False
        self._task: Task | None = None

    @property
    def task(self) -> Task:
        """What it was given last; it says nothing before."""
        assert self._task is not None
        return self._task

    def give(self, task: Task) -> None:
        self._task = task
        with suppress(OSError):  # it has died; `messages` finds that out
            self.connection.send(task)

    def messages(self) -> Iterator[tuple[Any, ...]]:
        """Yield what it has said, then find out whether it is still alive."""
        # Asked first: what a process said before its end is all there once it has ended.
        ended = self.process.exitcode is not None
        try:
            while self.connection.poll():
                message = self.connection.recv()
                ended = ended or message[0] == "broken"
                yield message
        except (EOFError, OSError):
            ended = True
        self.dead = ended

    def epitaph(self) -> str:
        """Say how the process ended."""
        self.process.join(HEARTBEAT)
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            why = ", as the system does where memory runs out" if name == "SIGKILL" else ""
            return f"its process was killed ({name}{why}); the same command goes on with it"
        return f"its process ended with status {code}; the same command goes on with it"

    def end(self) -> None:
        """Close the line, on which the process ends by itself, and make sure that it does."""
        self.connection.close()
        for stop in (self.process.terminate, self.process.kill):
            self.process.join(2 * HEARTBEAT)
            if self.process.exitcode is None:
                stop()
        self.process.join()


class _Crew:
    """The workers: made when there is work for them, kept for the next."""

    def __init__(self, runs: Path, threads: int) -> None:
        self._runs, self._threads = runs, threads
        self.busy: list[_Worker] = []
        self.idle: list[_Worker] = []

    def give(self, task: Task) -> None:
        worker = self.idle.pop() if self.idle else _Worker(self._runs, self._threads)
        self.busy.append(worker)
        worker.give(task)

    def release(self, worker: _Worker) -> None:
        self.busy.remove(worker)
        self.idle.append(worker)

    def bury(self, worker: _Worker) -> None:
        (self.busy if worker in self.busy else self.idle).remove(worker)
        worker.end()

    def wait(self, timeout: float) -> list[_Worker]:
        """Wait until a worker has said something or died, and return all of them."""
        everybody = [*self.busy, *self.idle]
        connections.wait(
            [thing for worker in everybody for thing in (worker.connection, worker.process.sentinel)], timeout
        )
        return everybody


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let a process that is started here ignore Ctrl-C, which reaches every process of a terminal, from its beginning.

    The parent decides what Ctrl-C means, and its workers end with it.
    """
    if threading.current_thread() is not threading.main_thread():  # no other may set this
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _crew(runs: Path, *, threads: int) -> Iterator[_Crew]:
    crew = _Crew(runs, threads)
    try:
        yield crew
    finally:
        workers = [*crew.busy, *crew.idle]
        for worker in workers:
            worker.connection.close()  # all at once, so that they end at the same time
        for worker in workers:
            worker.end()


def _serve(connection: Connection, runs: Path, threads: int, parent: int) -> None:
    """Train what comes, one after the other; a process's main function."""
    inbox: queue.SimpleQueue[Task] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox, parent), daemon=True).start()
    lock = threading.Lock()

    def say(*message: Any) -> None:
        with lock:
            connection.send(message)

    import torch

    torch.set_num_threads(threads)
    warnings.showwarning = _forward_to(say)
    while _train_one(inbox.get(), runs, say):
        pass


def _listen(connection: Connection, inbox: "queue.SimpleQueue[Task]", parent: int) -> None:
    """Take in tasks; end the whole process, in whatever it is doing, once the parent is no more."""
    try:
        while os.getppid() == parent:
            if connection.poll(HEARTBEAT):
                inbox.put(connection.recv())
    except (EOFError, OSError):
        pass
    finally:
        os._exit(1)


def _train_one(task: Task, runs: Path, say: Callable[..., None]) -> bool:
    """Train one run and say what came of it; return whether this process may be trusted with another."""
    try:
        # A process that is made later reads the program again, and may find another one.
        if str(runs / task.recipe.name / recipes.identity(task.recipe)) != task.key:
            raise TrainingError("the program has changed meanwhile; call the same command again")
        train(task.recipe, runs=runs, watcher=_Teller(say))
    except BusyError:
        say("busy")
    except SvdistillError as error:
        say("failed", _one_line(error), None)
    except Exception as error:
        # Memory that does not come back, a GPU in an undefined state: a new process is cheap.
        say("broken", _reason(error), traceback.format_exc())
        return False
    else:
        say("done")
    return True


def _reason(error: Exception) -> str:
    text = _one_line(error)
    if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return "not enough memory; take fewer jobs, or lower train.batch_size, model.width or data.image_size"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(last.filename).name}, line {last.lineno})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _forward_to(say: Callable[..., None]) -> Callable[..., None]:
    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, SvdistillWarning):
            say("warned", " ".join(str(message).split()))

    return show


class _Teller(Nobody):
    """A watcher and its progress in one: tells the parent how far the run is."""

    def __init__(self, say: Callable[..., None]) -> None:
        self._say = say
        self._steps = 0
        self._last = 0.0

    def training(self, recipe: Recipe, run: Run) -> Progress:
        """Return itself."""
        return self

    def start(self, epochs: int, steps: int, done_epochs: int) -> None:
        """Tell it."""
        self._steps = done_epochs * steps
        self._say("started", epochs, steps, done_epochs)

    def step(self, *, loss: float, images: int) -> None:
        """Count, and tell now and then."""
        self._steps += 1
        if time.monotonic() - self._last >= PACE:
            self._last = time.monotonic()
            self._say("moved", self._steps, float(loss))

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Tell it."""
        self._say("measured", dict(metrics))

    def finish(self) -> None:
        """Say nothing: the end of the task says it."""
