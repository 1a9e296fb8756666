"""What stands out in what was found, and what to change about it."""

import math
from collections.abc import Iterator, Sequence

from svdistill import signs
from svdistill.jobs.doctor.findings import (
    CostFindings,
    ImageFindings,
    Remark,
    StageFindings,
    TapFindings,
    TeacherFindings,
)
from svdistill.recipes import Recipe
from svdistill.runs import own_vectors_first

_FEW_COPIES = 0.002  # as well-known data sets have them
_UNEVEN = 10.0  # largest class over smallest
_FEW_STEPS = 200  # of the whole run
_DEAD = 0.5
_SLOW_HOURS = 24.0
_FULL = 0.9  # of the memory or the disk


def _is_guessing(accuracy: float, classes: int, images: int) -> bool:
    """Whether so many right answers are no more than guessing might get."""
    if classes < 2 or not images:
        return False
    chance = 1 / classes
    return accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / images)


def on_images(found: ImageFindings, recipe: Recipe) -> Iterator[Remark]:
    """Judge the images."""
    if found.in_both:
        of = "" if found.looked_at == found.images else f" (of the {found.looked_at:,} images that were compared)"
        yield Remark(
            "wrong" if found.in_both > _FEW_COPIES * found.test else "note",
            "images",
            f"{found.in_both:,} of {found.test:,} test images are also among those that are trained on{of}",
            "remove them from one of the two, or the accuracy will be too high",
        )
    if found.contradicting:
        yield Remark(
            "look" if found.contradicting > _FEW_COPIES * found.train else "note",
            "images",
            f"{found.contradicting:,} of {found.train:,} training images are there again with another label",
            "keep the right one of each, as no network can learn both",
        )
    elif found.twice > _FEW_COPIES * found.train:
        yield Remark("note", "images", f"{found.twice:,} training images are there more than once", "remove the copies")
    if found.blank:
        yield Remark(
            "look",
            "images",
            f"{found.blank:,} images have one single value everywhere",
            "look at them (svdistill data show); where they were transparent or of a wide range, they were not read "
            "as they were meant",
        )
    for names, kind in ((found.untrained, "training"), (found.untested, "test")):
        if names:
            yield Remark(
                "look",
                "images",
                f"{len(names)} of {found.classes} classes have no {kind} image, among them {names[0]!r}",
                f"add some, or name the others in data.classes: what has no {kind} image cannot be "
                + ("learned" if kind == "training" else "measured"),
            )
    if 0 < found.fewest[1] * _UNEVEN < found.most[1]:
        yield Remark(
            "note",
            "images",
            f"class {found.fewest[0]!r} has {found.fewest[1]:,} training images, {found.most[0]!r} {found.most[1]:,}",
            "look at the accuracy of each class (svdistill evaluate), as the mean hides the small ones",
        )
    steps = recipe.train.all_epochs * (found.train // recipe.train.batch_size)
    if steps < _FEW_STEPS:
        yield Remark(
            "look",
            "images",
            f"{found.train:,} training images in batches of {recipe.train.batch_size} make {steps} steps altogether",
            "take a smaller train.batch_size or more epochs, as so few steps teach little",
        )


def on_teacher(found: TeacherFindings, recipe: Recipe) -> Iterator[Remark]:
    """Judge the teacher."""
    if found.file is None:
        yield Remark(
            "note",
            "teacher",
            f"the teacher, {found.name}, is yet to be trained, which 'svdistill train' does first",
            "look again when it is there: until then nothing can be said of its maps and of the gradients",
        )
        return
    if found.accuracy is not None and _is_guessing(found.accuracy, found.classes or 0, found.measured):
        yield Remark(
            "wrong",
            "teacher",
            f"the teacher gets {100 * found.accuracy:.1f} %, about what guessing gets with {found.classes} classes",
            "train it longer or at a lower learning rate; or its file is of another order of classes",
        )
    by_logits = [loss.name for loss in recipe.loss if not loss.compares_taps]
    if by_logits and found.same_classes is None:
        yield Remark(
            "look",
            "teacher",
            f"{found.file} does not say what its outputs mean, and {', '.join(by_logits)} compares outputs",
            "make sure that its classes are those of the images, in the same order; "
            "nets.save(..., extra={'classes': ...}) writes them down",
        )
    elif by_logits and found.same_classes is False:
        yield Remark(
            "wrong",
            "teacher",
            f"the teacher tells {found.classes} other classes apart, and {', '.join(by_logits)} compares outputs",
            "take a loss that compares feature maps, such as svd, which does not need the teacher's classes",
        )
    if found.same_scale is None:
        yield Remark(
            "look",
            "teacher",
            f"{found.file} does not say with which mean and deviation its images were standardized",
            "make sure that they are those of these images; nets.save(..., extra={'mean': ..., 'std': ...}) writes "
            "them down, and images are then converted",
        )


def on_taps(taps: Sequence[TapFindings], recipe: Recipe) -> Iterator[Remark]:
    """Judge the maps that are compared, and how many of their vectors."""
    own_first = own_vectors_first(recipe.to_dict())
    yield from _as_remark(signs.of_own_vectors(own_first), "taps")
    for tap in taps:
        if tap.dead > _DEAD:
            yield Remark(
                "look",
                "taps",
                f"{tap.dead:.0%} of the channels of the teacher's {tap.teacher} are zero for all images",
                "leave this tap out, or train the teacher at a lower learning rate: what is dead teaches nothing",
            )
        kept = f"the vectors that are kept of the teacher's {tap.teacher}"
        yield from _as_remark(signs.of_energy(tap.energy, kept, own_first=own_first), "taps")


def on_stages(stages: Sequence[StageFindings], recipe: Recipe, *, classes: int) -> Iterator[Remark]:
    """Judge the first steps."""
    for number, stage in enumerate(stages, start=1):
        where = f"stage {number}: " if len(stages) > 1 else ""
        if not math.isfinite(stage.loss) or not math.isfinite(stage.transfer or 0.0):
            yield Remark(
                "wrong",
                "steps",
                f"{where}a loss is not finite within {stage.tried} steps",
                "lower optimizer.lr, or train.precision=32-true where it is a narrower one",
            )
            continue
        if stage.main and stage.loss > 2 * max(stage.first_loss, math.log(max(2, classes))):
            yield Remark(
                "wrong",
                "steps",
                f"{where}the main loss rises from {stage.first_loss:.3g} to {stage.loss:.3g} in {stage.tried} steps",
                "lower optimizer.lr",
            )
        rules = {loss.clip for loss in recipe.loss}
        yield from _as_remark(
            signs.of_set_aside(stage.set_aside, f"{stage.set_aside or 0:.0%} of the images"), "steps", where
        )
        yield from _as_remark(signs.of_gradients(stage.ratio, stage.passed, rules), "steps", where)


def _as_remark(sign: signs.Sign | None, part: str, where: str = "") -> Iterator[Remark]:
    if sign is not None:
        yield Remark("look", part, f"{where}{sign.found}", sign.advice)


def on_cost(found: CostFindings, recipe: Recipe) -> Iterator[Remark]:
    """Judge time, memory and disk."""
    if found.disk > found.disk_free:
        yield Remark(
            "wrong",
            "cost",
            f"the run writes {found.disk / 1e9:.1f} GB, and {found.disk_free / 1e9:.1f} GB are free",
            "make room, or choose another folder with --runs",
        )
    if found.memory and found.memory_there and found.memory > _FULL * found.memory_there:
        yield Remark(
            "look",
            "cost",
            f"{found.memory / 1e9:.1f} of {found.memory_there / 1e9:.1f} GB of memory are taken",
            "lower train.batch_size, or take train.accumulate or train.recompute",
        )
    hours = (found.seconds + found.teacher_seconds) / 3600
    if hours > _SLOW_HOURS:
        slow = found.device == "cpu"
        yield Remark(
            "note",
            "cost",
            f"it takes {hours:.0f} hours to the end",
            "take a GPU, fewer epochs or a smaller model.width" if slow else "take fewer epochs, or bf16-mixed",
        )
    if found.device != "cpu" and found.precision == "32-true":
        yield Remark(
            "note",
            "cost",
            "the training computes in float32",
            "train.precision=bf16-mixed train.channels_last=true is faster on this GPU",
        )
    teacher = recipe.teacher
    if teacher is not None and teacher.views is None and recipe.loss and found.seconds > 3600:
        yield Remark(
            "note",
            "cost",
            "the teacher runs in each step",
            "teacher.views=8 stores once what the losses need of it, and each step is shorter",
        )
