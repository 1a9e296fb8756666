"""Teacher and taps of a recipe, looked at on test images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from svdistill import nets, recipes, training
from svdistill.data import ImageSource, standardize
from svdistill.data.sets import spread
from svdistill.distiller import Distiller
from svdistill.jobs.diagnostics import Tapped, diagnose
from svdistill.jobs.doctor.findings import TapFindings, TeacherFindings
from svdistill.recipes import Recipe, build, weights
from svdistill.recipes.images import Images

MEASURED = 2_000  # test images that the teacher is measured on
PICTURES = 64  # of them whose maps are looked at


def sample(source: ImageSource, size: int) -> ImageSource:
    """Return images spread evenly over a set, which may be sorted by class."""
    if len(source) <= size:
        return source
    return source.sample(spread(len(source), size))


def look_at_teacher(
    name: str,
    file: Path,
    teacher: nn.Module,
    *,
    student: Images,
    own: Images | None,
    engine: training.Engine,
    allow_code: bool = False,
) -> TeacherFindings:
    """Read what a trained teacher says of itself, and measure it.

    Args:
        name: of its recipe, or its path.
        file: its weights.
        teacher: the network, on the device, made for images that are standardized for the student.
        student: the student's images.
        own: the teacher's images, standardized for it; None where they are not known.
        engine: device and precision.
        allow_code: whether the code that the file names may run.
    """
    spec = nets.spec(file)
    classes = weights.told(file, spec, "classes")
    same = None if classes is None else classes == student.test.classes
    accuracy, measured = None, 0
    if same or (classes is None and spec["num_classes"] == student.test.num_classes):
        part = sample(student.watched, MEASURED)
        accuracy = training.evaluate(engine, teacher, part, mean=student.mean, std=student.std)["accuracy"]
        measured = len(part)
    elif own is not None and own.test.classes == classes:
        part = sample(own.watched, MEASURED)
        network = nets.load(file, allow_code=allow_code).to(engine.device)
        accuracy = training.evaluate(engine, network, part, mean=own.mean, std=own.std)["accuracy"]
        measured = len(part)
    mean, std = weights.told(file, spec, "mean"), weights.told(file, spec, "std")
    scale = None
    if mean is not None and std is not None:
        scale = (mean, std) == (tuple(student.mean.tolist()), tuple(student.std.tolist()))
    return TeacherFindings(
        name=name,
        file=str(file),
        accuracy=accuracy,
        measured=measured,
        classes=spec["num_classes"],
        same_classes=same,
        same_scale=scale,
    )


def look_at_taps(
    recipe: Recipe, distiller: Distiller, images: Images, *, trained: bool, engine: training.Engine
) -> list[TapFindings]:
    """Look at the maps of both networks at the taps of a recipe; [] where no loss compares maps.

    Args:
        recipe: the student's.
        distiller: prepared, on the device, with a teacher that runs.
        images: the student's.
        trained: whether the teacher is; the energy of an untrained one means nothing.
        engine: device and precision.
    """
    teacher = distiller.teacher
    if teacher is None or not build.reads_maps(build.losses(recipe)):
        return []
    parent = recipes.teacher_of(recipe)
    drops, layouts = build.drop_tokens(recipe, parent), build.layouts(recipe, parent)
    own = Tapped(distiller.student, build.taps(recipe), drops[0], layouts[0])
    theirs = Tapped(teacher, build.teacher_taps(recipe, parent), drops[1], layouts[1])
    part = sample(images.watched, PICTURES)
    raw = torch.cat(list(part.batches([torch.arange(len(part))])))
    pictures = standardize(raw.to(engine.device), images.mean.to(engine.device), images.std.to(engine.device))
    student_maps, teacher_maps = own.maps(pictures), theirs.maps(pictures)
    energies: Sequence[float | None] = [None] * len(teacher_maps)
    rank = max((int(loss.rank) for loss in recipe.loss if loss.name == "svd"), default=0)
    if trained and rank:
        spectrum = torch.from_numpy(diagnose(theirs, images=pictures)["student_spectrum"])
        energies = spectrum[:, :rank].nansum(1).tolist()
    adapted = {one.tap for one in distiller.adapted}
    left_out = distiller.left_out
    return [
        TapFindings(
            student=name,
            student_shape=tuple(mine.shape[1:]),
            teacher=other,
            teacher_shape=tuple(map_.shape[1:]),
            adapted=name in adapted,
            left_out=tuple(loss for loss, names in left_out.items() if name in names),
            dead=_dead(map_),
            energy=energy,
        )
        for name, other, mine, map_, energy in zip(
            own.taps, theirs.taps, student_maps, teacher_maps, energies, strict=True
        )
    ]


def _dead(feature: Tensor) -> float:
    """Return the fraction of channels of (B, C, H, W), (B, N, D) or (B, D) that are zero for all images."""
    channels = feature.transpose(0, 1) if feature.ndim == 4 else feature.movedim(-1, 0)
    return float((channels.flatten(1) == 0).all(1).float().mean())
