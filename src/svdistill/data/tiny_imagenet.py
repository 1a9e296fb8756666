"""Tiny-ImageNet-200: 110,000 colour images, 64×64, from the official zip archive or the folder in it."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from svdistill.data.archives import opened_zip, read_zip
from svdistill.data.download import Remote, cache_folder, download_all
from svdistill.data.files import Files, FileSet
from svdistill.data.folder import IN_MEMORY, fit_in_memory, walk
from svdistill.data.listing import is_image
from svdistill.data.sets import Dataset, check_class_names
from svdistill.errors import DataError

ARCHIVE = "tiny-imagenet-200.zip"
FOLDER = "tiny-imagenet-200"
SIZE = 64
_MOST_TEXT = 16 << 20  # bytes of a text file: ten times what the longest of them has
REMOTE = Remote(
    url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    size=248_100_043,
    digest="sha256:6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
)


def load_tiny_imagenet(
    root: str | os.PathLike[str] | None = None,
    *,
    image_size: int | None = None,
    classes: Sequence[str] | None = None,
    channels: int | None = None,
    background: str = "white",
    in_memory: int = IN_MEMORY,
) -> Dataset:
    """Load Tiny-ImageNet-200: 100,000 images to train with; its 10,000 validation images to test with.

    Its own test images have no published labels and are not read. A class has its WordNet number, like ``n01443537``,
    for a name. A ``val`` folder that was sorted into classes is understood too.

    Args:
        root: the zip archive, the folder that holds it, or the unpacked folder. None = the user's cache, into which the
            archive is downloaded once and checked; it is read without being unpacked.
        image_size: height and width in pixels; None = 64, as they are.
        classes: the classes to take, in this order; None = all, in the order of ``wnids.txt``.
        channels: 1 or 3; None = 3.
        background: ``white`` or ``black``, what shows through where an image is transparent.
        in_memory: a part with at most this many bytes of pixels is decoded once into memory; a larger one is streamed.

    Returns:
        The data set.

    Raises:
        DataError: the archive, a file or all images of a class are missing, damaged or of something else, or the
            download failed.
        OptionError: an unknown class, or one named twice.

    Source: Y. Le, X. Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS231N, 2015.
    """
    place = _place(root)
    base, inner, names = _listing(place)
    everything = Files(base, names)
    known = tuple(_text(everything, inner + "wnids.txt").split())
    if not known:
        raise DataError(f"{place} names no class in wnids.txt; get {ARCHIVE} again")
    if classes is not None:
        check_class_names(classes, known)
    chosen = tuple(known if classes is None else classes)
    parts = []
    for title, labelled in (
        ("train", _train(names, inner)),
        ("val", _validation(everything, inner)),
    ):
        files, labels = _numbered(place, title, labelled, chosen, known)
        positions, size = torch.arange(len(files)), image_size or SIZE
        found = FileSet(Files(base, files), positions, labels, chosen, size, channels or 3, background=background)
        parts.append(fit_in_memory(found, f"reading {title}", in_memory=in_memory))
    return Dataset(name="tiny-imagenet", train=parts[0], test=parts[1], flip_allowed=True)


def find_tiny_imagenet(folder: Path) -> Path | None:
    """Return the archive, or the unpacked folder, in or at a folder; None where there is none."""
    for place in (folder, folder / FOLDER):
        if (place / "wnids.txt").is_file():
            return place
    return folder / ARCHIVE if (folder / ARCHIVE).is_file() else None


def fetch_tiny_imagenet(folder: Path) -> None:
    """Download the archive into a folder that lacks it; DataError where that fails."""
    download_all("Tiny-ImageNet", {ARCHIVE: REMOTE}, folder)


def _place(root: str | os.PathLike[str] | None) -> Path:
    if root is None:
        cache = cache_folder("tiny-imagenet")
        found = find_tiny_imagenet(cache)
        if found is None:
            fetch_tiny_imagenet(cache)
            found = cache / ARCHIVE
        return found
    given = Path(root)
    if given.is_file():
        return given
    if not given.is_dir():
        raise DataError(f"no data folder {given}; name one that holds {ARCHIVE} or the folder {FOLDER}")
    found = find_tiny_imagenet(given)
    if found is None:
        raise DataError(f"data folder {given} does not hold Tiny-ImageNet; put {ARCHIVE} or the folder {FOLDER} there")
    return found


def _listing(place: Path) -> tuple[Path, str, list[str]]:
    """Return where files are read, what stands before each name, and the names of all images and text files."""
    if place.is_dir():
        return place, "", walk(place)
    with opened_zip(place) as archive:
        names = archive.namelist()
    heads = [name for name in names if name.rsplit("/", 1)[-1] == "wnids.txt"]
    if not heads:
        raise DataError(f"{place} is not an archive of Tiny-ImageNet: it lacks wnids.txt; name {ARCHIVE}")
    return (
        place,
        heads[0].removesuffix("wnids.txt"),
        sorted(name for name in names if is_image(name.rsplit("/", 1)[-1])),
    )


def _text(files: Files, name: str) -> str:
    try:
        if files.base.is_dir():
            with (files.base / name).open("rb") as file:
                content = file.read(_MOST_TEXT + 1)
        else:
            content = read_zip(files.base, name, most=_MOST_TEXT)
        if len(content) > _MOST_TEXT:
            raise DataError(f"{files.base}/{name} holds more than {_MOST_TEXT:,} bytes; get {ARCHIVE} again")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{files.base}/{name} cannot be read ({error}); get {ARCHIVE} again") from error


def _train(names: Sequence[str], inner: str) -> list[tuple[str, str]]:
    return _by_folder(names, f"{inner}train/")


def _validation(files: Files, inner: str) -> list[tuple[str, str]]:
    sorted_in = [pair for pair in _by_folder(files.names, f"{inner}val/") if pair[1] != "images"]
    if sorted_in:
        return sorted_in
    pairs = []
    for line in _text(files, f"{inner}val/val_annotations.txt").splitlines():
        words = line.split()
        if len(words) >= 2:
            pairs.append((f"{inner}val/images/{words[0]}", words[1]))
    return pairs


def _by_folder(names: Sequence[str], prefix: str) -> list[tuple[str, str]]:
    """Return each file below a folder, with the name of the folder that it lies in there."""
    below = [(name, name.removeprefix(prefix).split("/")) for name in names if name.startswith(prefix)]
    return [(name, words[0]) for name, words in below if len(words) > 1]


def _numbered(
    place: Path, title: str, labelled: Sequence[tuple[str, str]], chosen: Sequence[str], known: Sequence[str]
) -> tuple[list[str], torch.Tensor]:
    strange = sorted({name for _, name in labelled} - set(known))
    if strange:
        raise DataError(f"{place}: {title} has a class {strange[0]!r} that is not in wnids.txt; get {ARCHIVE} again")
    numbers = {name: number for number, name in enumerate(chosen)}
    kept = [(file, numbers[name]) for file, name in labelled if name in numbers]
    filled = {number for _, number in kept}
    empty = [name for name in chosen if numbers[name] not in filled]
    if empty:
        raise DataError(f"{place}: {title} has no image of class {empty[0]!r}; get {ARCHIVE} again")
    return [file for file, _ in kept], torch.tensor([number for _, number in kept], dtype=torch.int64)
