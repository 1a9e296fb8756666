"""What is drawn: a teacher, a student that it helped and one that was alone, on images of digits, and their runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from svdistill import jobs, nets, recipes
from svdistill.data import standardize
from svdistill.data.sets import spread
from svdistill.jobs.diagnostics import Tapped, diagnose
from svdistill.losses import SVDLoss
from svdistill.losses.maps import channels_first
from svdistill.recipes import build
from svdistill.recipes.images import load_images
from svdistill.report.drawing import Pair, TapView

RECIPE = "digits/svd-recommended"
METHOD = "svd-own-vectors"  # has what is drawn: vectors of both networks, one a tap, which are aligned
ALONE = "digits/student"
PUBLISHED = ("loss.clip=per_variable", "loss.bound=1")  # the bound of the paper, beside the main task
IMAGES = 64  # that spectra are averaged over


class Scene(NamedTuple):
    """Trained networks and what they see.

    Attributes:
        teacher: the large network.
        student: the small one that it helped.
        alone: the small one, trained without it.
        images: (B, C, H, W), standardized test images; the first is drawn.
        raw: (C, H, W), uint8, the first as it is.
        label: the name of its class.
        beta: of the relations.
        metrics: of the student's training, one mapping an epoch.
        published: of the same training with the bound of the paper.
    """

    teacher: Tapped
    student: Tapped
    alone: Tapped
    images: Tensor
    raw: Tensor
    label: str
    beta: float
    metrics: Sequence[Mapping[str, Any]]
    published: Sequence[Mapping[str, Any]]

    @property
    def image(self) -> Tensor:
        """(1, C, H, W), the standardized image that is drawn."""
        return self.images[:1]


def trained(overrides: Sequence[str], runs: Path, number: int) -> Scene:
    """Train the networks, or find them trained.

    Args:
        overrides: settings of `RECIPE` that are replaced; those of the data and the student's training hold for the
            student alone too.
        runs: folder of runs.
        number: of the test image that is drawn.
    """
    recipe, parent = recipes.lineage(recipes.load(RECIPE, overrides, method=METHOD))
    bounded = recipes.load(RECIPE, [*overrides, *PUBLISHED], method=METHOD)
    run, other = jobs.train(recipe, runs=runs), jobs.train(bounded, runs=runs)
    own = [one for one in overrides if one.startswith(("data.", "train.", "model.")) and "unlabelled" not in one]
    alone = jobs.train(ALONE, overrides=own, runs=runs)
    teacher = jobs.train(parent, runs=runs).student()
    loss = next(loss for loss in build.losses(recipe).values() if isinstance(loss, SVDLoss))
    data = load_images(recipe)
    index = torch.cat([torch.tensor([number]), spread(len(data.test), IMAGES - 1)])
    raw = next(iter(data.test.batches([index])))
    taps = build.taps(recipe)
    return Scene(
        teacher=Tapped(teacher, build.teacher_taps(recipe, parent)),
        student=Tapped(run.student(), taps),
        alone=Tapped(alone.student(), taps),
        images=standardize(raw, data.mean, data.std),
        raw=raw[0],
        label=data.test.classes[int(data.test.labels[number])],
        beta=loss.settings.beta,
        metrics=run.metrics,
        published=other.metrics,
    )


def matrices(tapped: Tapped, images: Tensor) -> list[Tensor]:
    """Return the map of each tap as matrices (B, N, D): a row for each position, a column for each channel."""
    return [channels_first(one).mT.double() for one in tapped.maps(images)]


def look(teacher: Tapped, student: Tapped, image: Tensor) -> tuple[list[TapView], list[TapView], Tensor]:
    """Return what both networks' taps give for one image, with the vectors that the loss compares.

    Args:
        teacher: the large network.
        student: the small one, with as many taps.
        image: (1, C, H, W), standardized.

    Returns:
        The teacher's taps, the student's, and the student's probabilities (classes,).
    """
    found = diagnose(student, teacher, images=image, pictures=1)
    views = []
    for who, tapped in (("teacher", teacher), ("student", student)):
        maps = tapped.maps(image)
        names = [name if a.ndim > 2 else "last hidden\nfeatures" for name, a in zip(tapped.taps, maps, strict=True)]
        vectors = [found[f"{who}_vectors_{i}"][0].astype(float) for i in range(len(maps))]
        parts = zip(names, (one[0].numpy() for one in matrices(tapped, image)), vectors, strict=True)
        views.append([TapView(*part) for part in parts])
    with torch.no_grad(), nets.eval_mode(student.network):
        outputs = student.network(image).softmax(1)[0]
    return views[0], views[1], outputs


def pair(scene: Scene) -> Pair:
    """Return what the drawing of the whole method shows."""
    teacher, student, outputs = look(scene.teacher, scene.student, scene.image)
    weights = [sum(p.numel() for p in tapped.network.parameters()) for tapped in (scene.teacher, scene.student)]
    return Pair(
        image=scene.raw.numpy(),
        teacher=teacher,
        student=student,
        weights=(weights[0], weights[1]),
        outputs=outputs.double().numpy(),
        label=scene.label,
        beta=scene.beta,
    )
