"""A part of the training images that is measured on in place of the test images."""

from typing import Any

import pytest
import torch

from svdistill import data
from svdistill.data import Dataset, ImageSet
from svdistill.errors import DataError, OptionError


def example(*sizes: int) -> Dataset:
    """As many images of each class as said, mixed; every pixel of an image is its number."""
    labels = torch.cat([torch.full((size,), number) for number, size in enumerate(sizes)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    pixels = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    train = ImageSet(pixels, labels, tuple("abcdef"[: len(sizes)]))
    return Dataset("mine", train, train, flip_allowed=True)


def numbers(images: Any) -> list[int]:
    """The numbers of the images in a set."""
    return [int(number) for number in images.images[:, 0, 0, 0]]


def test_the_same_part_of_each_class() -> None:
    """Both parts together are all images, in order, with their labels; the test images are not there."""
    whole = example(10, 20, 40)
    parted = data.hold_out(whole, 0.1)
    assert parted.test.labels.bincount().tolist() == [1, 2, 4]
    assert sorted(numbers(parted.train) + numbers(parted.test)) == list(range(70))
    for part in (parted.train, parted.test):
        assert numbers(part) == sorted(numbers(part))
        assert torch.equal(part.labels, whole.train.labels[torch.tensor(numbers(part))])
    assert numbers(data.hold_out(whole, 0.1).test) == numbers(parted.test)


def test_other_classes_change_nothing() -> None:
    """Of a class the same images are held out whichever classes are selected beside it, in whatever order."""
    whole = example(10, 20, 40)
    some = Dataset("mine", whole.train.select(["c", "a"]), whole.test, flip_allowed=True)
    wanted = [n for n in numbers(data.hold_out(whole, 0.3).test) if whole.train.labels[n] != 1]
    assert numbers(data.hold_out(some, 0.3).test) == wanted


def test_classes_of_one_size_do_not_hold_out_the_same_places() -> None:
    """Each class draws for itself."""
    parted = data.hold_out(example(40, 40), 0.25)
    places = []
    for label in (0, 1):
        of_class = torch.nonzero(example(40, 40).train.labels == label).flatten().tolist()
        places.append({place for place, number in enumerate(of_class) if number in numbers(parted.test)})
    assert len(places[0]) == len(places[1]) == 10
    assert places[0] != places[1]


@pytest.mark.parametrize(
    ("sizes", "fraction", "match"),
    [
        (
            (20, 4),
            0.1,
            r"^of the 4 images of class 'b' none would be held out with the fraction 0\.1; take a larger one$",
        ),
        ((20, 4), 0.9, r"^of the 4 images of class 'b' none would be left to train on .* take a smaller one$"),
    ],
)
def test_classes_that_are_too_small(sizes: tuple[int, ...], fraction: float, match: str) -> None:
    """No class may be without images on either side."""
    with pytest.raises(DataError, match=match):
        data.hold_out(example(*sizes), fraction)


@pytest.mark.parametrize("fraction", [0, 1.0, -0.1, True, "0.1", float("nan")])
def test_impossible_fraction(fraction: Any) -> None:
    """Said in one line."""
    with pytest.raises(OptionError, match="expected a fraction between 0 and 1"):
        data.hold_out(example(4, 4), fraction)
