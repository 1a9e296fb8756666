"""CIFAR-10 and CIFAR-100: 60,000 colour images, 32×32, from the official archives or the folders in them."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from svdistill.data.archives import read_tar
from svdistill.data.download import Remote, cache_folder, download_all
from svdistill.data.pickles import read_pickle
from svdistill.data.sets import Dataset, ImageSet
from svdistill.errors import DataError

_PIXELS = 3 * 32 * 32
_MOST = 512 << 20  # bytes of a file, or of an archive unzipped: more than twice what there is in one
_MOST_NAMES = 1 << 16  # bytes of the file with the classes' names
_URL = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class Version:
    """One of the two ways in which a data set is published.

    Attributes:
        archive: the archive's name.
        folder: the folder in it.
        train: the files with training images, in order.
        test: the file with test images.
        names: the file with the names of the classes.
    """

    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str

    @property
    def files(self) -> tuple[str, ...]:
        """All files that are read."""
        return (*self.train, self.test, self.names)


@dataclass(frozen=True)
class Cifar:
    """How a data set of the CIFAR family is laid out.

    Attributes:
        name: its name here.
        title: its name elsewhere.
        classes: how many classes it has.
        label_bytes: bytes before the pixels of an image in the binary version; the last one is the class.
        labels: the key of the labels in the Python version.
        names: the key of the classes' names there.
        binary: files of the binary version.
        python: files of the Python version, which are pickles.
        remote: the archive that is downloaded: the binary one.
    """

    name: str
    title: str
    classes: int
    label_bytes: int
    labels: str
    names: str
    binary: Version
    python: Version
    remote: Remote


CIFAR10 = Cifar(
    name="cifar10",
    title="CIFAR-10",
    classes=10,
    label_bytes=1,
    labels="labels",
    names="label_names",
    binary=Version(
        archive="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test="test_batch.bin",
        names="batches.meta.txt",
    ),
    python=Version(
        archive="cifar-10-python.tar.gz",
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{i}" for i in range(1, 6)),
        test="test_batch",
        names="batches.meta",
    ),
    remote=Remote(
        url=_URL + "cifar-10-binary.tar.gz",
        size=170_052_171,
        digest="sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
)
CIFAR100 = Cifar(
    name="cifar100",
    title="CIFAR-100",
    classes=100,
    label_bytes=2,
    labels="fine_labels",
    names="fine_label_names",
    binary=Version(
        archive="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        train=("train.bin",),
        test="test.bin",
        names="fine_label_names.txt",
    ),
    python=Version(
        archive="cifar-100-python.tar.gz", folder="cifar-100-python", train=("train",), test="test", names="meta"
    ),
    remote=Remote(
        url=_URL + "cifar-100-binary.tar.gz",
        size=168_513_733,
        digest="sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    ),
)


def load_cifar(kind: Cifar, root: str | os.PathLike[str] | None = None) -> Dataset:
    """Load CIFAR-10 or CIFAR-100 (its 100 fine classes): 50,000 images to train with and 10,000 to test with.

    Args:
        kind: `CIFAR10` or `CIFAR100`.
        root: an archive, binary or Python version, or the folder that holds one, or the folder unpacked from one. None
            = the user's cache, into which the binary archive is downloaded once and checked. The Python version's
            pickles are read without running anything in them.

    Returns:
        The data set, images (N, 3, 32, 32).

    Raises:
        DataError: the archive or a file is missing, damaged or of something else, or the download failed.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    place = _place(kind, root)
    version, files = _read_archive(kind, place) if place.is_file() else _read_folder(kind, place)
    binary = version is kind.binary
    classes = _names(kind, place, files[version.names], binary=binary)
    parts = []
    for members in (version.train, (version.test,)):
        read = [_read(kind, f"{place}/{name}", files[name], binary=binary) for name in members]
        images, labels = (torch.from_numpy(np.concatenate(part)) for part in zip(*read, strict=True))
        try:
            parts.append(ImageSet(images, labels.to(torch.int64), classes))
        except DataError as error:
            raise DataError(f"{place}/{members[0]}: {error}; get it again") from error
    return Dataset(name=kind.name, train=parts[0], test=parts[1], flip_allowed=True)


def find_cifar(kind: Cifar, folder: Path) -> Path | None:
    """Return the archive, or the folder with the unpacked files, in or at a folder; None where there is none."""
    for version in (kind.binary, kind.python):
        for place in (folder, folder / version.folder):
            if all((place / name).is_file() for name in version.files):
                return place
    for version in (kind.binary, kind.python):
        if (folder / version.archive).is_file():
            return folder / version.archive
    return None


def fetch_cifar(kind: Cifar, folder: Path) -> None:
    """Download the binary archive into a folder that lacks it; DataError where that fails."""
    download_all(kind.title, {kind.binary.archive: kind.remote}, folder)


def _place(kind: Cifar, root: str | os.PathLike[str] | None) -> Path:
    if root is None:
        cache = cache_folder(kind.name)
        found = find_cifar(kind, cache)
        if found is None:
            fetch_cifar(kind, cache)
            found = cache / kind.binary.archive
        return found
    given = Path(root)
    if given.is_file():
        return given
    expected = f"{kind.binary.archive}, {kind.python.archive}, or the folder unpacked from one"
    if not given.is_dir():
        raise DataError(f"no data folder {given}; name one that holds {expected}")
    found = find_cifar(kind, given)
    if found is None:
        raise DataError(f"data folder {given} does not hold {kind.title}; put {expected} there")
    return found


def _read_folder(kind: Cifar, folder: Path) -> tuple[Version, Mapping[str, bytes]]:
    version = kind.binary if (folder / kind.binary.test).is_file() else kind.python
    try:
        large = [name for name in version.files if (folder / name).stat().st_size > _MOST]
        if large:
            raise DataError(f"{folder / large[0]} has more than {_MOST:,} bytes; get {kind.title} again")
        return version, {name: (folder / name).read_bytes() for name in version.files}
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}); check the folder") from error


def _read_archive(kind: Cifar, path: Path) -> tuple[Version, Mapping[str, bytes]]:
    """Read the files from an archive."""
    found = read_tar(path, {*kind.binary.files, *kind.python.files}, most=_MOST)
    for version in (kind.binary, kind.python):
        if found.keys() >= set(version.files):
            return version, found
    least = min((kind.binary, kind.python), key=lambda version: len(set(version.files) - found.keys()))
    missing = [name for name in least.files if name not in found]
    raise DataError(f"{path} is not an archive of {kind.title}: it lacks {', '.join(missing)}; name {least.archive}")


def _names(kind: Cifar, place: Path, content: bytes, *, binary: bool) -> tuple[str, ...]:
    source = f"{place}/{(kind.binary if binary else kind.python).names}"
    if len(content) > _MOST_NAMES:
        raise DataError(f"{source} has {len(content):,} bytes, expected a few names; get {kind.title} again")
    entries: Iterable[object] = content.split(b"\n")
    if not binary:
        entries = _entry(read_pickle(content, source), kind.names, source)
    names = tuple(_text(entry, source) for entry in entries)
    names = tuple(name for name in names if name)
    if len(names) != kind.classes:
        raise DataError(f"{source} names {len(names)} classes, expected {kind.classes}; get {kind.title} again")
    return names


def _text(entry: object, source: str) -> str:
    if not isinstance(entry, bytes | str):
        raise DataError(f"{source} has a {type(entry).__name__} in place of a class's name; get it again")
    return (entry.decode("utf-8", errors="replace") if isinstance(entry, bytes) else entry).strip()


def _read(kind: Cifar, source: str, content: bytes, *, binary: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 3, 32, 32), uint8, and labels (N,) of one file."""
    if binary:
        record = kind.label_bytes + _PIXELS
        if not content or len(content) % record:
            raise DataError(f"{source} has {len(content)} bytes, expected a multiple of {record}; get it again")
        records = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
        return records[:, kind.label_bytes :].reshape(-1, 3, 32, 32), records[:, kind.label_bytes - 1]
    entries = read_pickle(content, source)
    data, labels = _entry(entries, "data", source), _entry(entries, kind.labels, source)
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _PIXELS:
        raise DataError(f"{source} has no images of {_PIXELS} bytes each under 'data'; get it again")
    numbers = isinstance(labels, list) and all(isinstance(label, int) and 0 <= label < 256 for label in labels)
    if not numbers or len(labels) != len(data):
        raise DataError(f"{source} has no {len(data)} labels, 0 to 255, under {kind.labels!r}; get it again")
    return data.reshape(-1, 3, 32, 32), np.asarray(labels)


def _entry(entries: Mapping[bytes | str, object], key: str, source: str) -> list[object] | np.ndarray:
    """Return an entry whose key is a byte string, as Python 2 writes it, or a text."""
    value = entries.get(key.encode(), entries.get(key))
    if not isinstance(value, list | np.ndarray):
        raise DataError(f"{source} has no list {key!r}; it is of another data set")
    return value
