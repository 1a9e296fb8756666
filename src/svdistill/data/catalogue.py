"""Data sets by name: what each is, where it comes from, and how it is loaded."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from svdistill.choices import IMAGE_FOLDER
from svdistill.data import fashion_mnist
from svdistill.data.cifar import CIFAR10, CIFAR100, Cifar, fetch_cifar, find_cifar, load_cifar
from svdistill.data.digits import load_digits
from svdistill.data.download import Remote, cache_folder, check_file
from svdistill.data.fashion_mnist import fetch_fashion_mnist, find_fashion_mnist, load_fashion_mnist
from svdistill.data.files import check_background
from svdistill.data.folder import IN_MEMORY, load_flat_folder, load_image_folder, load_test_folder
from svdistill.data.sets import Dataset, ImageSet, ImageSource, check_channels, check_image_size
from svdistill.data.tiny_imagenet import ARCHIVE, REMOTE, fetch_tiny_imagenet, find_tiny_imagenet, load_tiny_imagenet
from svdistill.errors import DataError, OptionError, nearest
from svdistill.names import same

Root = str | os.PathLike[str] | None
Classes = Sequence[str] | str | os.PathLike[str]


@dataclass(frozen=True)
class Description:
    """What is known of a data set before it is loaded.

    Attributes:
        name: what `load` calls it.
        shape: (C, H, W) of its images; None where that is chosen.
        classes: how many classes it has; None where the folder says.
        train: how many images there are to train with; None where the folder says.
        test: how many to test with; None where the folder says.
        flip_allowed: whether a mirrored image still belongs to its class.
        source: who made it.
        size: bytes to download; 0 where nothing is.
        expected: what `root` may name.
        found: where it was found among the folders that are searched without `root`; None where it was not.
        folder: where a download puts it; None where there is none.
    """

    name: str
    shape: tuple[int, int, int] | None
    classes: int | None
    train: int | None
    test: int | None
    flip_allowed: bool
    source: str
    size: int
    expected: str
    found: Path | None = None
    folder: Path | None = None

    @property
    def available(self) -> bool:
        """Whether it can be loaded at once, without a download or a folder to be named."""
        return self.found is not None or (self.size == 0 and self.shape is not None)


@dataclass(frozen=True)
class _Entry:
    """A data set: how to load it, in memory (then it is cut to size afterwards) or from files; find it and fetch it."""

    description: Description
    load: Callable[[Root], Dataset] | None = None
    load_files: Callable[..., Dataset] | None = None
    load_test: Callable[..., ImageSource] | None = None
    load_unlabelled: Callable[..., ImageSource] | None = None
    find: Callable[[Path], Path | None] | None = None
    fetch: Callable[[Path], None] | None = None
    files: Mapping[str, Remote] | None = None
    elsewhere: tuple[Path, ...] = ()


def names() -> tuple[str, ...]:
    """Return the names that `load` knows."""
    return tuple(_catalogue())


def describe(name: str) -> Description:
    """Return what is known of a data set before it is loaded, and whether it is here.

    Args:
        name: one of `names`.

    Raises:
        OptionError: the name is unknown.
    """
    entry = _entry(name)
    if entry.find is None:
        return entry.description
    folder = cache_folder(name)
    found = next((path for path in map(entry.find, (*entry.elsewhere, folder)) if path is not None), None)
    return Description(**{**entry.description.__dict__, "found": found, "folder": folder})


def fetch(name: str, *, folder: Root = None) -> Path:
    """Download a data set, where it is not here yet, and check all that was downloaded by size and hash.

    Args:
        name: one of `names`.
        folder: where to put it; None = the user's cache, where `load` finds it.

    Returns:
        The folder with the files, or, without `folder`, the other folder where the data set was found.

    Raises:
        OptionError: the name is unknown.
        DataError: the data set needs no download, a download failed, or a file is not the published one.
    """
    entry = _entry(name)
    if entry.fetch is None or entry.files is None:
        what = "comes with svdistill" if entry.load is not None else "is any folder of your own"
        raise DataError(f"{name} {what}; there is nothing to fetch")
    target = cache_folder(name) if folder is None else Path(folder)
    there = [file for file in entry.files if (target / file).is_file()]
    found = describe(name).found
    if folder is None and found is not None and not there:
        return found  # unpacked, or where the system keeps it
    entry.fetch(target)
    for file in there:  # what has just come was checked on its way
        check_file(target / file, size=entry.files[file].size, digest=entry.files[file].digest)
    return target


def load(
    name: str,
    *,
    root: Root = None,
    image_size: int | None = None,
    classes: Classes | None = None,
    channels: int | None = None,
    background: str = "white",
    in_memory: int = IN_MEMORY,
) -> Dataset:
    """Load a data set into memory; a tree of images that is too large for it is read as it is used.

    Args:
        name: one of `names`.
        root: the folder, or the archive, with its files; None = where it usually is (see each data set's own function).
        image_size: height and width in pixels to which all images are brought once; None = as they are.
        classes: the classes to take, numbered in this order: their names, or a file with one name a line, in which
            empty lines and those that begin with ``#`` do not count; None = all.
        channels: 1 = grey, 3 = colour; None = as they are.
        background: ``white`` or ``black``, what shows through where an image file is transparent.
        in_memory: how many bytes the pixels of each part may take in memory, where they come from image files; what is
            larger is decoded by worker processes as it is used. 0 = decode nothing yet.

    Returns:
        The data set, uint8, on the CPU.

    Raises:
        OptionError: the name, or a class, is unknown, or the image size, number of channels or background is none.
        DataError: a file is missing or damaged.
    """
    entry = _entry(name)
    if image_size is not None:
        check_image_size(image_size)
    if channels is not None:
        check_channels(channels)
    check_background(background)
    chosen = None if classes is None else read_classes(classes)
    if entry.load_files is not None:
        return entry.load_files(
            root,
            image_size=image_size,
            classes=chosen,
            channels=channels,
            background=background,
            in_memory=in_memory,
        )
    assert entry.load is not None
    dataset = entry.load(root)
    train, test = (_cut(part, image_size, chosen, channels) for part in (dataset.train, dataset.test))
    return Dataset(name=dataset.name, train=train, test=test, flip_allowed=dataset.flip_allowed)


def load_test(
    name: str,
    *,
    root: Root = None,
    image_size: int | None = None,
    classes: Classes | None = None,
    channels: int | None = None,
    background: str = "white",
    tell_others: bool = False,
) -> ImageSource:
    """Load the test images of a data set; of a folder of images, they need not stand beside images to train with.

    Args:
        name: see `load`, also for the others.
        root: the folder, or the archive.
        image_size: height and width in pixels.
        classes: the classes to take, numbered in this order.
        channels: 1 = grey, 3 = colour.
        background: ``white`` or ``black``.
        tell_others: whether a warning counts the images of a folder whose class is not among those to take.

    Raises:
        OptionError: as `load`.
        DataError: as `load`.
    """
    whole = _entry(name).load_test
    if whole is None:
        return load(
            name, root=root, image_size=image_size, classes=classes, channels=channels, background=background
        ).test
    chosen = None if classes is None else read_classes(classes)
    return whole(
        root,
        image_size=image_size,
        classes=chosen,
        channels=channels,
        background=background,
        tell_others=tell_others,
    )


def load_unlabelled(
    name: str,
    *,
    root: Root = None,
    image_size: int | None = None,
    channels: int | None = None,
    background: str = "white",
) -> ImageSource:
    """Load the training images of a data set without their labels; a folder of images needs no classes.

    Args:
        name: see `load`, also for the others.
        root: the folder, or the archive.
        image_size: height and width in pixels.
        channels: 1 = grey, 3 = colour.
        background: ``white`` or ``black``.

    Raises:
        OptionError: as `load`.
        DataError: as `load`.
    """
    bare = _entry(name).load_unlabelled
    if bare is not None:
        return bare(root, image_size=image_size, channels=channels, background=background)
    loaded = load(name, root=root, image_size=image_size, channels=channels, background=background)
    return loaded.train.unlabelled()


def read_classes(classes: Classes) -> tuple[str, ...]:
    """Return names of classes in the form that they are compared in, or read them from a file, one a line.

    Args:
        classes: the names, or the file.

    Raises:
        DataError: the file cannot be read, or names no class.
    """
    if not isinstance(classes, str | os.PathLike):
        return tuple(map(same, classes))
    path = Path(classes)
    try:
        lines = [same(line.strip()) for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise DataError(
            f"the class list {path} cannot be read ({reason}); name a text file, one class a line"
        ) from error
    found = tuple(line for line in lines if line and not line.startswith("#"))
    if not found:
        raise DataError(f"the class list {path} is empty; write one class a line")
    return found


def _cut(part: object, image_size: int | None, classes: Sequence[str] | None, channels: int | None) -> ImageSet:
    assert isinstance(part, ImageSet)
    # Cheapest first: fewer images, then fewer channels, are resized sooner.
    part = part if classes is None else part.select(classes)
    part = part if channels is None else part.with_channels(channels)
    return part if image_size is None else part.resized(image_size)


def _entry(name: str) -> _Entry:
    known = _catalogue()
    if name not in known:
        raise OptionError(f"no data set is called {name!r}{nearest(str(name), known)}")
    return known[name]


def _digits(root: Root) -> Dataset:
    if root is not None:
        raise DataError(f"data folder {root} was named, but digits comes with svdistill; leave the folder out")
    return load_digits()


def _cifar(kind: Cifar) -> _Entry:
    return _Entry(
        Description(
            name=kind.name,
            shape=(3, 32, 32),
            classes=kind.classes,
            train=50_000,
            test=10_000,
            flip_allowed=True,
            source="A. Krizhevsky, 2009",
            size=kind.remote.size,
            expected=f"{kind.binary.archive} or {kind.python.archive}, or the folder unpacked from one",
        ),
        load=partial(load_cifar, kind),
        find=partial(find_cifar, kind),
        fetch=partial(fetch_cifar, kind),
        files={kind.binary.archive: kind.remote},
    )


def _catalogue() -> dict[str, _Entry]:
    return {
        "digits": _Entry(
            Description(
                name="digits",
                shape=(1, 8, 8),
                classes=10,
                train=1_000,
                test=797,
                flip_allowed=False,
                source="E. Alpaydin, C. Kaynak, 1998",
                size=0,
                expected="nothing: it comes with svdistill",
            ),
            load=_digits,
        ),
        "fashion-mnist": _Entry(
            Description(
                name="fashion-mnist",
                shape=(1, 28, 28),
                classes=10,
                train=60_000,
                test=10_000,
                flip_allowed=True,
                source="H. Xiao, K. Rasul, R. Vollgraf, 2017",
                size=sum(file.size for file in fashion_mnist.FILES.values()),
                expected=f"the folder with {', '.join(fashion_mnist.FILES)}",
            ),
            load=load_fashion_mnist,
            find=find_fashion_mnist,
            fetch=fetch_fashion_mnist,
            files=fashion_mnist.FILES,
            elsewhere=(fashion_mnist.DEBIAN,),
        ),
        "cifar10": _cifar(CIFAR10),
        "cifar100": _cifar(CIFAR100),
        "tiny-imagenet": _Entry(
            Description(
                name="tiny-imagenet",
                shape=(3, 64, 64),
                classes=200,
                train=100_000,
                test=10_000,
                flip_allowed=True,
                source="Y. Le, X. Yang, 2015",
                size=REMOTE.size,
                expected=f"{ARCHIVE}, or the folder unpacked from it",
            ),
            load_files=load_tiny_imagenet,
            find=find_tiny_imagenet,
            fetch=fetch_tiny_imagenet,
            files={ARCHIVE: REMOTE},
        ),
        IMAGE_FOLDER: _Entry(
            Description(
                name=IMAGE_FOLDER,
                shape=None,
                classes=None,
                train=None,
                test=None,
                flip_allowed=True,
                source="your own images",
                size=0,
                expected="a folder with train/CLASS/… and val/CLASS/… (or test/CLASS/…); image_size is needed too",
            ),
            load_files=load_image_folder,
            load_test=load_test_folder,
            load_unlabelled=load_flat_folder,
        ),
    }
