"""A Ray cluster: how it is found or started, which nodes it has, and what each run gets of them.

Imported only where Ray is asked for.
"""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from svdistill.errors import OptionError, RecipeError, one_line
from svdistill.machine import usable_cores

OBJECT_STORE = 100 * 2**20  # bytes of shared memory of a Ray that is started here; only messages pass through it
REACH = 5.0  # seconds after which an address counts as unreachable

# Ray must be silent: it shares a terminal with the table of runs.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_PROMPT_ENABLED": "0"}


class Node(NamedTuple):
    """A machine of the cluster.

    Attributes:
        id: Ray's name for it.
        name: the host's name.
        cpus: the number of processor cores that it lends.
        gpus: the number of GPUs that it lends.
    """

    id: str
    name: str
    cpus: int
    gpus: int


@dataclass(frozen=True)
class Allotment:
    """What each run gets of a cluster.

    Attributes:
        jobs: the largest number of runs side by side.
        cpus: processor cores of each run.
        gpus: whether those runs that want a GPU get one of their own.
    """

    jobs: int
    cpus: int
    gpus: bool


def allot(nodes: Sequence[Node], *, gpus: bool, jobs: int | None) -> Allotment:
    """Divide a cluster among runs, by what it has in all and not by what is free: the same command, the same allotment.

    With GPUs a run gets one, and the cores of its node that come to each GPU. Without, it gets one core, or as many as
    there are for each of ``jobs`` runs; a run never spans two nodes.

    Args:
        nodes: the cluster.
        gpus: whether a run wants a GPU.
        jobs: the largest number of runs side by side; None is as many as there is room for.

    Returns:
        The allotment; with GPUs only where there are any.

    Raises:
        OptionError: fewer than one job.
        RecipeError: no node lends anything.
    """
    if jobs is not None and jobs < 1:
        raise OptionError(f"jobs: expected at least 1, got {jobs}")
    lending = [node for node in nodes if node.gpus] if gpus else []
    if lending:
        room = sum(node.gpus for node in lending)
        return Allotment(min(room, jobs or room), min(node.cpus // node.gpus for node in lending), True)
    room = sum(node.cpus for node in nodes)
    if room < 1:
        raise RecipeError("the nodes of the Ray cluster lend no CPUs; start them with: ray start --num-cpus N")
    wanted = min(room, jobs or room)
    most = max(node.cpus for node in nodes)
    cpus = next(cpus for cpus in range(most, 0, -1) if sum(node.cpus // cpus for node in nodes) >= wanted)
    return Allotment(wanted, cpus, False)


def describe(nodes: Sequence[Node], allotment: Allotment) -> str:
    """Return one line on a cluster and what each run gets of it."""
    count = _count(len(nodes), "node")
    has = f"{_count(sum(node.cpus for node in nodes), 'CPU')}, {_count(sum(node.gpus for node in nodes), 'GPU')}"
    gets = _count(allotment.cpus, "CPU") + (" and 1 GPU" if allotment.gpus else "")
    return f"Ray: {count}, {has}; up to {_count(allotment.jobs, 'run')} side by side, each with {gets}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@contextmanager
def connected() -> Iterator[None]:
    """Connect to Ray, or start one, until the block ends; where the program has done so itself, that one is used.

    Raises:
        RecipeError: there is no cluster where one is said to be, or Ray cannot be joined or started.
    """
    if ray.is_initialized():
        yield
        return
    address = find_address()
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        options |= {"num_cpus": usable_cores(), "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    try:
        with _silence():
            ray.init(address or "local", **options)
    except (OSError, RuntimeError, ValueError) as error:
        what = "start Ray here" if address is None else f"join the Ray cluster at {address}"
        # Newer versions ask for one by default, and whoever joins must say that they have it.
        token = "" if address is None else "; if it asks for a token, set RAY_AUTH_MODE=token"
        raise RecipeError(f"cannot {what} ({one_line(error)}){token}") from error
    try:
        yield
    finally:
        ray.shutdown()


def find_address() -> str | None:
    """Return the address of a cluster that answers; None where one must be started.

    A Ray that another program has started for itself does not count: it ends with that program.

    Raises:
        RecipeError: ``RAY_ADDRESS`` names a cluster that does not answer, or one that cannot be used.
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
    """Ask a Ray that is started in this block to be silent, unless the user has set it otherwise."""
    ours = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def living_nodes() -> list[Node]:
    """Return the nodes of the cluster that this program is connected to."""
    nodes = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            nodes.append(
                Node(node["NodeID"], node["NodeManagerHostname"], int(has.get("CPU", 0)), int(has.get("GPU", 0)))
            )
    return nodes


def reason(error: RayError) -> str:
    """Return the first sentence of an error of Ray, in one line that begins with the error's name."""
    cause = error.cause if isinstance(error, RayTaskError) and error.cause is not None else error
    text = one_line(cause).partition(". ")[0]
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__
