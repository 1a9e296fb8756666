"""What the losses need of a teacher: found on disk, or extracted once and stored."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from svdistill import data, training
from svdistill.jobs import inspection
from svdistill.jobs.callbacks import Callbacks
from svdistill.recipes import Recipe, build, teacher_of, weights
from svdistill.recipes import teacher_cache as wanted
from svdistill.recipes.images import Images, augmentation, noise
from svdistill.teacher_cache import MANIFEST, Key, Source, TeacherCache, store

# Small batches would leave the machine idle: nothing is kept for a backward pass here.
_LEAST_BATCH = 64


class Provided(NamedTuple):
    """What is stored of a teacher.

    Attributes:
        cache: it, opened.
        path: its folder.
        taken: how many images the teacher has been shown by this call, all views counted; 0 where it was found.
        seconds: how long that took.
    """

    cache: TeacherCache
    path: Path
    taken: int
    seconds: float


def provide(
    recipe: Recipe,
    images: Images,
    runs: Path,
    *,
    teacher_file: Path,
    engine: training.Engine,
    callbacks: Callbacks,
    fresh: bool = False,
) -> Provided:
    """Find what is stored of a recipe's teacher, or run the teacher over all views of the images and store it.

    The state of torch's random numbers is restored at the end, so that the training that follows does not depend on
    which of the two it was.

    Args:
        recipe: the student's, with ``teacher.views``.
        images: the student's, on the CPU.
        runs: folder of all runs.
        teacher_file: the trained teacher's weights; read as a network only where they are needed.
        engine: device and precision with which the teacher is looked at before it is stored.
        callbacks: is told what happens.
        fresh: store it again, even if it is there.

    Returns:
        The teacher cache, and what it took.

    Raises:
        DataError: what is there is of other weights, images or settings, or damaged, or the disk is full.
    """
    with torch.random.fork_rng(devices=[]):
        student = build.model(recipe, images)
        key = wanted.key(recipe, images, student=student, teacher_file=teacher_file)
        path = runs / wanted.folder(recipe, key)
        if not fresh and (path / MANIFEST).exists():
            cache = TeacherCache.open(path, key)
            callbacks.stored(path)
            return Provided(cache, path, 0, 0.0)
        teacher = weights.load_teacher(teacher_file, images, allow_code=recipe.allow_code)
        whole = build.distiller(recipe, student, teacher, teacher_recipe=teacher_of(recipe))
        whole.prepare(noise(images))
        on_device = images.to(engine.device)
        inspection.warn_of(recipe, on_device, whole, teacher_file=teacher_file, engine=engine)
        views = _views_of(recipe, on_device, key)
        source = Source(
            extract=whole.extract,
            tap_shapes=whole.teacher_shapes,
            batches=views.batches,
            images=views.images,
            precise=whole.precise,
        )
        counter = _Counter()
        with callbacks.storing(recipe, source.images * key.views) as tell:
            cache = store(
                path,
                key,
                source,
                fresh=fresh,
                progress=lambda done: tell(counter.add(done * key.views)),
                waiting=lambda: callbacks.awaiting(path),
            )
        return Provided(cache, path, counter.taken, counter.seconds)


class _Views(NamedTuple):
    """The images that the teacher is shown: how many there are, and the batches of all their views from one on."""

    images: int
    batches: Callable[[int], Iterable[data.Batch]]


def _views_of(recipe: Recipe, images: Images, key: Key) -> _Views:
    sets = [images.train, *([] if images.unlabelled is None else [images.unlabelled])]
    views, varied = data.Views(count=key.views, seed=key.seed), augmentation(recipe.data.augment)

    def batches(start: int) -> Iterable[data.Batch]:
        return data.every_view(
            sets,
            max(_LEAST_BATCH, recipe.train.batch_size),
            views=views,
            augmentation=varied,
            mean=images.mean,
            std=images.std,
            start=start,
        )

    return _Views(sum(map(len, sets)), batches)


class _Counter:
    """Counts what has been done since the first call, which tells what had been done before."""

    def __init__(self) -> None:
        self.taken = 0
        self.seconds = 0.0
        self._began: float | None = None

    def add(self, images: int) -> int:
        if self._began is None:
            self._began = time.monotonic()
        else:
            self.taken += images
        self.seconds = time.monotonic() - self._began
        return images
