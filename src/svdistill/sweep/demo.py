"""The whole story on embedded data: two teachers, and for each a student alone and with each kind of help."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from svdistill.errors import OptionError
from svdistill.machine import usable_cores
from svdistill.methods import TEACHER
from svdistill.sweep.comparison import Comparison, Member
from svdistill.sweep.plan import plan
from svdistill.sweep.run import carry_out, open_pool
from svdistill.sweep.scheduler import Observer

AXIS = "teacher"  # the setting that tells the two parts apart


class Part(NamedTuple):
    """Students of one teacher.

    Attributes:
        recipe: of all of them.
        methods: what helps them.
        epochs: of each student, so that all of it takes about two minutes on two cores.
    """

    recipe: str
    methods: tuple[str, ...]
    epochs: int


PARTS = {
    "same digits": Part("regimes/digits-unlabelled", ("alone", "soft-target", "svd-recommended"), 100),
    # The outputs of this teacher say nothing about the student's classes, so they cannot be its targets.
    "other digits": Part("regimes/digits-other-classes", ("alone", "svd-recommended"), 75),
}


def demo(
    *,
    seeds: int = 3,
    runs: str | os.PathLike[str] = "runs/demo",
    epochs: int | None = None,
    observer: Observer | None = None,
) -> Comparison:
    """Train teachers on digits, then students of few labels, alone, with soft targets and with KD-SVD.

    One process of one thread on each core, which no run's result depends on.

    Args:
        seeds: each kind of student is trained with the seeds 0 to ``seeds`` − 1; it also chooses the labelled images.
        runs: folder of the runs; those that have finished are reused, interrupted ones resume.
        epochs: the number of epochs of every network; None = those that ``PARTS`` gives the students,
            and the teachers' recipe theirs. A small number gives a quick look.
        observer: is told what happens.

    Returns:
        The comparison, for ``report.demo``; runs that failed say why in it and do not stop the others.

    Raises:
        SvdistillError: as ``plan_demo``.
    """
    planned = plan_demo(seeds=seeds, runs=runs, epochs=epochs)
    with open_pool(planned, jobs=usable_cores()) as pool:
        carry_out(planned, pool, observer=observer)
    return planned


def plan_demo(*, seeds: int = 3, runs: str | os.PathLike[str] = "runs/demo", epochs: int | None = None) -> Comparison:
    """Find out which runs the demo consists of and which are there; writes nothing.

    Args:
        seeds: the number of runs of each kind of student.
        runs: folder of the runs.
        epochs: the number of epochs of every network; None = as for ``demo``.

    Returns:
        One comparison of both parts, told apart by the setting ``teacher``: ``same digits`` or ``other digits``.

    Raises:
        OptionError: fewer than one seed.
        SvdistillError: as ``plan``.
    """
    for name, value in (("seeds", seeds), ("epochs", epochs)):
        if value is not None and value < 1:
            raise OptionError(f"{name}: expected at least 1, got {value}")
    own = "train.first_stage_counts=false"  # a look of a few epochs must leave the main task some
    shorter = [] if epochs is None else [f"teacher.overrides.train.epochs={epochs}"]
    members: list[Member] = []
    for name, part in PARTS.items():
        overrides = [f"train.epochs={epochs or part.epochs}", own, *shorter]
        planned = plan(part.recipe, overrides=overrides, methods=part.methods, seeds=range(seeds), runs=runs)
        members += [replace(member, axes={**member.axes, AXIS: name}) for member in planned.members]
    return Comparison(
        recipe="demo",
        overrides=() if epochs is None else (f"train.epochs={epochs}", *shorter),
        methods=tuple(dict.fromkeys(method for part in PARTS.values() for method in part.methods)),
        seeds=tuple(range(seeds)),
        axes={AXIS: tuple(PARTS)},
        runs=Path(runs),
        members=_in_order(members),
    )


def _in_order(members: Sequence[Member]) -> list[Member]:
    """Put the teachers first, then the students seed by seed: an interrupted demo compares like with like."""
    return sorted(members, key=lambda member: (member.method != TEACHER, member.seed))
