"""The whole story on embedded data: a teacher, and a student alone and with each kind of help, over several seeds."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from svdistill.errors import OptionError
from svdistill.jobs.callbacks import Callbacks
from svdistill.jobs.run import Run
from svdistill.jobs.train import train
from svdistill.recipes import load

TEACHER = "digits/teacher"
STUDENTS = {"alone": "digits/student", "KD-SVD": "digits/svd", "soft targets": "digits/soft-target"}


class Demo(NamedTuple):
    """The runs of the demo.

    Attributes:
        teacher: the teacher's run.
        students: for each method its runs, one a seed.
    """

    teacher: Run
    students: Mapping[str, Sequence[Run]]


def demo(
    *,
    seeds: int = 3,
    runs: str | os.PathLike[str] = "runs/demo",
    epochs: int | None = None,
    callbacks: Callbacks | None = None,
) -> Demo:
    """Train a teacher on digits, then students alone, with KD-SVD and with soft targets.

    Args:
        seeds: each kind of student is trained with the seeds 0 to ``seeds`` − 1; it also chooses the labelled images.
        runs: folder of the runs; those that have finished are reused.
        epochs: the number of epochs of every network; None = those of its recipe. A small number gives a quick look.
        callbacks: is told what happens.

    Returns:
        The runs.

    Raises:
        OptionError: fewer than one seed.
        SvdistillError: as ``train``.
    """
    if seeds < 1:
        raise OptionError(f"seeds: expected at least 1, got {seeds}")
    shorter = [] if epochs is None else [f"train.epochs={epochs}"]
    teacher = train(TEACHER, overrides=shorter, runs=runs, callbacks=callbacks)
    students: dict[str, list[Run]] = {name: [] for name in STUDENTS}
    # Seed by seed, so that what is there after an interruption compares like with like.
    for seed in range(seeds):
        for name, recipe in STUDENTS.items():
            overrides = [f"seed={seed}", *shorter]
            if shorter and load(recipe).teacher is not None:
                overrides.append(f"teacher.overrides.train.epochs={epochs}")
            students[name].append(train(recipe, overrides=overrides, runs=runs, callbacks=callbacks))
    return Demo(teacher, students)
