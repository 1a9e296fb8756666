"""A pool of this machine's processes: they are reused, replaced when they die, and end when their parent does."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection as connections
from multiprocessing import get_context
from pathlib import Path

from svdistill.errors import OptionError
from svdistill.machine import usable_cores
from svdistill.sweep.cards import Cards
from svdistill.sweep.meter import CudaMeter, Meter, Place
from svdistill.sweep.scheduler import DISTRUSTED, HEARTBEAT, LAST_WORDS, Message, Task, WorkerPool
from svdistill.sweep.worker import Setting, serve


def threads_of(cores: int) -> int:
    """Return the number of threads of a process: one for each of its cores, at most ``OMP_NUM_THREADS``.

    Args:
        cores: the number of cores that it has for itself; 0 where it has none.

    Returns:
        At least 1.
    """
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(limit) if limit.isdigit() and int(limit) else cores))


@contextmanager
def local_pool(
    runs: str | os.PathLike[str], *, jobs: int = 1, threads: int | None = None, meter: Meter | None = None
) -> Iterator[WorkerPool]:
    """Open a pool of processes of this machine; each is started when there is work for it.

    The processes are spawned, so a program that calls this needs the usual ``if __name__ == "__main__":``. They end
    with the block and with their parent, even where that is killed; what they were training resumes after its last
    checkpoint next time. A task whose process dies has failed, and the process is replaced.

    Several processes are dealt out to the GPUs, where there are some, and a GPU is given as many as its memory holds,
    see ``Admission``. A run in which memory runs out all the same, beside others, is tried once more, alone.

    Args:
        runs: folder of all runs.
        jobs: the largest number of processes, at least 1.
        threads: of each; None divides the cores among them, at most ``OMP_NUM_THREADS`` each.
        meter: knows the GPUs; None = those that CUDA knows.

    Yields:
        The pool.

    Raises:
        OptionError: fewer than one process.
    """
    if jobs < 1:
        raise OptionError(f"jobs: expected at least 1 process, got {jobs}")
    # A run that is never beside another takes what there is.
    known = (meter or CudaMeter()) if jobs > 1 else None
    pool = _LocalPool(Path(runs), jobs, threads or threads_of(usable_cores() // jobs), known)
    try:
        yield pool
    finally:
        pool.end()


class _Worker:
    """A worker process, as its parent sees it.

    Attributes:
        on_card: whether what it trains is on a GPU whose memory is divided. Then it ends after a run, which is the one
            sure way to give back all memory.
        dead: whether it has ended.
    """

    def __init__(self, setting: Setting, place: Place) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.on_card = place.card is not None
        # No daemon: such a process may have no children of its own, and loading images from disk takes some.
        own = setting._replace(meter=setting.meter if self.on_card else None, visible=place.visible)
        self.process = context.Process(target=serve, args=(theirs, own), name="svdistill-worker")
        with _ignoring_interrupts():
            self.process.start()
        # Only the child may hold this end: when it dies, the other end must notice that no more messages come.
        theirs.close()
        self.dead = False
        self._task: Task | None = None

    @property
    def task(self) -> Task:
        """What it was given last; there is no message before."""
        assert self._task is not None
        return self._task

    def submit(self, task: Task) -> None:
        self._task = task
        with suppress(OSError):  # it has died; `messages` finds that out
            self.connection.send(task)

    def messages(self) -> Iterator[Message]:
        """Yield the messages that have arrived, then find out whether the process is still alive."""
        # Asked first: once a process has ended, all that it sent before is there.
        ended = self.process.exitcode is not None
        try:
            while self.connection.poll():
                message = self.connection.recv()
                ended = ended or message[0] in DISTRUSTED
                yield message
        except (EOFError, OSError):
            ended = True
        self.dead = ended

    def exit_reason(self) -> str:
        """Return how the process ended, in words."""
        self.process.join(HEARTBEAT)
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            why = ", as the system does where memory runs out" if name == "SIGKILL" else ""
            return f"its process was killed ({name}{why}); the same command resumes it"
        return f"its process ended with status {code}; the same command resumes it"

    def end(self) -> None:
        """Close the connection, at which the process ends by itself, and make sure that it does."""
        self.connection.close()
        for stop in (self.process.terminate, self.process.kill):
            self.process.join(2 * HEARTBEAT)
            if self.process.exitcode is None:
                stop()
        self.process.join()


class _LocalPool(WorkerPool):
    """Workers of this machine: started when there is work for them, and kept for the next task on a CPU."""

    def __init__(self, runs: Path, jobs: int, threads: int, meter: Meter | None) -> None:
        self._jobs = jobs
        self._setting = Setting(runs, threads, os.getpid(), meter)
        self._cards = Cards(meter)
        self._waiting: list[Task] = []  # for a GPU's memory
        self._busy: list[_Worker] = []
        self._idle: list[_Worker] = []

    @property
    def description(self) -> None:
        return None

    @property
    def jobs(self) -> int:
        return self._jobs

    @property
    def busy(self) -> int:
        return len(self._busy) + len(self._waiting)

    def submit(self, task: Task) -> None:
        self._waiting.append(task)
        self._start_waiting()

    def _start_waiting(self) -> None:
        """Start those that are admitted; a later one may be where an earlier one is not."""
        for task in list(self._waiting):
            place = self._cards.admit(task)
            if place is not None:
                self._waiting.remove(task)
                kept = place.card is None and self._idle
                worker = self._idle.pop() if kept else _Worker(self._setting, place)
                self._busy.append(worker)
                worker.submit(task)

    def messages(self, timeout: float) -> Iterator[tuple[Task, Message]]:
        self._start_waiting()
        for task in self._waiting:
            if (crowd := self._cards.crowd(task)) is not None:
                yield task, ("crowded", *crowd)
        workers = [*self._busy, *self._idle]
        connections.wait([sign for one in workers for sign in (one.connection, one.process.sentinel)], timeout)
        for worker in workers:
            for message in worker.messages():
                yield from self._receive(worker, message)
            if worker.dead or (worker.on_card and worker in self._idle):
                yield from self._retire(worker)

    def _receive(self, worker: _Worker, message: Message) -> Iterator[tuple[Task, Message]]:
        """Pass a message on, if it is not about memory, which is a matter of the pool."""
        kind, task = message[0], worker.task
        if kind in LAST_WORDS:
            self._busy.remove(worker)
            self._idle.append(worker)
        if kind == "memory":
            _, memory, settled = message
            self._cards.reported(task, memory, settled=settled)
        elif kind == "exhausted" and self._cards.exhausted(task):
            self._waiting.append(task)
            yield task, ("warned", "the GPU's memory ran out beside other runs; it is tried again, alone, later")
        else:
            yield task, message

    def _retire(self, worker: _Worker) -> Iterator[tuple[Task, Message]]:
        """Part with a worker; what it was training has failed."""
        if worker in self._busy:
            self._busy.remove(worker)
            yield worker.task, ("failed", worker.exit_reason(), None)
        else:
            self._idle.remove(worker)
        worker.end()
        if worker.on_card:
            self._cards.ended(worker.task)

    def end(self) -> None:
        workers = [*self._busy, *self._idle]
        for worker in workers:
            worker.connection.close()  # all at once, so that they end at the same time
        for worker in workers:
            worker.end()


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Let a process that is started in this block ignore Ctrl-C, which reaches every process of a terminal.

    The parent decides what Ctrl-C means, and its workers end with it.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set a signal's handler
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
