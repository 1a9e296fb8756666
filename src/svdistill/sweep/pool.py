"""Long-lived processes that train runs side by side, are replaced when they die, and end when their parent does."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection as connections
from multiprocessing import get_context
from pathlib import Path

from svdistill.errors import RecipeError
from svdistill.sweep.scheduler import HEARTBEAT, LAST_WORDS, Message, Task, WorkerPool
from svdistill.sweep.worker import serve


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of(share: int) -> int:
    """Return how many threads a process with a share of the cores gets: as many, at most ``OMP_NUM_THREADS``.

    Args:
        share: number of cores; 0 where it has none of its own.

    Returns:
        At least 1.
    """
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(share, int(limit) if limit.isdigit() and int(limit) else share))


@contextmanager
def worker_pool(runs: str | os.PathLike[str], *, jobs: int = 1, threads: int | None = None) -> Iterator[WorkerPool]:
    """Give processes of this machine that train runs; they are started when there is work for them.

    The processes are spawned, so a program that calls this needs the usual ``if __name__ == "__main__":``. They end
    with the block and with their parent, also where that is killed; what they were training goes on after its last
    checkpoint next time. A task whose process dies has failed and the process is replaced.

    Args:
        runs: folder of all runs.
        jobs: number of processes, at least 1.
        threads: of each; None shares out the cores, at most ``OMP_NUM_THREADS`` each.

    Yields:
        The worker_pool.

    Raises:
        RecipeError: fewer than one process.
    """
    if jobs < 1:
        raise RecipeError(f"jobs: expected at least 1 process, got {jobs}")
    processes = _Processes(Path(runs), jobs, threads or threads_of(cores() // jobs))
    try:
        yield processes
    finally:
        processes.end()


class _Worker:
    """A process, seen from its parent."""

    def __init__(self, runs: Path, threads: int) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        # No daemon: such a process may have no children of its own, and loading images from disk takes some.
        self.process = context.Process(target=serve, args=(theirs, runs, threads, os.getpid()), name="svdistill-worker")
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

    def messages(self) -> Iterator[Message]:
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

    def exit_reason(self) -> str:
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


class _Processes:
    """The workers: made when there is work for them, kept for the next."""

    description = None

    def __init__(self, runs: Path, jobs: int, threads: int) -> None:
        self._runs, self.jobs, self._threads = runs, jobs, threads
        self._busy: list[_Worker] = []
        self._idle: list[_Worker] = []

    @property
    def busy(self) -> int:
        return len(self._busy)

    def give(self, task: Task) -> None:
        worker = self._idle.pop() if self._idle else _Worker(self._runs, self._threads)
        self._busy.append(worker)
        worker.give(task)

    def listen(self, timeout: float) -> Iterator[tuple[Task, Message]]:
        everybody = [*self._busy, *self._idle]
        connections.wait(
            [thing for worker in everybody for thing in (worker.connection, worker.process.sentinel)], timeout
        )
        for worker in everybody:
            for message in worker.messages():
                if message[0] in LAST_WORDS:
                    self._busy.remove(worker)
                    self._idle.append(worker)
                yield worker.task, message
            if worker.dead:
                if worker in self._busy:
                    yield worker.task, ("failed", worker.exit_reason(), None)
                (self._busy if worker in self._busy else self._idle).remove(worker)
                worker.end()

    def end(self) -> None:
        workers = [*self._busy, *self._idle]
        for worker in workers:
            worker.connection.close()  # all at once, so that they end at the same time
        for worker in workers:
            worker.end()


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
