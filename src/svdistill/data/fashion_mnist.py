"""Fashion-MNIST: 70,000 pictures of clothing, 28×28, from its four files."""

import os
from pathlib import Path

import torch

from svdistill.data.download import Remote, cache_folder, download_all
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
# Where the Debian package dataset-fashion-mnist puts them.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_PUBLISHED = (
    ("train-images-idx3-ubyte.gz", 26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    ("train-labels-idx1-ubyte.gz", 29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    ("t10k-images-idx3-ubyte.gz", 4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    ("t10k-labels-idx1-ubyte.gz", 5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
)
# Debian's files differ from the published ones in the gzip header alone (file name and time left out).
FILES = {name: Remote(url=_URL + name, size=size, digest=f"sha256:{digest}") for name, size, digest in _PUBLISHED}


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
    if train.shape != test.shape:
        raise DataError(
            f"{folder} has training images of {tuple(train.images.shape[2:])} pixels and test images of "
            f"{tuple(test.images.shape[2:])}; get the four files from one place"
        )
    return Dataset(name="fashion-mnist", train=train, test=test, flip_allowed=True)


def find_fashion_mnist(folder: Path) -> Path | None:
    """Return the folder if it holds the four files, else None."""
    return None if _missing(folder) else folder


def fetch_fashion_mnist(folder: Path) -> None:
    """Download those of the four files that a folder lacks; DataError where that fails."""
    download_all("Fashion-MNIST", FILES, folder)


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
    cache = cache_folder("fashion-mnist")
    fetch_fashion_mnist(cache)
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
