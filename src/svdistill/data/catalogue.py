"""Data sets by name."""

import os
from collections.abc import Callable

from svdistill.data.digits import load_digits
from svdistill.data.fashion_mnist import load_fashion_mnist
from svdistill.data.sets import Dataset
from svdistill.errors import DataError, RecipeError, nearest

_Root = str | os.PathLike[str] | None


def _digits(root: _Root) -> Dataset:
    if root is not None:
        raise DataError(f"data folder {root} was named, but digits comes with svdistill; leave the folder out")
    return load_digits()


_CATALOGUE: dict[str, Callable[[_Root], Dataset]] = {"digits": _digits, "fashion-mnist": load_fashion_mnist}


def names() -> tuple[str, ...]:
    """Return the names that `load` knows."""
    return tuple(_CATALOGUE)


def load(name: str, *, root: _Root = None, image_size: int | None = None) -> Dataset:
    """Load a data set into memory.

    Args:
        name: one of `names`.
        root: the folder with its files; None = where it usually is (see each data set's own function).
        image_size: height and width in pixels to which all images are resized once, bilinear; None = as they are.

    Returns:
        The data set, uint8, on the CPU.

    Raises:
        RecipeError: the name is unknown.
        DataError: a file is missing or damaged, or the image size is out of range.
    """
    if name not in _CATALOGUE:
        raise RecipeError(f"no data set is called {name!r}{nearest(str(name), _CATALOGUE)}")
    dataset = _CATALOGUE[name](root)
    if image_size is None:
        return dataset
    return Dataset(
        name=dataset.name,
        train=dataset.train.resized(image_size),
        test=dataset.test.resized(image_size),
        flip_allowed=dataset.flip_allowed,
    )
