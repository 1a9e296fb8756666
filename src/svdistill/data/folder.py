"""Any tree of image files: a folder for training and one for testing, in each a folder a class."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from svdistill.data.files import Files, FileSet
from svdistill.data.sets import Dataset, ImageSource, check_class_names
from svdistill.errors import DataError, OptionError, nearest

# Larger sets are streamed: a number that does not depend on the machine, so that a run does not either.
IN_MEMORY = 2 << 30
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_TEST_FOLDERS = ("val", "validation", "test")


def load_image_folder(
    root: str | os.PathLike[str] | None,
    *,
    image_size: int | None,
    classes: Sequence[str] | None = None,
    channels: int | None = None,
    in_memory: int = IN_MEMORY,
) -> Dataset:
    """Load a tree ``ROOT/train/CLASS/….jpg`` and ``ROOT/val/CLASS/….jpg`` (or ``validation``, or ``test``).

    Folders within a class's folder are searched too; files of other kinds, and hidden ones, are left alone.

    Args:
        root: the folder.
        image_size: height and width in pixels; see `FileSet`.
        classes: the classes to take, in this order; None = all folders in ``train``, sorted.
        channels: 1 or 3; None = 3.
        in_memory: a part with at most this many bytes of pixels is decoded once into memory; a larger one is streamed.

    Returns:
        The data set.

    Raises:
        DataError: a folder or all images of a class are missing, or more than a few images cannot be decoded.
        OptionError: no folder or no size is named, an unknown class, or one named twice.
    """
    if root is None:
        raise OptionError("image-folder needs a folder: name as root the one that holds train/CLASS/… and val/CLASS/…")
    if image_size is None:
        raise OptionError("image-folder needs a size: give image_size, the height and width of all images in pixels")
    base = Path(root)
    train, test = _parts(base)
    known = _folders(train)
    if not known:
        raise DataError(f"{train} holds no folders; expected one a class, with images in it")
    strange = sorted(set(_folders(test)) - set(known))
    if strange:
        raise DataError(f"{test} has a class {strange[0]!r} that {train} lacks{nearest(strange[0], known)}")
    if classes is not None:
        check_class_names(classes, known)
    chosen = tuple(known if classes is None else classes)
    parts = []
    for part in (train, test):
        found = _file_set(part, chosen, image_size=image_size, channels=channels or 3)
        if part is train and found.labels.bincount(minlength=len(chosen)).min() == 0:
            empty = chosen[int(found.labels.bincount(minlength=len(chosen)).argmin())]
            raise DataError(f"{train / empty} holds no image ({', '.join(EXTENSIONS)}); remove it or fill it")
        parts.append(fit_in_memory(found, f"reading {part.name}", in_memory=in_memory))
    return Dataset(name="image-folder", train=parts[0], test=parts[1], flip_allowed=True)


def fit_in_memory(files: FileSet, title: str, *, in_memory: int = IN_MEMORY) -> ImageSource:
    """Decode a set into memory where it takes at most `in_memory` bytes, else return it as it is."""
    return files.loaded(title) if files.bytes <= in_memory else files


def walk(folder: Path) -> list[str]:
    """Return the image files below a folder, relative to it, with slashes, sorted; hidden ones are left out."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = Path(place).relative_to(folder).as_posix()
        prefix = "" if inner == "." else inner + "/"
        found += [prefix + name for name in names if is_image(name)]
    return sorted(found)


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image that can be read."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _parts(base: Path) -> tuple[Path, Path]:
    if not base.is_dir():
        raise DataError(f"no data folder {base}; name one that holds train/CLASS/… and val/CLASS/…")
    train = base / "train"
    tests = [base / name for name in _TEST_FOLDERS if _folders(base / name)]
    if not train.is_dir() or not tests:
        what = "train" if not train.is_dir() else "val/CLASS (or test/CLASS)"
        raise DataError(f"data folder {base} has no folder {what}; expected train/CLASS/… and val/CLASS/…")
    return train, tests[0]


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _file_set(part: Path, classes: Sequence[str], *, image_size: int, channels: int) -> FileSet:
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = walk(part / name)
        names += [f"{name}/{file}" for file in found]
        labels += [label] * len(found)
    files = Files(part, names)
    return FileSet(
        files, torch.arange(len(names)), torch.tensor(labels, dtype=torch.int64), tuple(classes), image_size, channels
    )
