"""Look at a data set: a few images of each class, before and after augmentation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from svdistill import data
from svdistill.data.edits import augment
from svdistill.data.statistics import unit_range
from svdistill.errors import OptionError, RecipeError
from svdistill.recipes.images import augmentation, check_augmentation
from svdistill.recipes.load import images_of


@dataclass(frozen=True, eq=False)
class Samples:
    """A few training images of each class.

    Attributes:
        name: the data set's.
        classes: the names of the classes that are shown.
        images: (classes, each, C, H, W), uint8, as they are loaded.
        varied: the same, augmented as in training.
        counts: the number of training images of each class that is shown.
        train: the number of training images.
        test: the number of test images.
        num_classes: the number of classes of the data set.
        augmentation: how the images were varied.
    """

    name: str
    classes: tuple[str, ...]
    images: np.ndarray
    varied: np.ndarray
    counts: tuple[int, ...]
    train: int
    test: int
    num_classes: int
    augmentation: data.Augmentation


def samples(
    name: str,
    *,
    root: data.Root = None,
    image_size: int | None = None,
    classes: data.Classes | None = None,
    channels: int | None = None,
    rows: int = 10,
    each: int = 6,
    overrides: Sequence[str] = (),
    seed: int = 0,
) -> Samples:
    """Take the first images of each class of a data set, and vary them as training would.

    Args:
        name: the data set; see `svdistill.data.load`, also for the next four.
        root: its folder or archive.
        image_size: height and width in pixels.
        classes: the classes to take.
        channels: 1 or 3.
        rows: the largest number of classes, spread evenly over all.
        each: the largest number of images of each.
        overrides: how they are varied, as in a recipe: ``data.augment.…=value``. Where none is given they are mirrored
            where the data set allows it, rotated by up to 15° and shifted by up to an eighth of their size.
        seed: of the random numbers.

    Returns:
        The images.

    Raises:
        OptionError: an unknown name or class, or no rows or images.
        RecipeError: an override is wrong, or does not suit the images.
        DataError: missing or damaged files.
    """
    for key, value in (("rows", rows), ("each", each)):
        if value < 1:
            raise OptionError(f"{key} is {value}, expected at least 1")
    loaded = data.load(name, root=root, image_size=image_size, classes=classes, channels=channels, in_memory=0)
    train = loaded.train
    varied_by = _augmentation(name, overrides, loaded)
    counts = train.labels.bincount(minlength=train.num_classes)
    filled = torch.nonzero(counts).flatten()
    number = min(rows, len(filled))
    shown = filled[torch.arange(number) * len(filled) // number].tolist()
    each = min(each, int(counts[shown].min()))
    index = [torch.nonzero(train.labels == label).flatten()[:each] for label in shown]
    images = torch.stack(list(train.batches(index)))
    generator = torch.Generator().manual_seed(seed)
    fill = None if varied_by.erasing is None else data.channel_statistics(train)[0]
    varied = augment(unit_range(images.flatten(0, 1)), varied_by, generator, fill=fill)
    return Samples(
        name=name,
        classes=tuple(train.classes[label] for label in shown),
        images=images.numpy(),
        varied=varied.mul(255).round().to(torch.uint8).reshape(images.shape).numpy(),
        counts=tuple(counts[shown].tolist()),
        train=len(train),
        test=len(loaded.test),
        num_classes=train.num_classes,
        augmentation=varied_by,
    )


def _augmentation(name: str, overrides: Sequence[str], loaded: data.Dataset) -> data.Augmentation:
    """Return how a recipe with these settings varies each image, or the usual way where nothing is given."""
    if not overrides:
        shift = max(1, min(loaded.train.shape[1:]) // 8)
        return data.Augmentation(flip=loaded.flip_allowed, rotation=15.0, shift=shift)
    settings = images_of(name, overrides)
    if settings.augment.mixes:
        raise RecipeError(
            f"data.augment.{settings.augment.mixes}: mixes the images of a batch in pairs, and here each is shown by "
            "itself; leave it out"
        )
    check_augmentation(settings, loaded)
    return augmentation(settings.augment)
