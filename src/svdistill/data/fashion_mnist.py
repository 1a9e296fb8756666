"""Fashion-MNIST: 70,000 pictures of clothing, 28×28, from its four files."""

import os
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten

import torch

from svdistill.data.idx import read_idx
from svdistill.data.sets import Dataset, ImageSet
from svdistill.errors import DataError

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
# Where the Debian package dataset-fashion-mnist puts them.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
# The hashes of the published files. Debian's differ from them in the gzip header alone (file name and time left out).
FILES = {
    "train-images-idx3-ubyte.gz": "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}


def load_fashion_mnist(root: str | os.PathLike[str] | None = None) -> Dataset:
    """Load Fashion-MNIST: 60,000 images to train with and 10,000 to test with.

    Args:
        root: the folder with the four ``.gz`` files. None = the Debian package's folder if it is there, else the user's
            cache, into which they are downloaded once and checked by their hashes.

    Returns:
        The data set, images (N, 1, 28, 28).

    Raises:
        DataError: the folder or a file is missing or damaged, or the download failed.

    Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv 1708.07747.
    """
    folder = _find(root)
    train, test = _read(folder, "train"), _read(folder, "t10k")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{folder} has training images of {tuple(train.images.shape[2:])} pixels and test images of "
            f"{tuple(test.images.shape[2:])}; get the four files from one place"
        )
    return Dataset(name="fashion-mnist", train=train, test=test, flip_allowed=True)


def download(folder: Path, *, url: str, files: Mapping[str, str]) -> None:
    """Download the files that a folder lacks and check each by its hash.

    Args:
        folder: where to put them; made if it is not there.
        url: where they come from, with a slash at the end.
        files: the hash of each, by name.

    Raises:
        DataError: a file could not be had, or is not the one that was expected.
    """
    import pooch  # slow to import, and only needed here

    source = pooch.create(folder, url, registry=dict(files))
    for name in files:
        try:
            source.fetch(name, progressbar=True)
        except (OSError, ValueError) as error:
            reason = shorten(f"{type(error).__name__}: {error}", 160, placeholder=" …")
            raise DataError(
                f"Fashion-MNIST could not be downloaded from {url}{name} ({reason}); put {', '.join(files)} in "
                f"{folder}, or in a folder that you name as root"
            ) from error


def _find(root: str | os.PathLike[str] | None) -> Path:
    if root is not None:
        folder = Path(root)
        if not folder.is_dir():
            raise DataError(f"no data folder {folder}; name the folder with {', '.join(FILES)}")
        missing = _missing(folder)
        if missing:
            raise DataError(f"data folder {folder} lacks {', '.join(missing)}; put them there or name another folder")
        return folder
    if not _missing(DEBIAN):
        return DEBIAN
    import pooch

    cache = Path(pooch.os_cache("svdistill")) / "fashion-mnist"
    download(cache, url=URL, files=FILES)
    return cache


def _missing(folder: Path) -> list[str]:
    return [name for name in FILES if not (folder / name).is_file()]


def _read(folder: Path, part: str) -> ImageSet:
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", dimensions=3)
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", dimensions=1)
    try:
        return ImageSet(images[:, None], labels.to(torch.int64), CLASSES)
    except DataError as error:
        raise DataError(f"{folder}/{part}-*.gz: {error}; get both files again") from error
