"""A task without labels: to tell which way images were turned."""

import torch

from svdistill.data.sets import Dataset, ImageSet, ImageSource
from svdistill.errors import DataError

TURNS = ("0°", "90°", "180°", "270°")


def rotation_task(dataset: Dataset) -> Dataset:
    """Make a data set in which each image is there four times, and its label says which way it was turned.

    The turns are exact quarter turns, counter-clockwise; the labels of the images themselves are not used. Image i
    turned k times becomes image 4i + k, of class k. The channel statistics are those of the images before.

    Args:
        dataset: square images in memory.

    Returns:
        The new data set, whose classes are `TURNS`. A mirrored image is not of its class.

    Raises:
        DataError: the images are not square, or stay on disk.

    Source: S. Gidaris, P. Singh, N. Komodakis, Unsupervised Representation Learning by Predicting Image Rotations,
    ICLR 2018.
    """
    return Dataset(dataset.name, turned(dataset.train), turned(dataset.test), flip_allowed=False)


def turned(source: ImageSource) -> ImageSet:
    """Return each image four times, with its turn for a label; see `rotation_task`.

    Raises:
        DataError: the images are not square, or stay on disk.
    """
    _, height, width = source.shape
    if height != width:
        raise DataError(f"images of {height} × {width} pixels cannot be turned by 90°; make them square by image_size")
    if not isinstance(source, ImageSet):
        raise DataError(
            f"{len(source)} images that stay on disk cannot be turned; take a smaller image_size, or fewer classes, so "
            "that they are read into memory"
        )
    images = torch.stack([torch.rot90(source.images, turns, (2, 3)) for turns in range(len(TURNS))], dim=1)
    labels = torch.arange(len(TURNS), device=source.device).repeat(len(source))
    origins = source.digests().repeat_interleave(len(TURNS), dim=0)
    broken = None if source.broken is None else source.broken.repeat_interleave(len(TURNS))
    return ImageSet(images.flatten(0, 1), labels, TURNS, origins=origins, broken=broken)
