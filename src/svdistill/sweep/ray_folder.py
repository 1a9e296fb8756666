"""Whether all nodes of a Ray cluster see the same folder of runs, its locks, and the same version of this package.

Imported only where Ray is asked for.
"""

import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from svdistill.atomic import lock
from svdistill.errors import DataError, RecipeError
from svdistill.sweep.ray_cluster import Node, reason
from svdistill.version import __version__

LOOK = 120.0  # seconds that a node has to look at the folder of runs, the start of a process included
APPEAR = 5.0  # seconds until a file that another node has just made must be seen


class View(NamedTuple):
    """What a node sees.

    Attributes:
        problem: what keeps it from training, in words that follow its name; None where nothing does.
        version: of this package.
    """

    problem: str | None
    version: str = __version__


@contextmanager
def marked(folder: Path) -> Iterator[Path]:
    """Leave a locked file in the folder of runs until the block ends, by which nodes can tell that theirs is the same.

    Args:
        folder: the folder of runs; it is made if need be, and removed again if it stays empty.

    Yields:
        The file.

    Raises:
        DataError: the folder cannot be written.
    """
    fresh = not folder.exists()
    mark = folder / f".seen-by-all-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_old_marks(folder)
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
            with suppress(OSError):  # there are runs in it
                folder.rmdir()


def _remove_old_marks(folder: Path) -> None:
    """Remove the marks of programs that were killed: nobody has locked them."""
    for old in folder.glob(".seen-by-all-*"):
        with suppress(OSError), old.open("a") as file:
            if lock(file, wait=False):
                old.unlink()


def look(mark: Path) -> View:
    """Look at the folder of runs from this node.

    Args:
        mark: the file of :func:`marked`, which another node holds.
    """
    until = time.monotonic() + APPEAR
    while not mark.exists():
        if time.monotonic() > until:
            return View(f"does not see the folder of runs, {mark.parent}; choose one with --runs that all nodes share")
        time.sleep(0.2)
    try:
        with tempfile.TemporaryFile(dir=mark.parent):
            pass
        with mark.open("a") as file:
            ours = lock(file, wait=False)
    except OSError as error:
        why = error.strerror or error
        return View(f"cannot write to or lock files in the folder of runs, {mark.parent} ({why})")
    if ours and os.name == "posix":
        return View(
            f"does not see the locks of other nodes in the folder of runs, {mark.parent}; choose one with --runs whose "
            "file system has them"
        )
    return View(None)


def check_views(nodes: Sequence[Node], mark: Path) -> None:
    """Refuse a cluster with a node that lends something and cannot train.

    Args:
        nodes: the cluster.
        mark: the file of :func:`marked`.

    Raises:
        RecipeError: a node does not see the folder of runs or its locks, or has another version of this package.
    """
    remote = ray.remote(look)
    asked = {}
    for node in nodes:
        if node.cpus or node.gpus:
            there = NodeAffinitySchedulingStrategy(node.id, soft=False)
            asked[node] = remote.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(mark)
    for node, answer in asked.items():
        try:
            problem, version = ray.get(answer, timeout=LOOK)
        except GetTimeoutError:
            problem, version = View(f"did not answer within {LOOK:.0f} s")
        except RayError as error:
            problem, version = View(f"cannot run svdistill ({reason(error)})")
        if problem is None and version != __version__:
            problem = f"has svdistill {version}, and this machine has {__version__}"
        if problem is not None:
            raise RecipeError(f"node {node.name} of the Ray cluster {problem}")
