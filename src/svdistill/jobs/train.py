"""Train one network, alone or from a teacher, which is trained first where needed."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from warnings import warn

import torch
from torch import nn

from svdistill import nets, recipes, training
from svdistill.distiller import Distiller
from svdistill.errors import DataError, OptionError, RecipeError, SvdistillWarning
from svdistill.jobs import inspection
from svdistill.jobs.callbacks import Callbacks, NoCallbacks
from svdistill.jobs.diagnostics import Tapped, write_diagnostics
from svdistill.jobs.run import BusyError, Run, fingerprint, own_code, warn_of_code
from svdistill.jobs.teacher_cache import Provided, provide
from svdistill.recipes import Recipe, build, outside, weights
from svdistill.recipes.check import check_line, check_parts
from svdistill.recipes.images import Images, Loaded, load_images, noise
from svdistill.records import ACCURACY, VALIDATION_ACCURACY
from svdistill.teacher_cache import TeacherCache
from svdistill.trackers import Tracking

_ASK_AGAIN_SECONDS = 1.0


def train(
    recipe: str | Path | Recipe,
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    method: str | None = None,
    runs: str | os.PathLike[str] = "runs",
    fresh: bool = False,
    callbacks: Callbacks | None = None,
) -> Run:
    """Train the network of a recipe, or find the run that has done so.

    The run lies in ``<runs>/<recipe name>/<seed>-<digest of the settings that matter>``. A finished run is returned as
    it is, an interrupted one resumes after its last checkpoint, on any number of processes, and so does one that has
    lost a file since it finished, or in which one has changed. A teacher named as a recipe
    is trained first, once, and found again the next time; if another process is training it, its end is awaited.
    Everything that can be wrong in the settings is found before the first file is written.

    Where torchrun or Slurm has started several processes, all of them call this, and it returns in all when the run has
    ended; see ``docs/scale.md``. Rank zero alone writes, so all must see its folder.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, or a validated recipe.
        overrides: ``key=value`` texts or nested settings that replace those of the recipe; none for a validated recipe.
        method: train the student by this method instead of the recipe's, see ``recipes.load``.
        runs: folder of all runs.
        fresh: rename a run that is there, and train again; the teacher is kept.
        callbacks: is told what happens.

    Returns:
        The finished run.

    Raises:
        RecipeError: a wrong setting, or taps that do not fit.
        DataError: the images are missing or damaged, or another process trains this run.
        CheckpointError: a teacher's file or a checkpoint is damaged or belongs to another model.
        TrainingError: the loss is no longer finite, or another process of the run has ended.
    """
    line, images = prepared(recipe, overrides, method)
    processes = training.Processes(launch(line[0]))
    callbacks = (callbacks if processes.is_rank_zero else None) or NoCallbacks()
    return _train_line(line, images, Path(runs), processes, callbacks=callbacks, fresh=fresh)


def prepared(
    recipe: str | Path | Recipe, overrides: Sequence[str] | Mapping[str, Any], method: str | None
) -> tuple[tuple[Recipe, ...], list[Images]]:
    """Read a recipe and those of its teachers, load their images, and check that all of it fits together.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, or a validated recipe.
        overrides: ``key=value`` texts or nested settings that replace those of the recipe.
        method: train the student by this method instead of the recipe's.

    Returns:
        The recipes, the student's first, and the images of each, on the CPU.

    Raises:
        SvdistillError: as ``train``, before work starts.
    """
    if isinstance(recipe, Recipe) and (overrides or method is not None):
        raise RecipeError("overrides: a validated recipe takes none; give them to recipes.load, or name the recipe")
    settings = recipe if isinstance(recipe, Recipe) else recipes.load(recipe, overrides, method=method)
    line = recipes.lineage(settings)
    processes = training.Processes(launch(settings))
    for member in line:
        check_parts(member, processes=processes.world)
    loaded: Loaded = {}
    images = processes.rank_zero_first(lambda: [load_images(member, loaded=loaded) for member in line])
    # Rank zero first once more: the others find the digests of files that it keeps.
    identities = processes.rank_zero_first(lambda: [fingerprint(own) for own in images])
    processes.check_equal(identities, what="images")
    return processes.on_all_ranks(lambda: check_line(line, images, processes=processes.world)), images


def _train_line(
    line: Sequence[Recipe],
    images: Sequence[Images],
    runs: Path,
    processes: training.Processes,
    *,
    callbacks: Callbacks,
    fresh: bool = False,
    waiting: Callable[[], None] | None = None,
) -> Run:
    """Train the first recipe of a line; the others are its teacher, its teacher's teacher and so on."""
    recipe, own = line[0], images[0]
    run = Run.of(recipe, runs)
    done = not fresh and processes.on_rank_zero(lambda: run.whole)
    with nullcontext() if done else _locked(run, processes, waiting=waiting):
        processes.on_rank_zero(lambda: check_made_with(line, images, runs, fresh=fresh))
        # Read again: another process may have finished the run while its end was awaited.
        if done or (not fresh and processes.on_rank_zero(lambda: _is_done(run))):
            callbacks.found(recipe, run)
            return run
        if fresh and (moved := processes.on_rank_zero(run.set_aside)) is not None:
            callbacks.moved(run.path, moved)
        teacher = teacher_file(line, images, runs, processes, callbacks=callbacks)
        _train_one(recipe, own, run, runs=runs, teacher_file=teacher, callbacks=callbacks)
    return run


def check_made_with(line: Sequence[Recipe], images: Sequence[Images], runs: Path, *, fresh: bool) -> None:
    """Make sure that a run, where it is not made afresh, and its teachers' are of these images and this code."""
    there = [Run.of(member, runs) for member in line]
    for member, run, own, teacher in [*zip(line, there, images, (*there[1:], None), strict=True)][fresh:]:
        run.check_made_with(own, teacher)
        if (changed := run.check_code(own_code(member))) is not None:
            warn_of_code(f"the run {run.path} was", changed, remedy="train it afresh (--fresh)")


def _is_done(run: Run) -> bool:
    """Whether a run has ended and is whole; one that has ended and is not is opened again, to be finished once more.

    Raises:
        DataError: nothing is left from which it could be.
    """
    if not run.record.ended:
        return False
    damage = run.record.damage()
    if not damage:
        return True
    what = "; ".join(f"{name} {wrong}" for name, wrong in damage.items())
    again = run.record.can_finish_again(damage)
    if not (again and training.has_checkpoint(run.record)):
        why = "and no checkpoint is left from which that could be made again" if again else "which no checkpoint holds"
        raise DataError(
            f"the run {run.path} had finished, but {what}, {why}; restore it, or train afresh (--fresh), which keeps "
            "the folder"
        )
    warn(
        f"the run {run.path} had finished, but {what}; it is finished again from its last checkpoint",
        SvdistillWarning,
        stacklevel=2,
    )
    run.record.reopen()
    return False


@contextmanager
def _locked(run: Run, processes: training.Processes, *, waiting: Callable[[], None] | None) -> Iterator[None]:
    """Let rank zero lock the run; where another training has it, all our processes wait."""
    if processes.world == 1:
        with run.locked(waiting=waiting):
            yield
        return
    with ExitStack() as stack:

        def lock() -> bool:
            try:
                stack.enter_context(run.locked())
            except BusyError:
                if waiting is None:
                    raise
                return False
            return True

        told = False
        # Asked again and again: somebody who waits in silence is taken for dead after a while.
        while not processes.on_rank_zero(lock):
            if waiting is not None and not told:
                waiting()
                told = True
            time.sleep(_ASK_AGAIN_SECONDS)
        yield


def teacher_file(
    line: Sequence[Recipe],
    images: Sequence[Images],
    runs: Path,
    processes: training.Processes,
    *,
    callbacks: Callbacks,
) -> Path | None:
    """Return the weights of the teacher of the first recipe of a line, trained where need be; None without a teacher.

    Args:
        line: the recipe, its teacher's, and so on.
        images: of each.
        runs: folder of all runs.
        processes: those that train it together.
        callbacks: is told what happens.
    """
    if len(line) > 1:
        parent = Run.of(line[1], runs)
        waits = partial(callbacks.waiting, line[1], parent)
        return _train_line(line[1:], images[1:], runs, processes, callbacks=callbacks, waiting=waits).student_file
    teacher = line[0].teacher
    if teacher is not None and teacher.model is not None:
        return Path(processes.on_rank_zero(lambda: str(outside.keep(line[0], images[0], runs / outside.FOLDER))))
    return None if teacher is None else Path(str(teacher.checkpoint))


def _train_one(
    recipe: Recipe, images: Images, run: Run, *, runs: Path, teacher_file: Path | None, callbacks: Callbacks
) -> None:
    """Train one network whose teacher is ready, and write down what came of it."""
    engine = launch(recipe)
    processes = training.Processes(engine)
    stored = None
    if teacher_file is not None and recipe.teacher is not None and recipe.teacher.stored:
        look = partial(provide, recipe, images, runs, teacher_file=teacher_file, engine=engine)
        stored = _stored(look, processes, callbacks)
    distiller = processes.on_all_ranks(
        lambda: assemble(recipe, images, _source(recipe, images, teacher_file, stored), engine)
    )
    on_device = images.to(engine.device)
    plan = build.training_plan(recipe, distiller, on_device, shard=processes.shard)
    processes.on_rank_zero(lambda: _begin(recipe, images, run, teacher_file, distiller.student))
    processes.on_all_ranks(lambda: _see(run))
    if recipe.found is not None:
        callbacks.taps(recipe, list(zip(recipe.found.student, recipe.found.teacher, strict=True)))
    if distiller.left_out:
        callbacks.left_out(recipe, distiller.left_out)
    # A sharded teacher runs in all processes or in none; what is stored of one was looked at when it was stored.
    if not run.record.last.exists() and not engine.global_rank:
        inspection.warn_of_slow_norms(recipe.name, distiller.student, plan.epochs * len(plan.batches))
        if not _is_sharded(recipe, distiller, engine):
            inspection.warn_of(recipe, on_device, distiller, teacher_file=teacher_file, engine=engine)
    logged = recipe.train.log if processes.is_rank_zero else ()
    watching = callbacks.training(recipe, run)
    with Tracking(logged, run.record, method=recipe.method, progress=watching) as tracking:
        with build.recomputing(recipe, distiller.student):
            training.fit(engine, plan, run.record, progress=tracking)
        processes.on_rank_zero(lambda: _finish(recipe, run, distiller, on_device, engine))
        tracking.hand_in()


def _stored(look: Callable[..., Provided], processes: training.Processes, callbacks: Callbacks) -> TeacherCache:
    """Return what is stored of the teacher; where there are several processes, rank zero stores it for all."""
    if processes.world > 1:
        processes.on_rank_zero(lambda: look(callbacks=callbacks) and None)
        callbacks = NoCallbacks()
    return processes.on_all_ranks(lambda: look(callbacks=callbacks).cache)


def _begin(recipe: Recipe, images: Images, run: Run, teacher_file: Path | None, student: nn.Module) -> None:
    """Write down what a run is made with, or make sure that one that was begun resumes with the same."""
    run.record.clear_leftovers()
    # What lies on a hub under a name, and what code makes, may be other weights tomorrow.
    moving = recipe.model.pretrained or nets.foreign.is_code(recipe.model.name)
    begun = weights.checksum(student) if moving else None
    there = run.record.exists
    if there:
        run.check_teacher(teacher_file)
    if there and run.record.resumable:
        run.check_weights(begun)
    else:  # the code of one that nothing is left of may have been mended since
        run.note_data(images, teacher_file, weights=begun, sources=own_code(recipe))
    if not there:
        run.record.create(run.path, recipe.to_dict())
    elif not run.has_its_recipe:
        warn(f"the recipe in {run.path} was damaged and is written again", SvdistillWarning, stacklevel=2)
        run.record.rewrite_recipe(recipe.to_dict())


def _see(run: Run) -> None:
    """Make sure that this process sees what rank zero has written."""
    if not run.record.exists:
        raise DataError(
            f"{socket.gethostname()} does not see {run.path}, which rank zero has made; let --runs be a folder "
            "that all machines share"
        )


def launch(recipe: Recipe) -> training.Engine:
    """Return device and precision of a recipe, with all random numbers seeded."""
    try:
        return training.launch(device=recipe.train.device, precision=recipe.train.precision, seed=recipe.seed)
    except (OptionError, RecipeError) as error:  # the second where the launcher's environment is wrong
        raise RecipeError(f"train.device: {error}") from error


def _source(
    recipe: Recipe, images: Images, teacher_file: Path | None, stored: TeacherCache | None
) -> nn.Module | TeacherCache | None:
    """Return what is stored of the teacher, else the teacher itself; None without one."""
    if stored is not None or teacher_file is None:
        return stored
    return weights.load_teacher(teacher_file, images, allow_code=recipe.allow_code)


def assemble(
    recipe: Recipe, images: Images, teacher: nn.Module | TeacherCache | None, engine: training.Engine
) -> Distiller:
    """Make student and losses, and adapters where the widths differ from the teacher's; put all of them together.

    Args:
        recipe: the student's.
        images: the student's.
        teacher: the network, or what is stored of it; None trains the student alone.
        engine: says whether the teacher is divided among processes.

    Returns:
        The distiller, prepared.
    """
    student = build.model(recipe, images)
    distiller = build.distiller(recipe, student, teacher, teacher_recipe=recipes.teacher_of(recipe))
    distiller.prepare(noise(images))
    if _is_sharded(recipe, distiller, engine):
        assert distiller.teacher is not None
        training.shard_parameters(engine, distiller.teacher, noise(images))
        if recipe.train.channels_last:  # what is sharded must lie as it is
            distiller.student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    elif recipe.train.channels_last:  # weights are enough: a convolution's map lies as they do
        distiller.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return distiller


def _is_sharded(recipe: Recipe, distiller: Distiller, engine: training.Engine) -> bool:
    """Whether no process has the whole teacher."""
    several = engine.world_size > 1
    return several and recipe.teacher is not None and recipe.teacher.shard and distiller.teacher is not None


def _finish(recipe: Recipe, run: Run, distiller: Distiller, images: Images, engine: training.Engine) -> None:
    """Write the student, what a report shows of it, and, last, the summary that says the run is finished."""
    weights.save(distiller.student, run.student_file, recipe=recipe, images=images)
    _diagnose(recipe, run, distiller, images, engine)
    run.record.finish(_summary(recipe, run, distiller, images, engine))


def _diagnose(recipe: Recipe, run: Run, distiller: Distiller, images: Images, engine: training.Engine) -> None:
    """Write what a report shows of both networks, at the taps of the recipe where they have any."""
    try:
        taps = build.taps(recipe)
        # A sharded teacher runs in all processes or in none, and here is one.
        there = distiller.teacher is not None and not _is_sharded(recipe, distiller, engine)
        others = build.teacher_taps(recipe, recipes.teacher_of(recipe)) if there else ()
    except (OptionError, RecipeError):  # a network of another library, of which no taps are named
        taps, others = (), ()
    student_drop, teacher_drop = build.drop_tokens(recipe, recipes.teacher_of(recipe))
    student_layout, teacher_layout = build.layouts(recipe, recipes.teacher_of(recipe))
    teacher = distiller.teacher if len(taps) == len(others) else None
    write_diagnostics(
        run.record,
        Tapped(distiller.student, taps, student_drop, student_layout),
        None if teacher is None else Tapped(teacher, others, teacher_drop, teacher_layout),
        test=images.test,
        mean=images.mean,
        std=images.std,
        lift=distiller.adapters,
        engine=engine,
    )


def _summary(recipe: Recipe, run: Run, distiller: Distiller, images: Images, engine: training.Engine) -> dict[str, Any]:
    metrics = run.metrics
    cost = nets.count(distiller.student, images.shape)
    return {
        "recipe": recipe.name,
        "method": recipe.method,
        "seed": recipe.seed,
        **_accuracies(metrics, distiller, images, engine),
        "measured_on": recipe.data.measured_on,
        "train_images": len(images.train),
        "epochs": len(metrics),
        "parameters": cost.parameters,
        "flops": cost.flops,
        "seconds": sum(line["seconds"] for line in metrics),
        "adapters": [adapted._asdict() for adapted in distiller.adapted],
    }


def _accuracies(
    metrics: Sequence[Mapping[str, Any]], distiller: Distiller, images: Images, engine: training.Engine
) -> dict[str, Any]:
    """Say how good the student is; where a part of the images chose its weights, it is now measured on the others."""
    name = ACCURACY if images.validation is None else VALIDATION_ACCURACY
    best = max((line for line in metrics if name in line), key=lambda line: float(line[name]))
    if images.validation is None:
        raw = {key: value for key, value in metrics[-1].items() if key == f"raw_{name}"}
        return {name: metrics[-1][name], **raw, "best_accuracy": best[name], "best_epoch": best["epoch"]}
    found = training.evaluate(engine, distiller, images.test, mean=images.mean, std=images.std)[ACCURACY]
    return {ACCURACY: found, name: best[name], "best_accuracy": found, "best_epoch": best["epoch"]}
