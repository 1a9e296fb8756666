"""Image sets as uint8 tensors on the device, and batches of them, augmented and standardized there."""

from svdistill.data.augment import Augmentation, augment
from svdistill.data.batches import Batches, Mixed
from svdistill.data.catalogue import load, names
from svdistill.data.sets import UNLABELLED, Dataset, ImageSet, ImageSource
from svdistill.data.statistics import channel_statistics, standardize

__all__ = [
    "UNLABELLED",
    "Augmentation",
    "Batches",
    "Dataset",
    "ImageSet",
    "ImageSource",
    "Mixed",
    "augment",
    "channel_statistics",
    "load",
    "names",
    "standardize",
]
