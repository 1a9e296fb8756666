"""Any tree of image files: a folder for training and one for testing, in each a folder a class."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from svdistill.choices import IMAGE_FOLDER
from svdistill.data.files import Files, FileSet
from svdistill.data.listing import LeftOut, Listing
from svdistill.data.sets import UNLABELLED, Dataset, ImageSource, check_class_names
from svdistill.errors import DataError, OptionError, SvdistillWarning, nearest
from svdistill.names import same

# Larger sets are streamed: a number that does not depend on the machine, so that a run does not either.
IN_MEMORY = 2 << 30
_TEST_FOLDERS = ("val", "validation", "test")


def load_image_folder(
    root: str | os.PathLike[str] | None,
    *,
    image_size: int | None,
    classes: Sequence[str] | None = None,
    channels: int | None = None,
    background: str = "white",
    in_memory: int = IN_MEMORY,
) -> Dataset:
    """Load a tree ``ROOT/train/CLASS/….jpg`` and ``ROOT/val/CLASS/….jpg`` (or ``validation``, or ``test``).

    Folders within a class's folder are searched too. A class is told by its name in the form NFC. What is no image, or
    hidden, or made by a system for itself, is left out, and a warning counts it.

    Args:
        root: the folder.
        image_size: height and width in pixels; see `FileSet`.
        classes: the classes to take, in this order; None = all folders in ``train``, sorted.
        channels: 1 or 3; None = 3.
        background: ``white`` or ``black``, what shows through where an image is transparent.
        in_memory: a part with at most this many bytes of pixels is decoded once into memory; a larger one is streamed.

    Returns:
        The data set.

    Raises:
        DataError: a folder or all images of a class are missing, one cannot be read, or more than a few images cannot
            be decoded.
        OptionError: no folder or no size is named, an unknown class, or one named twice.
    """
    base, size = _given(root, image_size)
    train, test = _Part(_train_folder(base)), _Part(test_folder(base))
    if not train.folders:
        raise DataError(f"{train.path} holds no folders; expected one a class, with images in it")
    known = list(train.folders)
    _check_classes(test, known, f"that {train.path} lacks")
    chosen = _chosen(classes, known)
    parts = []
    for part in (train, test):
        found = part.images(chosen, image_size=size, channels=channels or 3, background=background)
        if part is train and found.labels.bincount(minlength=len(chosen)).min() == 0:
            empty = chosen[int(found.labels.bincount(minlength=len(chosen)).argmin())]
            raise DataError(f"{train.path / empty} holds no image; remove it or fill it")
        parts.append(fit_in_memory(found, f"reading {part.path.name}", in_memory=in_memory))
    return Dataset(name=IMAGE_FOLDER, train=parts[0], test=parts[1], flip_allowed=True)


def load_test_folder(
    root: str | os.PathLike[str] | None,
    *,
    image_size: int | None,
    classes: Sequence[str] | None = None,
    channels: int | None = None,
    background: str = "white",
    in_memory: int = IN_MEMORY,
    tell_others: bool = False,
) -> ImageSource:
    """Load the test images of a tree alone; it needs no folder ``train``, and one without classes is as none.

    Args:
        root: see `load_image_folder`, also for the others.
        image_size: height and width in pixels.
        classes: the classes, in this order; None = the folders in ``train``, and where there is none, those in ``val``
            or ``test``.
        channels: 1 or 3; None = 3.
        background: ``white`` or ``black``.
        in_memory: how many bytes the pixels may take.
        tell_others: whether a warning counts the images of classes that are not among those to take.

    Returns:
        The images.

    Raises:
        DataError: a folder is missing or cannot be read, or more than a few images cannot be decoded.
        OptionError: no folder or no size is named, or a class is named twice or without images.
    """
    base, size = _given(root, image_size)
    test, train = _Part(test_folder(base)), base / "train"
    trained = list(_Part(train).folders) if train.is_dir() else []
    known = trained or list(test.folders)
    if classes is None or trained:
        _check_classes(test, known, f"that {train} lacks")
        chosen = _chosen(classes, known)
    else:
        chosen = _chosen(classes, [*known, *map(same, classes)])
        _check_classes(test, chosen, "that is not among the classes")
    found = test.images(chosen, image_size=size, channels=channels or 3, background=background)
    if tell_others:
        test.tell_others(chosen)
    return fit_in_memory(found, f"reading {test.path.name}", in_memory=in_memory)


def load_flat_folder(
    root: str | os.PathLike[str] | None,
    *,
    image_size: int | None,
    channels: int | None = None,
    background: str = "white",
    in_memory: int = IN_MEMORY,
) -> ImageSource:
    """Load all images in a folder and the folders in it, without labels.

    Args:
        root: the folder; of one that holds a folder ``train``, the images in that.
        image_size: height and width in pixels.
        channels: 1 or 3; None = 3.
        background: ``white`` or ``black``.
        in_memory: how many bytes the pixels may take.

    Returns:
        The images, in the order of their names.

    Raises:
        DataError: the folder is missing, cannot be read or holds no image, or more than a few cannot be decoded.
        OptionError: no folder or no size is named.
    """
    base, size = _given(root, image_size, holds="pictures")
    base = base / "train" if (base / "train").is_dir() else base
    listing = Listing(base)
    names = listing.images()
    _tell(base, listing.left_out)
    labels = torch.full((len(names),), UNLABELLED)
    files, positions = Files(base, names), torch.arange(len(names))
    found = FileSet(files, positions, labels, (), size, channels or 3, labelled=False, background=background)
    return fit_in_memory(found, f"reading {base.name}", in_memory=in_memory)


def fit_in_memory(files: FileSet, title: str, *, in_memory: int = IN_MEMORY) -> ImageSource:
    """Decode a set into memory where it takes at most `in_memory` bytes, else return it as it is."""
    return files.loaded(title) if files.bytes <= in_memory else files


def walk(folder: Path) -> list[str]:
    """Return the image files below a folder, relative to it, with slashes, sorted; see `Listing`.

    Raises:
        DataError: a folder cannot be read.
    """
    return Listing(folder).images()


class _Part:
    """The training or the test images of a tree.

    Attributes:
        path: its folder.
        folders: by the name of each class, in the order of the names, its folders; there are several where two names
            are the same but for their normal form.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listing = Listing(path)
        found: dict[str, list[str]] = {}
        for folder in self._listing.folders():
            found.setdefault(same(folder), []).append(folder)
        self.folders: Mapping[str, Sequence[str]] = dict(sorted(found.items()))

    def images(self, classes: Sequence[str], *, image_size: int, channels: int, background: str) -> FileSet:
        names: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            found = [file for folder in self.folders.get(name, ()) for file in self._listing.images(folder)]
            names += found
            labels += [label] * len(found)
        _tell(self.path, self._listing.left_out)
        positions, numbers = torch.arange(len(names)), torch.tensor(labels, dtype=torch.int64)
        files = Files(self.path, names)
        return FileSet(files, positions, numbers, tuple(classes), image_size, channels, background=background)

    def tell_others(self, classes: Sequence[str]) -> None:
        """Warn of the images whose class is not among these, with their number."""
        others = [name for name in self.folders if name not in set(classes)]
        count = sum(len(self._listing.images(folder)) for name in others for folder in self.folders[name])
        if count:
            named = ", ".join(map(repr, others[:3])) + (", …" if len(others) > 3 else "")
            warnings.warn(
                f"left out of {self.path}: {count:,} images whose class is not among the {len(classes)} known ones "
                f"({named}); what is measured is of the others",
                SvdistillWarning,
                stacklevel=3,
            )


def _given(
    root: str | os.PathLike[str] | None, image_size: int | None, *, holds: str = "train/CLASS/… and val/CLASS/…"
) -> tuple[Path, int]:
    if root is None:
        raise OptionError("image-folder needs a folder: name as root the one that holds " + holds)
    if image_size is None:
        raise OptionError("image-folder needs a size: give image_size, the height and width of all images in pixels")
    if not Path(root).is_dir():
        raise DataError(f"no data folder {Path(root)}; name one that holds {holds}")
    return Path(root), image_size


def _train_folder(base: Path) -> Path:
    if not (base / "train").is_dir():
        raise DataError(
            f"data folder {base} has no folder train; expected train/CLASS/… and val/CLASS/…; images without classes "
            "can be data.unlabelled"
        )
    return base / "train"


def test_folder(base: Path) -> Path:
    """Return the part of a tree whose images are measured on; a `DataError` where there is none."""
    for name in _TEST_FOLDERS:
        if (base / name).is_dir() and Listing(base / name).folders():
            return base / name
    raise DataError(
        f"data folder {base} has no folder val/CLASS (or test/CLASS); expected train/CLASS/… and val/CLASS/…"
    )


def _check_classes(part: _Part, known: Sequence[str], where: str) -> None:
    strange = sorted(set(part.folders) - set(known))
    if strange:
        raise DataError(f"{part.path} has a class {strange[0]!r} {where}{nearest(strange[0], known)}")


def _chosen(classes: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    if classes is None:
        return tuple(known)
    chosen = tuple(map(same, classes))
    check_class_names(chosen, known)
    return chosen


def _tell(folder: Path, left_out: LeftOut) -> None:
    if left_out.counts:
        warnings.warn(f"left out of {folder}: {left_out}", SvdistillWarning, stacklevel=3)
