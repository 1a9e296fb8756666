"""A worker process: trains the runs that it is given, one after the other, and reports how far it is."""

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

from svdistill.errors import SvdistillError, SvdistillWarning, TrainingError, is_out_of_memory, one_line
from svdistill.jobs.callbacks import Callbacks
from svdistill.jobs.run import BusyError, Run
from svdistill.jobs.train import train
from svdistill.recipes import Recipe
from svdistill.sweep.scheduler import HEARTBEAT, Task
from svdistill.training.progress import Progress

PACE = 0.2  # seconds between two messages about a run's steps


def serve(connection: Connection, runs: Path, threads: int, parent: int) -> None:
    """Train the tasks that arrive, one after the other; a process's main function.

    Args:
        connection: brings tasks, and takes the messages about them.
        runs: folder of all runs.
        threads: the number of torch's threads.
        parent: id of the parent process; when that ends, this one ends too.
    """
    inbox: queue.SimpleQueue[Task] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox, parent), daemon=True).start()
    lock = threading.Lock()

    def send(*message: Any) -> None:
        with lock:
            connection.send(message)

    import torch

    torch.set_num_threads(threads)
    warnings.showwarning = _forward_to(send)
    while train_one(inbox.get(), runs, send):
        pass


def _listen(connection: Connection, inbox: "queue.SimpleQueue[Task]", parent: int) -> None:
    """Receive tasks; end the whole process, whatever it is doing, once the parent is gone."""
    try:
        while os.getppid() == parent:
            if connection.poll(HEARTBEAT):
                inbox.put(connection.recv())
    except (EOFError, OSError):
        pass
    finally:
        os._exit(1)


def train_one(task: Task, runs: Path, send: Callable[..., None]) -> bool:
    """Train one run and report how it ended.

    Args:
        task: the run.
        runs: folder of all runs.
        send: takes a message: its kind, then its details.

    Returns:
        Whether this process may be trusted with another run.
    """
    try:
        # A process that is started later reads the program again, and may find another version.
        if str(Run.of(task.recipe, runs).path) != task.key:
            raise TrainingError("the program has changed meanwhile; call the same command again")
        train(task.recipe, runs=runs, callbacks=_Reporter(send))
    except BusyError:
        send("busy")
    except SvdistillError as error:
        send("failed", one_line(error), None)
    except Exception as error:
        # Memory that does not come back, a GPU in an undefined state: a new process is cheap.
        send("broken", _reason(error), traceback.format_exc())
        return False
    else:
        send("done")
    return True


def _reason(error: Exception) -> str:
    if is_out_of_memory(error):
        return "not enough memory; take fewer jobs, or lower train.batch_size, model.width or data.image_size"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {one_line(error)} ({Path(last.filename).name}, line {last.lineno})"


def _forward_to(send: Callable[..., None]) -> Callable[..., None]:
    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, SvdistillWarning):
            send("warned", one_line(message))

    return show


class _Reporter(Callbacks, Progress):
    """The callbacks of a run and its progress in one: reports to the parent how far the run is."""

    def __init__(self, send: Callable[..., None]) -> None:
        self._send = send
        self._steps = 0
        self._last = 0.0

    def training(self, recipe: Recipe, run: Run) -> Progress:
        """Return itself."""
        return self

    def start(self, epochs: int, steps: int, done_epochs: int) -> None:
        """Report it."""
        self._steps = done_epochs * steps
        self._send("started", epochs, steps, done_epochs)

    def step(self, *, loss: float, images: int) -> None:
        """Count, and report a few times a second."""
        self._steps += 1
        if time.monotonic() - self._last >= PACE:
            self._last = time.monotonic()
            self._send("stepped", self._steps, float(loss))

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Report it."""
        self._send("measured", dict(metrics))

    def finish(self) -> None:
        """Do nothing: the end of the task is reported anyway."""
