"""A part of the training images, of each class alike, that is measured on and not trained on."""

import zlib

import torch

from svdistill.data.sets import Dataset, ImageSource
from svdistill.errors import DataError, OptionError


def hold_out(dataset: Dataset, fraction: float) -> Dataset:
    """Leave a part of the training images out of training and measure on it in place of the test images.

    Args:
        dataset: the data set; its test images are not used.
        fraction: which part, between 0 and 1, both excluded; see :func:`split`.

    Returns:
        The data set with the remaining training images, and with those held out as its test images; both in the order
        of the whole set.

    Raises:
        OptionError: the fraction is not between 0 and 1.
        DataError: of some class no image would be held out, or none would remain.
    """
    train, held = split(dataset.train, fraction)
    return Dataset(name=dataset.name, train=train, test=held, flip_allowed=dataset.flip_allowed)


def split(source: ImageSource, fraction: float) -> tuple[ImageSource, ImageSource]:
    """Split images into those to train on and a part to measure on.

    Of each class the same part is held out, rounded to whole images, so equally many where classes are equally large.
    Which ones depends on the name of the class and the number of its images alone: no seed, and no selection of other
    classes, changes it, so that no teacher trains on what a student is measured on.

    Args:
        source: the images, with labels.
        fraction: which part is measured on, between 0 and 1, both excluded.

    Returns:
        The images to train on and those to measure on; both in the order of the whole set.

    Raises:
        OptionError: the fraction is not between 0 and 1.
        DataError: of some class no image would be held out, or none would remain.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise OptionError(f"the part to hold out is {fraction!r}, expected a fraction between 0 and 1")
    labels = source.labels.cpu()
    held = torch.zeros(len(source), dtype=torch.bool)
    for number, name in enumerate(source.classes):
        of_class = torch.nonzero(labels == number).flatten()
        count = round(fraction * len(of_class))
        if not 0 < count < len(of_class):
            what, change = ("held out", "larger") if count == 0 else ("left to train on", "smaller")
            raise DataError(
                f"of the {len(of_class)} images of class {name!r} none would be {what} with the fraction "
                f"{fraction:g}; take a {change} one"
            )
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode(errors="backslashreplace")))
        held[of_class[torch.randperm(len(of_class), generator=generator)[:count]]] = True
    return source.take(torch.nonzero(~held).flatten()), source.take(torch.nonzero(held).flatten())
