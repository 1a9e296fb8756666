"""Tests of the embedded digits."""

import hashlib

import pytest
import torch
from torch import Tensor

from svdistill.data import load

DIGESTS = {
    "train images": "8ae1916d7e2222578397b99c120394517cfd33c3ff50c09f08578a053a0ec54e",
    "train labels": "2b992b028b60afcee0b741ecd2285a64ca3db54df6d7c3ecc0fe0a9ff745fb7a",
    "test images": "e046a2ea401372f5fbcfb52ef7f8fa3cc0b5ebe6580e4787dad760d094ce8e41",
    "test labels": "13da46c0d6522603e2e489450b030386768ee15a4648a249e928bf686cababfc",
}


def digest(values: Tensor) -> str:
    """Return the SHA-256 of a tensor's bytes, in order."""
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def test_split() -> None:
    """1,000 images to train with, 100 of each class, and the other 797 to test with."""
    digits = load("digits")
    assert (digits.name, digits.flip_allowed) == ("digits", False)
    assert digits.train.images.shape == (1000, 1, 8, 8)
    assert digits.test.images.shape == (797, 1, 8, 8)
    assert digits.train.labels.bincount().tolist() == [100] * 10
    assert digits.test.labels.bincount().add(100).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize("name", DIGESTS)
def test_every_pixel_and_label(name: str) -> None:
    """They are scikit-learn's, split as ever: each digest was taken of what sklearn.datasets.load_digits returns."""
    part, kind = name.split()
    digits = load("digits")
    images = digits.train if part == "train" else digits.test
    assert digest(images.images if kind == "images" else images.labels) == DIGESTS[name]


def test_values() -> None:
    """Pixels span 0 to 255, and the images belong to their labels."""
    digits = load("digits")
    assert (int(digits.train.images.min()), int(digits.train.images.max())) == (0, 255)
    assert digits.train.labels[:20].tolist() == 2 * list(range(10))
    seven = [0, 0, 7, 8, 13, 16, 15, 1]  # the first row of the first seven, 0 to 16
    assert digits.train.images[7, 0, 0].tolist() == [round(value * 255 / 16) for value in seven]
    assert digits.train.classes == tuple("0123456789")


def test_same_every_time() -> None:
    """The split does not depend on any random number."""
    torch.manual_seed(0)
    first = load("digits")
    torch.manual_seed(1)
    assert torch.equal(load("digits").train.images, first.train.images)


def test_every_size_of_subset_can_be_had() -> None:
    """From ten images to all, the training set gives equal classes."""
    train = load("digits").train
    for size in (10, 55, 999, 1000):
        assert len(train.subset(size, seed=0)) == size
