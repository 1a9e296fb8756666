"""What the losses need of a teacher: found on disk, or taken once and stored."""

import time
from pathlib import Path
from typing import NamedTuple

import torch

from svdistill import data
from svdistill.jobs.callbacks import Callbacks
from svdistill.recipes import Recipe, build, teacher_of, weights
from svdistill.recipes import teacher_cache as wanted
from svdistill.recipes.images import Images, augmentation, noise
from svdistill.teacher_cache import MANIFEST, TeacherCache, store

# Small batches would leave the machine idle: nothing is kept for a backward pass here.
_LEAST_BATCH = 64


class Provided(NamedTuple):
    """What is stored of a teacher.

    Attributes:
        cache: it, opened.
        path: its folder.
        taken: how many images have been looked at by this call, all views counted; 0 where it was found.
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
    device: torch.device,
    callbacks: Callbacks,
    fresh: bool = False,
) -> Provided:
    """Find what is stored of a recipe's teacher, or run the teacher over all views of the images and store it.

    Torch's random numbers are afterwards as if nothing had been, so that the training that follows does not depend on
    which of the two it was.

    Args:
        recipe: the student's, with ``teacher.views``.
        images: the student's, on the CPU.
        runs: folder of all runs.
        teacher_file: the trained teacher's weights; read as a network only where they are needed.
        device: where the teacher runs.
        callbacks: is told what happens.
        fresh: take it again, even if it is there.

    Returns:
        The knowledge, and what it took.

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
        teacher = weights.load_teacher(teacher_file, images)
        whole = build.distiller(recipe, student, teacher, teacher_recipe=teacher_of(recipe))
        whole.prepare(noise(images))
        whole.to(device)
        on_device = images.to(device)
        sets = [on_device.train, *([] if on_device.unlabelled is None else [on_device.unlabelled])]
        views = data.Views(count=key.views, seed=key.seed)
        number = sum(map(len, sets))
        counter = _Counter()
        with callbacks.storing(recipe, number * key.views) as tell:
            cache = store(
                path,
                key,
                extract=whole.extract,
                tap_shapes=whole.teacher_shapes,
                batches=lambda start: data.every_view(
                    sets,
                    max(_LEAST_BATCH, recipe.train.batch_size),
                    views=views,
                    augmentation=augmentation(recipe),
                    mean=on_device.mean,
                    std=on_device.std,
                    start=start,
                ),
                images=number,
                precise=whole.precise,
                fresh=fresh,
                progress=lambda done: tell(counter.add(done * key.views)),
                waiting=lambda: callbacks.awaiting(path),
            )
        return Provided(cache, path, counter.taken, counter.seconds)


class _Counter:
    """Counts what has been done since the first word, which tells what had been done before."""

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
