"""A look at images and teacher before the first step: what would make a run pointless is said in words."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from warnings import warn

import torch
from torch import Tensor, nn

from svdistill import nets
from svdistill.data import ImageSource, standardize
from svdistill.data.sets import spread
from svdistill.distiller import Distiller
from svdistill.errors import OptionError, RecipeError, SvdistillWarning
from svdistill.nets import eval_mode
from svdistill.nets.outputs import find_logits
from svdistill.recipes import Recipe, build, teacher_of, weights
from svdistill.recipes.images import Images
from svdistill.training import Engine
from svdistill.training.trouble import all_alike, all_zero, first_layer, not_finite

# So many images tell a teacher that has learnt something from one that guesses; with fewer than these nothing is said.
_IMAGES, _LEAST = 256, 50
_AT_ONCE = 64
# In grey levels of 255: images that differ by less on average, and nowhere by more, show the same.
_ALIKE, _NOWHERE = 0.5, 8.0
# What may be left in a batch norm's running statistics of how they started: (1 − momentum) to the power of the steps.
# They start at variance 1, and maps of a hundredth of that are common: with 3 % left MobileNetV3 was seen to guess.
_LEFT, _USUAL_MOMENTUM = 0.001, 0.1
# What a teacher gives that has nothing to teach, in words.
_EMPTY = ((not_finite, "values that are not finite"), (all_zero, "zero"), (all_alike, "the same"))


def warn_of(recipe: Recipe, images: Images, distiller: Distiller, *, teacher_file: Path | None, engine: Engine) -> None:
    """Warn of what would make a run pointless.

    Args:
        recipe: the student's.
        images: of the run, on the device.
        distiller: with the teacher itself, or with what is stored of it, which does not tell; moved to the device.
        teacher_file: the teacher's weights; None without one.
        engine: device and precision.
    """
    distiller.to(engine.device)
    try:
        taps = build.teacher_taps(recipe, teacher_of(recipe)) if build.reads_maps(build.losses(recipe)) else ()
    except (OptionError, RecipeError):  # a network of another library, of which no taps are named
        taps = ()
    # A teacher that was trained from a recipe was watched while it was trained.
    given = teacher_file if recipe.teacher is not None and recipe.teacher.recipe is None else None
    for words in look(images, distiller.student, distiller.teacher, engine=engine, taps=taps, file=given):
        warn(f"{recipe.name}: {words}", SvdistillWarning, stacklevel=2)


def look(
    images: Images, student: nn.Module, teacher: nn.Module | None, *, engine: Engine, taps: Sequence[str] = (),
    file: Path | None = None,
) -> list[str]:  # fmt: skip
    """Look at what a run is about to be made with.

    Args:
        images: of the run, on the device.
        student: on the device.
        teacher: on the device, made for images that are standardized for the student; None without one.
        engine: device and precision.
        taps: the teacher's that are compared.
        file: the teacher's weights, where it is to be measured by the classes that the file names.

    Returns:
        What stands out, each in one line that says what to do; [] where nothing does.
    """
    if _alike(images.train):
        return ["the training images are all alike, so there is nothing to learn: look at data.root and at the images"]
    if teacher is None:
        return []
    if _identical(student, teacher):
        return [
            "the student is identical to its teacher, so there is nothing to learn: take a fresh or another network"
        ]
    return list(_look_at_teacher(images, teacher, engine, taps, file))


def warn_of_slow_norms(name: str, student: nn.Module, steps: int) -> None:
    """Warn of batch norms so slow that the run ends before their running statistics are those of the images.

    Statistics that come with trained weights are left out, and so is a run too short for the usual momentum of 0.1.

    Args:
        name: of the recipe.
        student: before its first step.
        steps: of the whole run.
    """
    if (1 - _USUAL_MOMENTUM) ** steps > _LEFT:
        return
    for layer, norm in student.named_modules():
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or not norm.momentum:
            continue
        fresh = norm.num_batches_tracked is not None and int(norm.num_batches_tracked) == 0
        if fresh and (left := (1 - norm.momentum) ** steps) > _LEFT:
            least = math.ceil(math.log(_LEFT) / math.log1p(-norm.momentum))
            words = (
                f"the batch norm {layer} has a momentum of {norm.momentum:g}: after {steps:,} steps {100 * left:.2g} % "
                f"of its running statistics are those it started with, and the student is evaluated with them; give it "
                f"{least:,} steps or more (train.epochs, train.batch_size), or a momentum of {_USUAL_MOMENTUM:g}"
            )
            warn(f"{name}: {words}", SvdistillWarning, stacklevel=2)
            return


def _look_at_teacher(
    images: Images, teacher: nn.Module, engine: Engine, taps: Sequence[str], file: Path | None
) -> Iterator[str]:
    index = spread(len(images.watched), _IMAGES)
    raw = torch.cat(list(images.watched.batches([index])))
    batch = standardize(raw.to(engine.device), images.mean.to(engine.device), images.std.to(engine.device))
    advice = "look at its file, or train it again"
    with ExitStack() as watching:
        at_taps = [watching.enter_context(first_layer(teacher, broken, only=taps)) for broken, _ in _EMPTY]
        logits = _run(teacher, batch[:_AT_ONCE], engine)
    for (broken, words), tapped in zip(_EMPTY, at_taps, strict=True):
        if broken(logits):
            with first_layer(teacher, broken) as layers:
                _run(teacher, batch[:_AT_ONCE], engine)
            where = f", from its layer {layers[0]} on" if layers else ""
            yield f"the teacher gives {words} for all images{where}; it has nothing to teach: {advice}"
            return
        if tapped:
            yield f"the teacher's tap {tapped[0]} gives {words} for all images; take other taps, or {advice}"
            return
    if file is not None and _knows(file, images) and logits.shape[1:] == (images.watched.num_classes,):
        labels = images.watched.labels[index.to(images.test.labels.device)].to(engine.device)
        answers = torch.cat([_run(teacher, part, engine) for part in batch.split(_AT_ONCE)]).argmax(dim=1)
        counts = torch.bincount(labels)
        counts = counts[counts > 0].double()
        # Of each class alike, as a teacher that always answers with the largest class is right about that one alone.
        recalls = torch.stack([(answers[labels == one] == one).double().mean() for one in labels.unique()])
        chance = 1 / len(counts)
        error = chance * math.sqrt(chance * (1 - chance) * float(counts.reciprocal().sum()))
        if len(labels) >= _LEAST and len(counts) > 1 and float(recalls.mean()) <= chance + 2 * error:
            yield (
                f"the teacher is no better than chance: of each class {100 * float(recalls.mean()):.1f} % of its test "
                f"images are right on average; if it is to know these classes, {advice}"
            )


@torch.no_grad()
def _run(network: nn.Module, images: Tensor, engine: Engine) -> Tensor:
    with eval_mode(network), engine.autocast():
        return find_logits(network(images), who="teacher").float()


def _alike(source: ImageSource) -> bool:
    """Whether some images of a set, from all over it, differ by nothing that could be seen."""
    index = spread(len(source), _IMAGES)
    pixels = torch.cat(list(source.batches([index]))).float()
    apart = (pixels - pixels.mean(dim=0)).abs()
    return len(pixels) > 1 and float(apart.mean()) < _ALIKE and float(apart.max()) < _NOWHERE


def _identical(student: nn.Module, teacher: nn.Module) -> bool:
    """Whether two networks have the same parameters, in the same order."""
    ours, theirs = list(student.parameters()), list(teacher.parameters())
    shapes = [[p.shape for p in side] for side in (ours, theirs)]
    return shapes[0] == shapes[1] and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def _knows(file: Path, images: Images) -> bool:
    """Whether a network was made for the classes of these images, as far as its file says."""
    theirs = weights.told(file, nets.spec(file), "classes")
    return theirs is None or theirs == images.watched.classes
