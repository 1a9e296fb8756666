"""Whether a recipe's student, teacher, losses and images fit each other, found out before work starts."""

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from warnings import warn

import torch
from torch import Tensor, nn

from svdistill import nets, training
from svdistill.choices import IMAGE_FOLDER
from svdistill.distiller import Adapted, Distiller
from svdistill.errors import RecipeError, SvdistillError, SvdistillWarning, one_line
from svdistill.losses.protocol import Losses
from svdistill.nets.layouts import Layouts
from svdistill.nets.reader import Reader
from svdistill.nets.trace import REFUSALS
from svdistill.recipes import build, outside, weights
from svdistill.recipes.images import Images, batches, noise
from svdistill.recipes.naming import named
from svdistill.recipes.schema import Recipe
from svdistill.recipes.suggested import with_taps


def check_parts(recipe: Recipe, *, processes: int = 1) -> None:
    """Make sure that every step can be divided evenly, over the processes and into the parts of each.

    Args:
        recipe: its batch sizes and ``train.accumulate`` are read.
        processes: how many there are.

    Raises:
        RecipeError: it cannot; says which batch size is the nearest that can.
    """
    sizes = {"train.batch_size": recipe.train.batch_size}
    unlabelled = recipe.data.unlabelled
    if unlabelled is not None:
        sizes["data.unlabelled.batch_size"] = unlabelled.batch_size or recipe.train.batch_size
    mixes = recipe.data.augment.mixes
    # Each process mixes its own images, before they are divided into parts.
    parts = math.lcm(processes * recipe.train.accumulate, 2 * processes if mixes else 1)
    for key, size in sizes.items():
        if size % parts:
            nearest_size = max(1, round(size / parts)) * parts
            over = [f"{processes} processes"] if processes > 1 else []
            over += [f"train.accumulate={recipe.train.accumulate}"] if recipe.train.accumulate > 1 else []
            ways = [f"over {' and '.join(over)}"] if over else []
            ways += [f"into pairs for data.augment.{mixes}"] if mixes else []
            raise RecipeError(
                f"{key}: {size} images cannot be divided evenly {' and '.join(ways)}; take {key}={nearest_size}"
            )


def check_line(line: Sequence[Recipe], images: Sequence[Images], *, processes: int = 1) -> tuple[Recipe, ...]:
    """Find out before work starts whether a student, its teacher, that one's teacher and so on fit together.

    Args:
        line: the recipes, the student's first.
        images: of each.
        processes: how many there are to work on each batch.

    Returns:
        The recipes, which know the taps that were suggested for them.

    Raises:
        SvdistillError: as `check`.
    """
    known = []
    for member, own, parent, theirs in zip(line, images, (*line[1:], None), (*images[1:], None), strict=True):
        known.append(with_taps(member, own, teacher_recipe=parent, teacher_images=theirs))
        check(known[-1], own, teacher_recipe=parent, teacher_images=theirs, processes=processes)
    return tuple(known)


def check(
    recipe: Recipe,
    images: Images,
    *,
    teacher_recipe: Recipe | None = None,
    teacher_images: Images | None = None,
    processes: int = 1,
) -> tuple[Adapted, ...]:
    """Find out before work starts whether student, teacher and losses fit each other and the images.

    Both networks are built, images of noise go through them, and the losses compare what comes.

    Args:
        recipe: the student's recipe.
        images: the student's.
        teacher_recipe: its teacher's recipe; None without a teacher, or where it is a checkpoint.
        teacher_images: the teacher's; None where there is no recipe of one.
        processes: how many there are to work on each batch.

    Returns:
        The taps of the student that an adapter will lift to the teacher's width.

    Raises:
        RecipeError: an unknown network or tap, taps of different number or too few of them, a different number of
            classes, images of another size than the teacher's, an average over more steps than there are, or
            a tracker is asked for and missing.
        ShapeError: the losses cannot compare the maps.
        CheckpointError: the teacher's file is missing or damaged.
    """
    _check_trackers(recipe)
    _check_average(recipe, images)
    _check_held_out(recipe, images)
    student = _student(recipe, images, processes=processes)
    criteria = build.losses(recipe)
    _check_mixed(recipe, criteria)
    _check_images_together(recipe, criteria, processes=processes)
    if not criteria:
        alone = _trace(student, recipe.model.taps or (), images, key="model.taps" if recipe.model.taps else "model")
        _check_logits(recipe, images, alone.logits)
        _check_capture(recipe, images, Distiller(student), processes=processes)
        return ()
    assert recipe.teacher is not None
    helper, classes = _untrained_teacher(recipe, images, teacher_recipe, teacher_images)
    # Taps that are named but not compared must be there all the same: the report looks at them.
    names, other = recipe.model.taps or (), recipe.teacher.taps or ()
    compared = build.reads_maps(criteria)
    if compared:
        names, other = build.taps(recipe), build.teacher_taps(recipe, teacher_recipe)
    ours, theirs = (
        _trace(network, taps, images, key=f"{who}.taps", drop=drop, layout=layout)
        for network, taps, who, drop, layout in zip(
            (student, helper),
            (names, other),
            ("model", "teacher"),
            build.drop_tokens(recipe, teacher_recipe),
            build.layouts(recipe, teacher_recipe),
            strict=True,
        )
    )
    _check_logits(recipe, images, ours.logits)
    if compared:
        _check_taps(criteria, ours, theirs)
        _check_storable(recipe, criteria, ours, theirs)
    _check_classes(criteria, images, classes, ours.logits, theirs.logits)
    _warn_of_what_is_not_said(recipe, criteria, classes)
    with named("loss"):
        whole = build.distiller(recipe, student, helper, teacher_recipe=teacher_recipe)
        adapted = whole.prepare(noise(images))
        pretended = noise(images)
        whole(pretended, labels=torch.zeros(len(pretended), dtype=torch.int64))
    _check_capture(recipe, images, whole, processes=processes)
    return adapted


def _student(recipe: Recipe, images: Images, *, processes: int) -> nn.Module:
    """Make the student, and make sure that it can be trained and saved."""
    student = build.model(recipe, images)
    if recipe.train.batch_size == recipe.train.accumulate * processes:
        _check_single(student, images)
    with build.recomputing(recipe, student):
        pass
    if recipe.train.linear_probe is not None:
        build.output_layer(recipe, student, images)
    if nets.foreign.is_foreign(recipe.model.name):
        with named("model"):
            weights.check_savable(student, recipe=recipe, images=images)
    _warn_of_a_fresh_layer(recipe, student, images)
    return student


def _check_trackers(recipe: Recipe) -> None:
    for name in recipe.train.log:
        found = find_spec(name)
        if found is None or found.origin is None:  # a mere folder of this name, as wandb makes one, is not the package
            raise RecipeError(f"train.log: {name} is not installed; install it with: pip install 'svdistill[{name}]'")


def _check_average(recipe: Recipe, images: Images) -> None:
    """Refuse to average the weights of more steps than there are: the first ones would count more than the last."""
    if recipe.train.ema is None:
        return
    steps = recipe.train.main_epochs * (len(images.train) // recipe.train.batch_size)
    averaged = 1 / (1 - recipe.train.ema)
    if averaged > steps * (1 + 1e-9):
        raise RecipeError(
            f"train.ema: {recipe.train.ema:g} averages about {averaged:,.0f} steps, but there are {steps:,}; take a "
            "smaller one, or more epochs"
        )


def _check_capture(recipe: Recipe, images: Images, distiller: Distiller, *, processes: int) -> None:
    """Refuse to capture steps where something stands in the way of it that is known before they are tried."""
    if recipe.train.capture != "on":
        return
    objectives = [stage.objective for stage in build.stages(recipe)]
    stored = recipe.teacher is not None and recipe.teacher.stored
    with build.recomputing(recipe, distiller.student):
        reason = training.obstacle_to_buffers(
            distiller, batches(recipe, images), device=images.train.device, processes=processes
        ) or training.obstacle_to_capture(distiller, objectives, stored=stored)
    if reason is not None:
        raise RecipeError(f"train.capture: the step cannot be captured: {reason}; take train.capture=auto")


class _Traced(NamedTuple):
    """What a network makes of images of noise: its taps, their maps, and the logits."""

    taps: tuple[str, ...]
    maps: list[Tensor]
    logits: Tensor


def _check_single(network: nn.Module, images: Images) -> None:
    """Refuse to train on one image at a time where batch norm would have one number a channel."""
    try:
        network.train()(torch.rand(1, *images.shape))
    except ValueError as error:
        raise RecipeError(
            f"train.batch_size: batch norm cannot learn from 1 image ({error}); take at least 2 for each process and "
            "part"
        ) from error


def _check_mixed(recipe: Recipe, criteria: Losses) -> None:
    """Refuse to mix images, and so their labels, where a loss compares with a single one."""
    mixes = recipe.data.augment.mixes
    labelled = next((name for name, criterion in criteria.items() if criterion.needs_labels), None)
    if mixes and labelled:
        raise RecipeError(
            f"data.augment.{mixes}: a mixed image has two labels, and {labelled} compares with one; take "
            f"data.augment.{mixes}=null, or another loss, e.g. soft-target"
        )


def _check_images_together(recipe: Recipe, criteria: Losses, *, processes: int) -> None:
    """Refuse to compare images with each other where too few are worked on together for a loss to learn anything."""
    unlabelled = recipe.data.unlabelled
    added = 0 if unlabelled is None else unlabelled.batch_size or recipe.train.batch_size
    together = (recipe.train.batch_size + added) // (recipe.train.accumulate * processes)
    for name, criterion in criteria.items():
        if max(1, together) < criterion.least_images:
            raise RecipeError(
                f"train.batch_size: {name} compares the images of each process and part with each other, and here "
                f"that is {together}; take at least {criterion.least_images} for each"
            )


def _untrained_teacher(
    recipe: Recipe, images: Images, teacher_recipe: Recipe | None, teacher_images: Images | None
) -> tuple[nn.Module, tuple[str, ...] | None]:
    """Make the teacher as it will be, its weights aside where they are yet to be trained; name its classes."""
    assert recipe.teacher is not None
    if recipe.teacher.model is not None:
        made = outside.make(recipe, images)
        outside.warn_of_guesses(recipe, made)
        return outside.ready(made, images), made.classes
    if teacher_recipe is None:
        path = Path(str(recipe.teacher.checkpoint))
        if nets.files.is_of_others(path):
            raise RecipeError(
                f"teacher.checkpoint: {path} does not say what network its weights are of; give it as "
                "teacher.model.checkpoint, with teacher.model.name"
            )
        with named("teacher.checkpoint"):
            network, spec = weights.load_teacher(path, images, allow_code=recipe.allow_code), nets.spec(path)
        size, home, classes = spec.get("image_size"), spec.get("data"), weights.told(path, spec, "classes")
        key = ""
    else:
        assert teacher_images is not None
        with named("teacher.recipe"):
            network = build.untrained_teacher(teacher_recipe, teacher_images, images)
        size, home, classes = teacher_images.shape[1], teacher_recipe.data.name, teacher_images.train.classes
        key = " or, for both, teacher.overrides.data.image_size too"
    # A teacher of another data set may have seen images of another size: its taps serve all the same.
    if size is not None and home == recipe.data.name and int(size) != images.shape[1]:
        raise RecipeError(
            f"data.image_size: the student's images are {images.shape[1]} pixels high, the teacher's {size}; "
            f"take data.image_size={size}{key}"
        )
    return network, classes


def _check_held_out(recipe: Recipe, images: Images) -> None:
    """Refuse trained weights that have seen images of which the student's accuracy is to be."""
    wanted, teacher = recipe.data.held_out, recipe.teacher
    files = {"model.checkpoint": recipe.model.checkpoint}
    if teacher is not None:
        files["teacher.checkpoint"] = teacher.checkpoint
        files["teacher.model.checkpoint"] = None if teacher.model is None else teacher.model.checkpoint
    for key, file in files.items():
        if wanted is None or file is None or not nets.files.is_ours(file):
            continue
        with named(key):
            spec = nets.spec(file)
            there = weights.told(Path(file), spec, "held_out")
        if there != wanted and _of_same_images(recipe, images, Path(file), spec):
            what, change = "the teacher's file", "give the teacher by teacher.recipe"
            if key == "model.checkpoint":
                what, change = key, "begin with weights that have not seen them"
            raise RecipeError(
                f"data.held_out: {wanted:g} of the images are held out, but {what} was trained with "
                f"{'none' if there is None else there} held out; {change}"
            )


def _of_same_images(recipe: Recipe, images: Images, file: Path, spec: Mapping[str, Any]) -> bool:
    """Tell whether weights may have been trained on a recipe's data set; all folders of images have one name."""
    if spec.get("data") != recipe.data.name:
        return False
    if recipe.data.name != IMAGE_FOLDER or "rotation" in (recipe.data.task, spec.get("task")):
        return True
    classes = weights.told(file, spec, "classes")
    return classes is None or bool({*classes} & {*images.train.classes})


def _trace(
    network: nn.Module, taps: tuple[str, ...], images: Images, *, key: str, drop: int = 0, layout: Layouts = None
) -> _Traced:
    who = "teacher" if key.startswith("teacher") else "student"
    with named(key), torch.no_grad():
        logits, maps = _run(Reader(network, taps, drop_tokens=drop, layout=layout, who=who), network, images)
        return _Traced(taps, maps, logits)


def _run(reader: Reader, network: nn.Module, images: Images) -> tuple[Tensor, list[Tensor]]:
    try:
        return reader.run(network.eval(), noise(images))
    except SvdistillError:
        raise
    except REFUSALS as error:  # of a network of another library, which knows one size alone
        reason = one_line(error).rstrip(".") or type(error).__name__
        size = " × ".join(map(str, images.shape))
        raise RecipeError(
            f"the network cannot take images of {size} ({reason}); change data.image_size, or the size in its arguments"
        ) from error


def _check_taps(criteria: Losses, student: _Traced, teacher: _Traced) -> None:
    """Refuse taps that do not pair up, and too few of them, those aside at which a loss finds nothing to compare."""
    if len(student.maps) != len(teacher.maps):
        raise RecipeError(
            f"model.taps: the student has {len(student.maps)} taps and the teacher {len(teacher.maps)}; "
            "they are paired in order: give model.taps and teacher.taps of the same number"
        )
    for name, criterion in criteria.items():
        if len(student.maps) < criterion.least_taps:
            raise RecipeError(
                f"model.taps: {name} relates neighbouring taps, expected at least {criterion.least_taps}, got "
                f"{list(student.taps)}"
            )
        with named("model.taps"):
            empty = criterion.left_out(student.maps, teacher.maps) if criterion.reads == "maps" else ()
        if len(student.maps) - len(empty) < criterion.least_taps:
            left_out = ", ".join(repr(student.taps[tap]) for tap in empty)
            raise RecipeError(
                f"model.taps: {name} leaves out {left_out}, a single position with nothing to compare, and needs at "
                f"least {criterion.least_taps} beside, got {list(student.taps)}; name others, or take a larger "
                "data.image_size"
            )


def _check_logits(recipe: Recipe, images: Images, logits: Tensor) -> None:
    """Refuse a student that does not give a number for each class: a network from outside may give anything."""
    if logits.shape[1:] != (images.train.num_classes,):
        raise RecipeError(
            f"model.name: {recipe.model.name} gives {tuple(logits.shape)} for {len(logits)} images, expected "
            f"({len(logits)}, {images.train.num_classes}), a number for each class; let it take num_classes, or name "
            "another network"
        )


def _check_storable(recipe: Recipe, criteria: Losses, student: _Traced, teacher: _Traced) -> None:
    """Refuse to store what a loss needs of the teacher where that is more than can be read in place of running it."""
    if recipe.teacher is None or not recipe.teacher.stored:
        return
    for name, criterion in criteria.items():
        if not criterion.storable:
            packed = criterion.pack(criterion.extract(teacher.maps, student.maps))
            size = 2 * sum(one[0].numel() for one in packed.values())
            raise RecipeError(
                f"teacher.views: {name} needs {size:,} bytes of the teacher for each view of an image, too much "
                "to store; take teacher.live=true, teacher.views=null, or another method, e.g. svd"
            )


def _check_classes(
    criteria: Losses, images: Images, theirs: tuple[str, ...] | None, logits: Tensor, teacher_logits: Tensor
) -> None:
    """Refuse a teacher of other classes, or of the same in another order, where outputs are compared one by one."""
    by_output = [name for name, criterion in criteria.items() if criterion.reads == "logits"]
    if not by_output:
        return
    pairs = () if theirs is None else zip(theirs, images.train.classes, strict=False)
    other = next((pair for pair in pairs if pair[0] != pair[1]), None)
    if logits.shape != teacher_logits.shape:
        told = f"it tells {teacher_logits.shape[-1]} classes apart and the student {logits.shape[-1]}"
    elif other is not None:
        told = f"its class {other[0]!r} stands where the student's {other[1]!r} does"
    else:
        return
    raise RecipeError(
        f"teacher: {told}, but {by_output[0]} compares them one by one; take a teacher of the same classes, or "
        "loss.name=svd"
    )


def _warn_of_a_fresh_layer(recipe: Recipe, student: nn.Module, images: Images) -> None:
    """Warn of a last layer that the weights of a file do not have for these classes."""
    if left := weights.begin(student, recipe, num_classes=images.train.num_classes):
        warn(
            f"model.checkpoint: {recipe.model.checkpoint} knows other classes, so that {', '.join(left)} begin afresh",
            SvdistillWarning,
            stacklevel=1,
        )


def _warn_of_what_is_not_said(recipe: Recipe, criteria: Losses, classes: tuple[str, ...] | None) -> None:
    """Warn of a teacher that lacks what nothing else can tell, and what is done without it."""
    assert recipe.teacher is not None
    lacking = []
    if classes is None and any(criterion.reads == "logits" for criterion in criteria.values()):
        lacking.append("its classes, which are taken for the student's in the same order")
    file = recipe.teacher.checkpoint
    if file is not None and not {"mean", "std"} <= nets.spec(file).keys():
        lacking.append("the mean and deviation of its images, which are taken to be the student's")
    if lacking:
        key = "teacher.model: nobody names" if file is None else f"teacher.checkpoint: {file} does not name"
        told = f"{key} {', nor '.join(lacking)}"
        warn(SvdistillWarning(f"{told}; save it with them, see docs/networks.md"), stacklevel=1)
