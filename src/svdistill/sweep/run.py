"""A comparison is carried out: its runs are planned and checked as a whole, then trained side by side."""

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from svdistill.errors import OptionError, RecipeError, nearest
from svdistill.sweep.comparison import Comparison, Member
from svdistill.sweep.plan import plan
from svdistill.sweep.pool import local_pool
from svdistill.sweep.scheduler import NoObserver, Observer, Outcome, Task, WorkerPool, run_tasks

BACKENDS = ("local", "ray")


def compare(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    runs: str | os.PathLike[str] = "runs",
    on: str = "local",
    jobs: int | None = None,
    observer: Observer | None = None,
) -> Comparison:
    """Train a recipe's student by several methods, over several seeds and settings, and gather the results.

    Args:
        recipe: name of a shipped recipe or path of a YAML file; it names the teacher.
        overrides: ``key=value`` texts; ``key=[a,b]`` makes a setting vary, unless it is one that takes a list.
        methods: as ``recipes.methods`` names them; None = those of the standard comparison.
        seeds: of the students; the teacher keeps its own.
        runs: folder of all runs; those that have finished are reused, interrupted ones resume.
        on: the backend that trains them, see ``open_pool``.
        jobs: the number of runs side by side, see ``open_pool``.
        observer: is told what happens.

    Returns:
        The comparison; runs that failed say why in it and do not stop the others.

    Raises:
        SvdistillError: as ``plan`` and ``open_pool``.
    """
    check_backend(on)
    comparison = plan(recipe, overrides=overrides, methods=methods, seeds=seeds, runs=runs)
    with open_pool(comparison, on=on, jobs=jobs) as pool:
        carry_out(comparison, pool, observer=observer)
    return comparison


def check_backend(name: str) -> None:
    """Refuse a backend that cannot be used, before any work.

    Args:
        name: one of ``BACKENDS``.

    Raises:
        OptionError: there is no such backend.
        RecipeError: what it needs is not installed.
    """
    if name not in BACKENDS:
        raise OptionError(f"no backend {name!r}{nearest(name, BACKENDS, limit=len(BACKENDS))}")
    if name == "ray" and importlib.util.find_spec("ray") is None:
        raise RecipeError("training on Ray needs the package ray; install it with: pip install 'svdistill[ray]'")


@contextmanager
def open_pool(comparison: Comparison, *, on: str = "local", jobs: int | None = None) -> Iterator[WorkerPool]:
    """Open the worker pool that trains what is missing of a comparison; it is closed when the block ends.

    Args:
        comparison: what ``plan`` returned.
        on: the backend: ``local``, processes of this machine, or ``ray``, a Ray cluster: the one at ``RAY_ADDRESS``, or
            the one that this machine belongs to, or one that is made of this machine and ends with the block. The
            folder of runs must be the same on all its nodes.
        jobs: the largest number of runs side by side; None is one on this machine, and on Ray as many as it has GPUs,
            or CPUs where no recipe wants a GPU or there is none. On this machine's GPUs as many of them as there is
            memory for.

    Yields:
        The pool, for ``carry_out``.

    Raises:
        OptionError: no such backend, or fewer than one job.
        RecipeError: Ray is not installed, cannot be reached or lacks what the recipes ask for, or its nodes do not see
            the folder of runs.
    """
    check_backend(on)
    tasks = _tasks(comparison)
    # Where nothing is to be trained, nobody waits for a cluster.
    if on == "local" or not tasks:
        with local_pool(comparison.runs, jobs=1 if jobs is None else jobs) as pool:
            yield pool
        return
    from svdistill.sweep.ray import ray_pool

    with ray_pool(comparison.runs, [task.recipe for task in tasks], jobs=jobs) as pool:
        yield pool


def carry_out(comparison: Comparison, pool: WorkerPool, *, observer: Observer | None = None) -> None:
    """Train what is missing of a planned comparison, and keep its members' states up to date.

    Args:
        comparison: what ``plan`` returned.
        pool: trains it, see ``open_pool``.
        observer: is told what happens, each time after the comparison's members have been brought up to date.
    """
    run_tasks(_tasks(comparison), pool, observer=_Bookkeeper(comparison, observer or NoObserver()))


def _tasks(comparison: Comparison) -> list[Task]:
    missing = {member.key: member for member in comparison.members if member.state not in ("finished", "unneeded")}
    tasks = []
    for member in missing.values():
        needs = tuple(teacher for teacher in member.taught_by(comparison.runs) if teacher in missing)
        tasks.append(Task(member.key, member.recipe, needs))
    return tasks


class _Bookkeeper(Observer):
    """Keeps a comparison's members up to date, then tells another observer."""

    def __init__(self, comparison: Comparison, observer: Observer) -> None:
        self._members: dict[str, list[Member]] = {}
        for member in comparison.members:
            self._members.setdefault(member.key, []).append(member)
        self._observer = observer

    def started(self, task: Task, *, epochs: int, steps: int, done_epochs: int) -> None:
        for member in self._members[task.key]:
            member.state = "running"
        self._observer.started(task, epochs=epochs, steps=steps, done_epochs=done_epochs)

    def stepped(self, task: Task, *, done_steps: int, loss: float) -> None:
        self._observer.stepped(task, done_steps=done_steps, loss=loss)

    def measured(self, task: Task, metrics: Mapping[str, Any]) -> None:
        self._observer.measured(task, metrics)

    def ended(self, task: Task, outcome: Outcome) -> None:
        for member in self._members[task.key]:
            member.settle(outcome)
        error = self._members[task.key][0].error  # also of a summary that cannot be read
        self._observer.ended(task, outcome._replace(error=error))

    def postponed(self, task: Task) -> None:
        self._observer.postponed(task)

    def crowded(self, task: Task, *, runs: int, need: int) -> None:
        self._observer.crowded(task, runs=runs, need=need)

    def warned(self, task: Task, text: str) -> None:
        self._observer.warned(task, text)
