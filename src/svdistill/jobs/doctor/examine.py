"""The examination: images, teacher, taps, a few steps, and what a run takes."""

import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from svdistill import training
from svdistill.errors import SvdistillWarning, one_line
from svdistill.jobs.doctor import remarks
from svdistill.jobs.doctor.findings import CostFindings, Diagnosis, Remark, StageFindings, TeacherFindings
from svdistill.jobs.doctor.images import look_at_images
from svdistill.jobs.doctor.networks import look_at_taps, look_at_teacher
from svdistill.jobs.doctor.trial import Trial, try_steps
from svdistill.jobs.run import Run
from svdistill.jobs.train import assemble, check_made_with, launch, prepared
from svdistill.recipes import Recipe, build, outside, weights
from svdistill.recipes.images import Images

_GRAVEST = ("wrong", "look", "note")
_CHECKPOINTS = 3  # the last, the one before it, and the best


def examine(
    recipe: str | Path | Recipe,
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    method: str | None = None,
    runs: str | os.PathLike[str] = "runs",
    phase: Callable[[str], None] = lambda _: None,
) -> Diagnosis:
    """Look at what a recipe would meet, in about a minute, before a long run; nothing is written to the runs.

    Images are compared with each other by content, the teacher is measured, both networks' maps are looked at, and
    some real steps of each stage are taken on weights that are thrown away.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, or a validated recipe.
        overrides: ``key=value`` texts or nested settings that replace those of the recipe; none for a validated recipe.
        method: train the student by this method instead of the recipe's, see ``recipes.load``.
        runs: folder of all runs, where a teacher is found that has been trained.
        phase: is told what is being looked at.

    Returns:
        What was found.

    Raises:
        SvdistillError: what ``train`` would raise before its work starts.
    """
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", SvdistillWarning)
        phase("reading recipe and images")
        line, images = prepared(recipe, overrides, method)
        student, own, runs = line[0], images[0], Path(runs)
        check_made_with(line, images, runs, fresh=False)
        phase("comparing the images with each other")
        pictures = look_at_images(student, own)
        engine = launch(student)
        phase("looking at the teacher and the taps")
        teacher, network = _teacher(line, images, runs, engine)
        distiller = assemble(student, own, network, engine)
        distiller.to(engine.device)
        trained = teacher is not None and teacher.file is not None
        taps = look_at_taps(student, distiller, own, trained=trained, engine=engine)
        phase("taking a few steps")
        trial = try_steps(student, distiller, own.to(engine.device), engine)
        memory = _memory(engine)
        phase("timing the teachers that are yet to be trained")
        cost = _cost(student, trial, _teachers(line, images, runs), memory, engine, runs)
    if not trained:  # a ratio to the gradient of an untrained teacher says nothing
        trial = trial._replace(stages=[_without_gradients(stage) for stage in trial.stages])
    found = [
        *(Remark("look", "steps", one_line(str(w.message)), "") for w in said if _ours(w)),
        *remarks.on_images(pictures, student),
        *(remarks.on_teacher(teacher, student) if teacher is not None else ()),
        *remarks.on_taps(taps, student),
        *remarks.on_stages(trial.stages, student, classes=pictures.classes),
        *remarks.on_cost(cost, student),
    ]
    return Diagnosis(
        recipe=student.name,
        method=student.method,
        seed=student.seed,
        images=pictures,
        teacher=teacher,
        taps=taps,
        stages=trial.stages,
        cost=cost,
        remarks=sorted(found, key=lambda remark: _GRAVEST.index(remark.gravity)),
        seconds=time.monotonic() - began,
    )


def _ours(warning: warnings.WarningMessage) -> bool:
    return issubclass(warning.category, SvdistillWarning)


def _teacher(
    line: Sequence[Recipe], images: Sequence[Images], runs: Path, engine: training.Engine
) -> tuple[TeacherFindings | None, nn.Module | None]:
    """Return what is found of the teacher, and its network: with fresh weights where it is yet to be trained."""
    settings, allowed = line[0].teacher, line[0].allow_code
    if settings is None:
        return None, None
    if len(line) > 1:
        run = Run.of(line[1], runs)
        if not run.finished:
            fresh = build.model(line[1], images[1]).eval()
            return TeacherFindings(name=line[1].name, file=None), fresh
        name, file, own = line[1].name, run.student_file, images[1]
    elif settings.model is not None:
        with TemporaryDirectory() as folder:  # nothing is written to the runs
            file = outside.keep(line[0], images[0], Path(folder))
            network = weights.load_teacher(file, images[0], allow_code=allowed).to(engine.device)
            name = settings.model.name
            found = look_at_teacher(name, file, network, student=images[0], own=None, engine=engine)
        return replace(found, file=name), network
    else:
        name, file, own = str(settings.checkpoint), Path(str(settings.checkpoint)), None
    network = weights.load_teacher(file, images[0], allow_code=allowed).to(engine.device)
    return look_at_teacher(name, file, network, student=images[0], own=own, engine=engine, allow_code=allowed), network


def _teachers(line: Sequence[Recipe], images: Sequence[Images], runs: Path) -> float:
    """Return how many seconds it takes to train the teachers that are not there."""
    total = 0.0
    for number in range(1, len(line)):
        recipe, own = line[number], images[number]
        if Run.of(recipe, runs).finished:
            break
        engine = launch(recipe)
        parent = None if number + 1 == len(line) else build.model(line[number + 1], images[number + 1]).eval()
        total += try_steps(recipe, assemble(recipe, own, parent, engine), own.to(engine.device), engine).seconds
    return total


def _cost(
    recipe: Recipe,
    trial: Trial,
    teacher_seconds: float,
    memory: tuple[int | None, int | None],
    engine: training.Engine,
    runs: Path,
) -> CostFindings:
    there = next(folder for folder in (runs, *runs.absolute().parents) if folder.exists())
    return CostFindings(
        device=engine.device.type,
        precision=recipe.train.precision,
        seconds=trial.seconds,
        teacher_seconds=teacher_seconds,
        memory=memory[0],
        memory_there=memory[1],
        disk=_CHECKPOINTS * trial.checkpoint_bytes,
        disk_free=shutil.disk_usage(there).free,
    )


def _memory(engine: training.Engine) -> tuple[int | None, int | None]:
    """Return how many bytes were taken at most, and how many there are: of the GPU, or of this process."""
    if engine.device.type == "cuda":
        return torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(engine.device).total_memory
    try:
        import resource
    except ImportError:  # not on Windows
        return None, None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )


def _without_gradients(stage: StageFindings) -> StageFindings:
    return replace(stage, ratio=None, clipped=None, passed=None)
