"""A pool of workers spread over a Ray cluster: one process for each run.

Imported only where Ray is asked for. A task of Ray does not train itself: it supervises a process of ``pool`` on its
node and passes on its messages, so that a run is trained, and its death reported, as on one machine.
"""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError

from svdistill.errors import RecipeError
from svdistill.jobs.run import Run
from svdistill.recipes import Recipe
from svdistill.sweep.pool import local_pool, threads_of
from svdistill.sweep.ray_cluster import Allotment, allot, connected, describe, living_nodes, reason
from svdistill.sweep.ray_folder import check_views, look, marked
from svdistill.sweep.scheduler import DISTRUSTED, HEARTBEAT, LAST_WORDS, Message, Task, WorkerPool

SIGHT = 60.0  # seconds until a file of another node is seen; network file systems remember what was not there
ROOM = 30.0  # seconds that a run waits for room on a node before a warning says so


@contextmanager
def ray_pool(
    runs: str | os.PathLike[str], recipes: Sequence[Recipe], *, jobs: int | None = None
) -> Iterator[WorkerPool]:
    """Open a pool of a cluster's workers; what they train ends with the block and with this process.

    Args:
        runs: folder of all runs, on storage that every node sees under the same path.
        recipes: what will be trained.
        jobs: the largest number of runs side by side; None is as many as there is room for, see ``allot``.

    Yields:
        The pool.

    Raises:
        OptionError: fewer than one job.
        RecipeError: Ray cannot be reached, lacks what the recipes ask for, or a node does not see the folder.
        DataError: the folder cannot be written.
    """
    # A link may lead elsewhere on another node, so the path is not resolved.
    folder = Path(os.path.abspath(runs))
    devices = {recipe.train.device for recipe in recipes}
    numbered = next((device for device in sorted(devices) if ":" in device), None)
    if numbered is not None:
        raise RecipeError(f"train.device: {numbered!r} is a GPU of one machine; on Ray, which chooses it, write 'cuda'")
    with connected():
        nodes = living_nodes()
        if "cuda" in devices and not any(node.gpus for node in nodes):
            raise RecipeError("train.device: 'cuda' is asked for, and no node of the Ray cluster has a GPU; use 'cpu'")
        allotment = allot(nodes, gpus=not devices.isdisjoint(("auto", "cuda")), jobs=jobs)
        with marked(folder) as mark:
            check_views(nodes, mark)
            pool = _RayPool(folder, mark, allotment, describe(nodes, allotment))
            try:
                yield pool
            finally:
                pool.end()


class _RayPool(WorkerPool):
    """The workers of a cluster, as the program that asked for them sees them."""

    def __init__(self, runs: Path, mark: Path, allotment: Allotment, description: str) -> None:
        self._runs, self._mark, self._allotment, self._description = runs, mark, allotment, description
        self._supervise = ray.remote(_supervise)
        self._streams: dict[Any, Task] = {}
        self._submitted: dict[Any, float] = {}  # when, of those that have not sent a message yet

    @property
    def jobs(self) -> int:
        return self._allotment.jobs

    @property
    def busy(self) -> int:
        return len(self._streams)

    @property
    def description(self) -> str:
        return self._description

    def submit(self, task: Task) -> None:
        gpus = int(self._allotment.gpus and task.recipe.train.device != "cpu")
        # Its worker is given the folder of runs as an absolute path, which the key must agree with.
        there = replace(task, key=str(self._runs / task.recipe.name / Path(task.key).name))
        stream = self._supervise.options(
            num_cpus=self._allotment.cpus,
            num_gpus=gpus,
            num_returns="streaming",
            max_retries=0,
            scheduling_strategy="SPREAD",
        ).remote(there, self._runs, self._mark, os.getcwd(), threads_of(self._allotment.cpus), bool(gpus))
        self._streams[stream] = task
        self._submitted[stream] = time.monotonic()

    def messages(self, timeout: float) -> Iterator[tuple[Task, Message]]:
        if not self._streams:
            time.sleep(timeout)
            return
        ray.wait(list(self._streams), num_returns=1, timeout=timeout, fetch_local=False)
        ready, _ = ray.wait(list(self._streams), num_returns=len(self._streams), timeout=0, fetch_local=False)
        for stream in ready:
            task, message = self._streams[stream], _next(stream)
            self._submitted.pop(stream, None)
            if message[0] in LAST_WORDS:
                del self._streams[stream]
            if message[0] == "done":
                _await_sight(Run(task.key))
            if message[0] != "arrived":
                yield task, message
        for stream, since in list(self._submitted.items()):
            if time.monotonic() - since > ROOM:
                del self._submitted[stream]
                text = f"no node of the Ray cluster has had room for it for {ROOM:.0f} s"
                yield self._streams[stream], ("warned", text)

    def end(self) -> None:
        for stream in self._streams:
            with suppress(RayError):
                ray.cancel(stream, force=True)


def _next(stream: Any) -> Message:
    """Return a run's next message; where its stream has broken or ended, that is the message."""
    try:
        message: Message = ray.get(next(stream))
    except StopIteration:
        return "failed", "its worker on the Ray cluster ended without a word; the same command resumes it", None
    except OutOfMemoryError:
        return "failed", "its node of the Ray cluster had no memory left; take fewer jobs (--jobs)", None
    except RayError as error:
        return "failed", f"its worker or node died ({reason(error)}); the same command resumes it", None
    return message


def _await_sight(run: Run) -> None:
    """Wait until this machine sees what another has written."""
    until = time.monotonic() + SIGHT
    while not run.finished and time.monotonic() < until:
        time.sleep(0.2)
        with suppress(OSError):  # looking into a folder makes a network file system ask again
            os.listdir(run.path)


def _supervise(task: Task, runs: Path, mark: Path, working: str, threads: int, gpu: bool) -> Iterator[Message]:
    """Have one run trained by a process of this node, and pass on its messages; a task of Ray."""
    node = socket.gethostname()
    yield ("arrived",)
    # A node that has joined since the beginning has not been checked.
    problem = look(mark).problem
    if problem is not None:
        yield "failed", f"node {node} {problem}", None
        return
    with suppress(OSError):  # without it, relative paths lead nowhere, and whoever reads them says so
        os.chdir(working)
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    began = False
    with local_pool(runs, jobs=1, threads=threads) as pool:
        pool.submit(task)
        while pool.busy:
            for _, message in pool.messages(HEARTBEAT):
                began = began or message[0] == "started"
                yield _with_node(message, node, began=began)


def _with_node(message: Message, node: str, *, began: bool) -> Message:
    """Add to a failure the node on which it happened."""
    if message[0] not in ("failed", *DISTRUSTED):
        return message
    kind, error, trace = message
    where = f"on node {node}" if began else f"on node {node}, which needs the data and teachers under the same paths"
    return kind, f"{error} ({where})", trace
