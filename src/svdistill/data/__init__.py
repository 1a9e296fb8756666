"""Image sets, in memory or on disk, and batches of them, augmented and standardized on the device."""

from svdistill.data.augment import Augmentation, Numbers, Views
from svdistill.data.batches import Batch, Batches, Draws, Shard, every_view
from svdistill.data.boxes import Erasing, ResizedCrop
from svdistill.data.catalogue import (
    Classes,
    Description,
    Root,
    describe,
    fetch,
    load,
    load_test,
    load_unlabelled,
    names,
    read_classes,
)
from svdistill.data.colours import ColourJitter
from svdistill.data.digest import fingerprint
from svdistill.data.download import Remote, cache_folder, download
from svdistill.data.edits import augment
from svdistill.data.files import Files, FileSet
from svdistill.data.geometry import warp
from svdistill.data.held_out import hold_out, split
from svdistill.data.mixed import Mixed
from svdistill.data.mixing import Mixing
from svdistill.data.rotation import rotation_task, turned
from svdistill.data.sets import UNLABELLED, Dataset, ImageSet, ImageSource
from svdistill.data.statistics import channel_statistics, measured, standardize

__all__ = [
    "UNLABELLED",
    "Augmentation",
    "Batch",
    "Batches",
    "Classes",
    "ColourJitter",
    "Dataset",
    "Description",
    "Draws",
    "Erasing",
    "FileSet",
    "Files",
    "ImageSet",
    "ImageSource",
    "Mixed",
    "Mixing",
    "Numbers",
    "Remote",
    "ResizedCrop",
    "Root",
    "Shard",
    "Views",
    "augment",
    "cache_folder",
    "channel_statistics",
    "describe",
    "download",
    "every_view",
    "fetch",
    "fingerprint",
    "hold_out",
    "measured",
    "load",
    "load_test",
    "load_unlabelled",
    "names",
    "read_classes",
    "rotation_task",
    "split",
    "standardize",
    "turned",
    "warp",
]
