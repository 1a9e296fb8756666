"""A worker's side: trains the runs that it is given, one after the other, and tells how far it is."""

import os
import queue
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from svdistill import recipes
from svdistill.errors import SvdistillError, SvdistillWarning, TrainingError
from svdistill.jobs.callbacks import NoCallbacks
from svdistill.jobs.run import BusyError, Run
from svdistill.jobs.train import train
from svdistill.recipes import Recipe
from svdistill.sweep.scheduler import HEARTBEAT, Task
from svdistill.training.progress import Progress

PACE = 0.2  # seconds between two messages about a run's steps


def serve(connection: Connection, runs: Path, threads: int, parent: int) -> None:
    """Train what comes, one after the other; a process's main function.

    Args:
        connection: brings tasks, and takes what is to be told of them.
        runs: folder of all runs.
        threads: of torch.
        parent: the process with whose end this one ends too.
    """
    inbox: queue.SimpleQueue[Task] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox, parent), daemon=True).start()
    lock = threading.Lock()

    def say(*message: Any) -> None:
        with lock:
            connection.send(message)

    import torch

    torch.set_num_threads(threads)
    warnings.showwarning = _forward_to(say)
    while train_one(inbox.get(), runs, say):
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


def train_one(task: Task, runs: Path, say: Callable[..., None]) -> bool:
    """Train one run and say what came of it.

    Args:
        task: the run.
        runs: folder of all runs.
        say: takes a kind of message and its details.

    Returns:
        Whether this process may be trusted with another run.
    """
    try:
        # A process that is made later reads the program again, and may find another one.
        if str(runs / task.recipe.name / recipes.identity(task.recipe)) != task.key:
            raise TrainingError("the program has changed meanwhile; call the same command again")
        train(task.recipe, runs=runs, callbacks=_Teller(say))
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


class _Teller(NoCallbacks):
    """A callbacks and its progress in one: tells the parent how far the run is."""

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
