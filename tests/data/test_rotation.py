"""The task of telling which way images were turned."""

from pathlib import Path

import pytest
import torch
from tests.data.pictures import tree

from svdistill import data
from svdistill.data import Dataset, ImageSet
from svdistill.errors import DataError


def of(pixels: torch.Tensor) -> Dataset:
    """A data set of one class."""
    images = ImageSet(pixels, torch.zeros(len(pixels), dtype=torch.int64), ("thing",))
    return Dataset("mine", images, images, flip_allowed=True)


def test_by_hand() -> None:
    """An image of four pixels, turned counter-clockwise by 0°, 90°, 180° and 270°."""
    turned = data.rotation_task(of(torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8))).train
    assert isinstance(turned, ImageSet)
    assert turned.images[:, 0].tolist() == [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]
    assert turned.labels.tolist() == [0, 1, 2, 3]
    assert turned.classes == ("0°", "90°", "180°", "270°")


def test_every_image_four_times() -> None:
    """Image 4i + k is image i turned k times, in training and in test; the statistics are the same to the bit."""
    whole = data.load("digits")
    turned = data.rotation_task(whole)
    assert not turned.flip_allowed
    for before, after in ((whole.train, turned.train), (whole.test, turned.test)):
        assert isinstance(before, ImageSet)
        assert isinstance(after, ImageSet)
        assert len(after) == 4 * len(before)
        for turns in range(4):
            assert torch.equal(after.images[turns::4], torch.rot90(before.images, turns, (2, 3)))
            assert (after.labels[turns::4] == turns).all()
    for ours, theirs in zip(data.channel_statistics(whole.train), data.channel_statistics(turned.train), strict=True):
        assert torch.equal(ours, theirs)


def test_images_that_cannot_be_turned(tmp_path: Path) -> None:
    """Those that are not square, and those that stay on disk."""
    with pytest.raises(DataError, match=r"^images of 2 × 3 pixels cannot be turned by 90°; make them square"):
        data.rotation_task(of(torch.zeros(1, 1, 2, 3, dtype=torch.uint8)))
    streamed = data.load("image-folder", root=tree(tmp_path), image_size=8, in_memory=0)
    with pytest.raises(DataError, match=r"^12 images that stay on disk cannot be turned; take a smaller image_size"):
        data.rotation_task(streamed)


@pytest.mark.filterwarnings("ignore:.*cannot be decoded")
def test_an_image_that_cannot_be_decoded(tmp_path: Path) -> None:
    """Another one of the same part stands in for it, four times."""
    root = tree(tmp_path, classes=["thing"], train=9)
    (root / "train" / "thing" / "4.png").write_bytes(b"")
    part = data.rotation_task(data.load("image-folder", root=root, image_size=8)).train.take(torch.arange(8, 20))
    assert isinstance(part, ImageSet)
    assert part.images[:, 0, 0, 0].tolist() == [2, 2, 2, 2, 3, 3, 3, 3, 2, 2, 2, 2]
