"""A worker process: trains the runs that it is given, one after the other, and reports how far it is."""

import math
import os
import queue
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from svdistill.errors import SvdistillError, SvdistillWarning, TrainingError, is_out_of_memory, one_line
from svdistill.jobs.callbacks import Callbacks
from svdistill.jobs.run import BusyError, Run
from svdistill.jobs.train import train
from svdistill.recipes import Recipe
from svdistill.sweep.admission import Memory
from svdistill.sweep.meter import Meter
from svdistill.sweep.scheduler import HEARTBEAT, Task
from svdistill.training.progress import Progress

PACE = 0.2  # seconds between two messages about a run's steps
# A GPU's memory is read after so many steps, when warm-up and optimizer have taken theirs, and then every few seconds.
FIRST_STEPS = 20
MEMORY_PACE = 5.0


class Setting(NamedTuple):
    """What a worker process is told when it starts.

    Attributes:
        runs: folder of all runs.
        threads: the number of torch's threads.
        parent: id of the parent process; when that ends, this one ends too.
        meter: reads the memory of the GPU that a run is on; None where nobody wants to know.
        visible: the GPUs that it is to see, as ``CUDA_VISIBLE_DEVICES`` says it; None leaves that as it is.
    """

    runs: Path
    threads: int
    parent: int
    meter: Meter | None = None
    visible: str | None = None


def serve(connection: Connection, setting: Setting) -> None:
    """Train the tasks that arrive, one after the other; a process's main function.

    Args:
        connection: brings tasks, and takes the messages about them.
        setting: what else it is told.
    """
    if setting.visible is not None:  # read when CUDA is first used, which is later
        os.environ["CUDA_VISIBLE_DEVICES"] = setting.visible
    inbox: queue.SimpleQueue[Task] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox, setting.parent), daemon=True).start()
    lock = threading.Lock()

    def send(*message: Any) -> None:
        with lock:
            connection.send(message)

    import torch

    torch.set_num_threads(setting.threads)
    warnings.showwarning = _forward_to(send)
    while train_one(inbox.get(), setting.runs, send, meter=setting.meter):
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


def train_one(task: Task, runs: Path, send: Callable[..., None], *, meter: Meter | None = None) -> bool:
    """Train one run and report how it ended.

    Args:
        task: the run.
        runs: folder of all runs.
        send: takes a message: its kind, then its details.
        meter: reads the memory of the GPU that the run is on; None where nobody wants to know.

    Returns:
        Whether this process may be trusted with another run.
    """
    reporter = _Reporter(send, None if meter is None else partial(meter.read, task.recipe))
    try:
        # A process that is started later reads the program again, and may find another version.
        if str(Run.of(task.recipe, runs).path) != task.key:
            raise TrainingError("the program has changed meanwhile; call the same command again")
        train(task.recipe, runs=runs, callbacks=reporter)
        reporter.report_memory(settled=True)  # its diagnostics took some, too
    except BusyError:
        send("busy")
    except SvdistillError as error:
        send("failed", one_line(error), None)
    except Exception as error:
        # Memory that does not come back, a GPU in an undefined state: a new process is cheap.
        send("exhausted" if is_out_of_memory(error) else "broken", _reason(error), traceback.format_exc())
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

    def __init__(self, send: Callable[..., None], read: Callable[[], Memory] | None = None) -> None:
        self._send = send
        self._read = read
        self._steps = 0
        self._own_steps = 0  # without those before an interruption
        self._last = 0.0
        self._last_read = -math.inf

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
        self._own_steps += images > 0
        if self._own_steps >= FIRST_STEPS and time.monotonic() - self._last_read >= MEMORY_PACE:
            self.report_memory(settled=False)

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Report it."""
        self._send("measured", dict(metrics))
        self.report_memory(settled=True)

    def report_memory(self, *, settled: bool) -> None:
        """Report how much memory there is and how much the run takes, where somebody wants to know and it has begun.

        Args:
            settled: whether an epoch is over, evaluation included.
        """
        if self._read is not None and self._own_steps:
            self._last_read = time.monotonic()
            self._send("memory", self._read(), settled)

    def finish(self) -> None:
        """Do nothing: the end of the task is reported anyway."""
