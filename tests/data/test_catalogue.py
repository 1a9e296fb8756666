"""Tests of data sets by name."""

from typing import Any

import pytest

from svdistill.data import load, names
from svdistill.errors import DataError, RecipeError


def test_names() -> None:
    """Both data sets are known."""
    assert names() == ("digits", "fashion-mnist")


def test_unknown_name_points_to_the_nearest() -> None:
    """A misspelt name is answered with the right one."""
    with pytest.raises(RecipeError, match=r"'fashion_mnist'; did you mean 'fashion-mnist'"):
        load("fashion_mnist")
    with pytest.raises(RecipeError, match="known: digits, fashion-mnist"):
        load("cifar")


def test_image_size() -> None:
    """Images are resized, labels and classes stay."""
    small, large = load("digits"), load("digits", image_size=16)
    assert large.train.images.shape == (1000, 1, 16, 16)
    assert large.test.images.shape == (797, 1, 16, 16)
    assert large.train.labels.tolist() == small.train.labels.tolist()
    assert (large.name, large.flip_allowed) == (small.name, small.flip_allowed)


@pytest.mark.parametrize("size", [0, -1, 1.5, "big"])
def test_impossible_image_size(size: Any) -> None:
    """A size that is no number of pixels is refused."""
    with pytest.raises(DataError, match="image_size is"):
        load("digits", image_size=size)


def test_folder_for_embedded_data() -> None:
    """A folder for data that needs none is not ignored in silence."""
    with pytest.raises(DataError, match="leave the folder out"):
        load("digits", root="/somewhere")
