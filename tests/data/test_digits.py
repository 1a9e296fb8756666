"""Tests of the embedded digits."""

import torch
from sklearn import datasets

from svdistill.data import load


def test_split() -> None:
    """1,000 images to train with, 100 of each class, and the other 797 to test with; no image lies in both."""
    digits = load("digits")
    assert (digits.name, digits.flip_allowed) == ("digits", False)
    assert digits.train.images.shape == (1000, 1, 8, 8)
    assert digits.test.images.shape == (797, 1, 8, 8)
    assert digits.train.labels.bincount().tolist() == [100] * 10
    raw = datasets.load_digits()
    expected = torch.tensor(raw.images).flatten(1).sum(0)
    both = torch.cat([digits.train.images, digits.test.images]).flatten(1).double()
    # Over both parts, each pixel adds up to what scikit-learn has: none is lost, none twice.
    assert torch.equal((both * 16 / 255).round().sum(0), expected)
    assert digits.test.labels.bincount().add(100).tolist() == torch.tensor(raw.target).bincount().tolist()


def test_values() -> None:
    """Pixels span 0 to 255, and the images belong to their labels."""
    digits = load("digits")
    assert (int(digits.train.images.min()), int(digits.train.images.max())) == (0, 255)
    raw = datasets.load_digits()
    assert digits.train.labels[:20].tolist() == raw.target[:20].tolist()
    assert torch.equal(digits.train.images[7, 0].double(), (torch.tensor(raw.images[7]) * 255 / 16).round())
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
