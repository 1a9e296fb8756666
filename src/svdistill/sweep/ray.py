"""Runs spread over a Ray cluster: what it has, whether its nodes see the runs, and one process for each run.

Imported only where Ray is asked for. A task of Ray does not train itself: it watches over a process of ``pool`` on its
node and passes on what that says, so that a run is trained, and its death told, as it is on one machine.
"""

import logging
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from svdistill import __version__
from svdistill.atomic import lock
from svdistill.errors import DataError, RecipeError
from svdistill.jobs.run import Run
from svdistill.recipes import Recipe
from svdistill.sweep import pool
from svdistill.sweep.scheduler import HEARTBEAT, LAST_WORDS, Message, Task, WorkerPool

OBJECT_STORE = 100 * 2**20  # bytes of shared memory of a Ray that is started here; only messages pass through it
REACH = 5.0  # seconds until an address does not answer
LOOK = 120.0  # seconds that a node has to look at the folder of runs, the start of a process included
SIGHT = 60.0  # seconds until a file of another node is seen; network file systems remember what was not there
ROOM = 30.0  # seconds that a run waits for a free place before that is told

# Ray is to be silent: it shares a terminal with the table of runs.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_PROMPT_ENABLED": "0"}


class Node(NamedTuple):
    """A machine of the cluster.

    Attributes:
        id: Ray's name for it.
        name: the host's.
        cpus: how many processor cores it lends.
        gpus: how many GPUs.
    """

    id: str
    name: str
    cpus: int
    gpus: int


@dataclass(frozen=True)
class Share:
    """What each run gets of a cluster.

    Attributes:
        jobs: so many runs find room side by side, and may.
        cpus: processor cores of each.
        gpus: whether those that want a GPU get one, of their own.
    """

    jobs: int
    cpus: int
    gpus: bool


def share(nodes: Sequence[Node], *, gpus: bool, jobs: int | None) -> Share:
    """Share a cluster out, by what it has in all and not by what is free or missing: the same command, the same share.

    With GPUs a run gets one, and the cores of its node that come to each GPU. Without, it gets one core, or as many as
    there are for each of ``jobs`` runs; a run never spans two nodes.

    Args:
        nodes: the cluster.
        gpus: whether a run wants a GPU.
        jobs: at most so many runs side by side; None is as many as find room.

    Returns:
        The share; with GPUs only where there are any.

    Raises:
        RecipeError: no node lends anything, or fewer than one job.
    """
    if jobs is not None and jobs < 1:
        raise RecipeError(f"jobs: expected at least 1, got {jobs}")
    lending = [node for node in nodes if node.gpus] if gpus else []
    if lending:
        room = sum(node.gpus for node in lending)
        return Share(min(room, jobs or room), min(node.cpus // node.gpus for node in lending), True)
    room = sum(node.cpus for node in nodes)
    if room < 1:
        raise RecipeError("the nodes of the Ray cluster lend no CPUs; start them with: ray start --num-cpus N")
    wanted = min(room, jobs or room)
    most = max(node.cpus for node in nodes)
    cpus = next(cpus for cpus in range(most, 0, -1) if sum(node.cpus // cpus for node in nodes) >= wanted)
    return Share(wanted, cpus, False)


@contextmanager
def worker_pool(
    runs: str | os.PathLike[str], recipes: Sequence[Recipe], *, jobs: int | None = None
) -> Iterator[WorkerPool]:
    """Give the workers of a cluster; what they train ends with the block and with this process.

    Args:
        runs: folder of all runs, on storage that every node sees under the same path.
        recipes: what will be trained.
        jobs: at most so many runs side by side; None is as many as find room, see ``share``.

    Yields:
        The worker_pool.

    Raises:
        RecipeError: Ray cannot be reached, has not what the recipes ask for, or a node does not see the folder.
        DataError: the folder cannot be written.
    """
    # A link may lead elsewhere on another node, so that the path stays as it was given.
    folder = Path(os.path.abspath(runs))
    devices = {recipe.train.device for recipe in recipes}
    numbered = next((device for device in sorted(devices) if ":" in device), None)
    if numbered is not None:
        raise RecipeError(f"train.device: {numbered!r} is a GPU of one machine; on Ray, which chooses it, write 'cuda'")
    with _connected():
        nodes = _nodes()
        if "cuda" in devices and not any(node.gpus for node in nodes):
            raise RecipeError("train.device: 'cuda' is asked for, and no node of the Ray cluster has a GPU; use 'cpu'")
        each = share(nodes, gpus=not devices.isdisjoint(("auto", "cuda")), jobs=jobs)
        with _mark(folder) as mark:
            _check_sight(nodes, mark)
            workers = _Cluster(folder, mark, each, _describe(nodes, each))
            try:
                yield workers
            finally:
                workers.end()


def _describe(nodes: Sequence[Node], each: Share) -> str:
    count = _count(len(nodes), "node")
    has = f"{_count(sum(node.cpus for node in nodes), 'CPU')}, {_count(sum(node.gpus for node in nodes), 'GPU')}"
    gets = _count(each.cpus, "CPU") + (" and 1 GPU" if each.gpus else "")
    return f"Ray: {count}, {has}; up to {_count(each.jobs, 'run')} side by side, each with {gets}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# The connection.


@contextmanager
def _connected() -> Iterator[None]:
    """Connect to Ray, or start one; not where the program has done so itself."""
    if ray.is_initialized():
        yield
        return
    address = _address()
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        options |= {"num_cpus": pool.cores(), "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    try:
        with _silence():
            ray.init(address or "local", **options)
    except (OSError, RuntimeError, ValueError) as error:
        what = "start Ray here" if address is None else f"join the Ray cluster at {address}"
        # Newer ones ask for one by themselves, and those who join must say that they have it.
        token = "" if address is None else "; if it asks for a token, set RAY_AUTH_MODE=token"
        raise RecipeError(f"cannot {what} ({_one_line(error)}){token}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _address() -> str | None:
    """Return where a cluster is that answers; None where one must be started.

    A Ray that another program has started for itself is none: it ends with that program.
    """
    given = os.environ.get("RAY_ADDRESS", "")
    if given.startswith("ray://"):
        raise RecipeError(
            f"RAY_ADDRESS={given} is for Ray's client, which cannot follow runs; call this on a node of the cluster"
        )
    if given not in ("", "auto", "local"):
        if not _answers(given):
            raise RecipeError(f"no Ray cluster answers at RAY_ADDRESS={given}; start one with: ray start --head")
        return given
    # 'ray start' leaves a note of the cluster that this machine belongs to; Ray itself would wait for minutes for one
    # that is gone.
    note = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray", "ray_current_cluster")
    found = ""
    if given != "local":
        with suppress(OSError):
            found = note.read_text().strip()
    if found and _answers(found):
        return found
    if given == "auto":
        raise RecipeError("RAY_ADDRESS=auto, and this machine belongs to no Ray cluster; start one with: ray start")
    return None


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


@contextmanager
def _silence() -> Iterator[None]:
    """Tell a Ray that begins now to be silent, where nobody has told it otherwise."""
    ours = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _nodes() -> list[Node]:
    nodes = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            nodes.append(
                Node(node["NodeID"], node["NodeManagerHostname"], int(has.get("CPU", 0)), int(has.get("GPU", 0)))
            )
    return nodes


# The folder of runs.


@contextmanager
def _mark(folder: Path) -> Iterator[Path]:
    """Leave a file in the folder of runs by which the nodes can tell that theirs is the same; locked meanwhile."""
    fresh = not folder.exists()
    mark = folder / f".seen-by-all-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        file = mark.open("x")
    except OSError as error:
        raise DataError(
            f"cannot write to the folder of runs, {folder} ({error.strerror or error}); choose another with --runs"
        ) from error
    try:
        with file:
            lock(file, wait=False)
            yield mark
    finally:
        mark.unlink(missing_ok=True)
        if fresh:
            with suppress(OSError):  # runs are in it
                folder.rmdir()


def _sweep(folder: Path) -> None:
    """Remove the marks of programs that were killed: nobody has locked them."""
    for old in folder.glob(".seen-by-all-*"):
        with suppress(OSError), old.open("a") as file:
            if lock(file, wait=False):
                old.unlink()


class _Sight(NamedTuple):
    """What a node sees.

    Attributes:
        problem: what keeps it from training; None where nothing does.
        version: of this package.
    """

    problem: str | None
    version: str


def _look(mark: Path) -> _Sight:
    """Look at the folder of runs; runs on each node."""
    until = time.monotonic() + REACH
    while not mark.exists():
        if time.monotonic() > until:
            return _Sight(
                f"does not see the folder of runs, {mark.parent}; choose one with --runs that all nodes share",
                __version__,
            )
        time.sleep(0.2)
    try:
        with tempfile.TemporaryFile(dir=mark.parent):
            pass
        with mark.open("a") as file:
            ours = lock(file, wait=False)
    except OSError as error:
        reason = error.strerror or error
        return _Sight(f"cannot write to or lock files in the folder of runs, {mark.parent} ({reason})", __version__)
    if ours and os.name == "posix":
        return _Sight(
            f"does not see the locks of other nodes in the folder of runs, {mark.parent}; choose one with --runs whose "
            "file system has them",
            __version__,
        )
    return _Sight(None, __version__)


def _check_sight(nodes: Sequence[Node], mark: Path) -> None:
    """Refuse a cluster of which a node that lends something cannot train."""
    looked = ray.remote(_look)
    asked = {}
    for node in nodes:
        if node.cpus or node.gpus:
            there = NodeAffinitySchedulingStrategy(node.id, soft=False)
            asked[node] = looked.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(mark)
    for node, answer in asked.items():
        try:
            problem, version = ray.get(answer, timeout=LOOK)
        except GetTimeoutError:
            problem, version = f"did not answer within {LOOK:.0f} s", __version__
        except RayError as error:
            problem, version = f"cannot run svdistill ({_reason(error)})", __version__
        if problem is None and version != __version__:
            problem = f"has svdistill {version}, and this machine has {__version__}"
        if problem is not None:
            raise RecipeError(f"node {node.name} of the Ray cluster {problem}")


# The runs.


class _Cluster:
    """The workers of a cluster, seen from the program that asked for them."""

    def __init__(self, runs: Path, mark: Path, each: Share, description: str) -> None:
        self._runs, self._mark, self._each, self.description = runs, mark, each, description
        self._watch = ray.remote(_watch_over)
        self._streams: dict[Any, Task] = {}
        self._given: dict[Any, float] = {}  # when, of those of which nothing has been heard

    @property
    def jobs(self) -> int:
        return self._each.jobs

    @property
    def busy(self) -> int:
        return len(self._streams)

    def give(self, task: Task) -> None:
        gpus = int(self._each.gpus and task.recipe.train.device != "cpu")
        # There the folder of runs may be another from the point of view of the working folder.
        there = replace(task, key=str(self._runs / task.recipe.name / Path(task.key).name))
        stream = self._watch.options(
            num_cpus=self._each.cpus,
            num_gpus=gpus,
            num_returns="streaming",
            max_retries=0,
            scheduling_strategy="SPREAD",
        ).remote(there, self._runs, self._mark, os.getcwd(), pool.threads_of(self._each.cpus), bool(gpus))
        self._streams[stream] = task
        self._given[stream] = time.monotonic()

    def listen(self, timeout: float) -> Iterator[tuple[Task, Message]]:
        if not self._streams:
            time.sleep(timeout)
            return
        ray.wait(list(self._streams), num_returns=1, timeout=timeout, fetch_local=False)
        ready, _ = ray.wait(list(self._streams), num_returns=len(self._streams), timeout=0, fetch_local=False)
        for stream in ready:
            task, message = self._streams[stream], _next(stream)
            self._given.pop(stream, None)
            if message[0] in LAST_WORDS:
                del self._streams[stream]
            if message[0] == "done":
                _await_sight(Run(task.key))
            if message[0] != "arrived":
                yield task, message
        for stream, since in list(self._given.items()):
            if time.monotonic() - since > ROOM:
                del self._given[stream]
                yield (
                    self._streams[stream],
                    ("warned", f"no node of the Ray cluster has had room for it for {ROOM:.0f} s"),
                )

    def end(self) -> None:
        for stream in self._streams:
            with suppress(RayError):
                ray.cancel(stream, force=True)


def _next(stream: Any) -> Message:
    """Return what a run's stream brings next; what becomes of the stream itself is a message, too."""
    try:
        message: Message = ray.get(next(stream))
    except StopIteration:
        return "failed", "its worker on the Ray cluster ended without a word; the same command goes on with it", None
    except OutOfMemoryError:
        return "failed", "its node of the Ray cluster had no memory left; take fewer jobs (--jobs)", None
    except RayError as error:
        return "failed", f"its worker or node died ({_reason(error)}); the same command goes on with it", None
    return message


def _await_sight(run: Run) -> None:
    """Wait until this machine sees what another has written."""
    until = time.monotonic() + SIGHT
    while not run.finished and time.monotonic() < until:
        time.sleep(0.2)
        with suppress(OSError):  # to look into a folder makes a network file system ask again
            os.listdir(run.path)


def _watch_over(task: Task, runs: Path, mark: Path, working: str, threads: int, gpu: bool) -> Iterator[Message]:
    """Have one run trained by a process of this node, and pass on what it says; a task of Ray."""
    node = socket.gethostname()
    yield ("arrived",)
    # A node that has joined since the beginning has not been looked at.
    problem = _look(mark).problem
    if problem is not None:
        yield "failed", f"node {node} {problem}", None
        return
    with suppress(OSError):  # without it, relative paths lead nowhere, and their reader says so
        os.chdir(working)
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    began = False
    with pool.worker_pool(runs, jobs=1, threads=threads) as processes:
        processes.give(task)
        while processes.busy:
            for _, message in processes.listen(HEARTBEAT):
                began = began or message[0] == "started"
                yield _placed(message, node, began=began)


def _placed(message: Message, node: str, *, began: bool) -> Message:
    """Say of a failure on which node it was."""
    if message[0] not in ("failed", "broken"):
        return message
    kind, error, trace = message
    where = f"on node {node}" if began else f"on node {node}, which needs the data and teachers under the same paths"
    return kind, f"{error} ({where})", trace


def _reason(error: RayError) -> str:
    """Return the last line of an error, which names it; what is above is where it was."""
    cause = error.cause if isinstance(error, RayTaskError) and error.cause is not None else error
    text = _one_line(cause).partition(". ")[0]
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
