"""Tests of labelled images in memory."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from svdistill.data import ImageSet
from svdistill.errors import DataError, OptionError

CLASSES = ("a", "b", "c")


def images(number: int) -> Tensor:
    """Distinct grey images: the first pixel holds the number."""
    result = torch.zeros(number, 1, 4, 4, dtype=torch.uint8)
    result[:, 0, 0, 0] = torch.arange(number, dtype=torch.uint8)
    return result


def example(number: int = 30) -> ImageSet:
    """As many images of each of three classes."""
    return ImageSet(images(number), torch.arange(number) % 3, CLASSES)


def test_a_sample_keeps_what_stands_in() -> None:
    """Alone of its class it may be looked at, though not be a part of the images."""
    broken = torch.tensor([True, *[False] * 29])
    chosen = replace(example(), broken=broken)
    assert torch.equal(chosen.sample(torch.arange(2)).images, example().images[:2])
    with pytest.raises(DataError, match=r"an image of '.*' that cannot be decoded is in a part of the images with no"):
        chosen.take(torch.arange(2))


def identities(chosen: ImageSet) -> list[int]:
    """The numbers of the images in a set."""
    return chosen.images[:, 0, 0, 0].tolist()


def test_sizes() -> None:
    """A set knows its length and its classes, also those without images."""
    assert len(example(6)) == 6
    assert ImageSet(images(2), torch.tensor([0, 0]), CLASSES).num_classes == 3


@pytest.mark.parametrize(
    ("pictures", "labels", "message"),
    [
        (images(2).float(), torch.tensor([0, 1]), "images are torch.float32"),
        (images(2)[0], torch.tensor([0]), r"images are torch.uint8 of shape \(1, 4, 4\)"),
        (images(2), torch.tensor([0, 1], dtype=torch.int32), "labels are torch.int32"),
        (images(2), torch.tensor([[0, 1]]), r"labels are torch.int64 of shape \(1, 2\)"),
        (images(3), torch.tensor([0, 1]), "3 images came with 2 labels"),
        (images(0), torch.tensor([], dtype=torch.int64), "empty"),
        (images(2)[..., :0], torch.tensor([0, 1]), "empty"),
        (images(2), torch.tensor([0, 3]), r"label 3 is outside the 3 classes \(0 to 2\)"),
        (images(2), torch.tensor([-1, 0]), "label -1 is outside"),
        (images(2), torch.zeros(2, dtype=torch.int64, device="meta"), "images are on cpu, labels on meta"),
    ],
)
def test_unfit_tensors(pictures: Tensor, labels: Tensor, message: str) -> None:
    """A set that makes no sense is refused when it is made."""
    with pytest.raises(DataError, match=message):
        ImageSet(pictures, labels, CLASSES)


def test_to_device() -> None:
    """Moving gives the same set; this one has nowhere else to go."""
    moved = example().to("cpu")
    assert torch.equal(moved.images, example().images)
    assert torch.equal(moved.labels, example().labels)


@pytest.mark.parametrize("size", [3, 4, 5, 17, 29, 30])
def test_subset_has_equal_classes(size: int) -> None:
    """A subset has the size asked for, no image twice, the right labels, and classes that differ by at most one."""
    chosen = example().subset(size, seed=1)
    numbers = identities(chosen)
    assert len(set(numbers)) == len(chosen) == size
    assert chosen.labels.tolist() == [number % 3 for number in numbers]
    counts = chosen.labels.bincount(minlength=3)
    assert counts.max() - counts.min() <= 1
    assert chosen.classes == CLASSES


def test_subset_depends_on_the_seed_alone() -> None:
    """The same seed chooses the same images whatever the global generator says; another seed chooses others."""
    torch.manual_seed(0)
    first = identities(example().subset(10, seed=3))
    torch.manual_seed(1)
    assert identities(example().subset(10, seed=3)) == first
    assert identities(example().subset(10, seed=4)) != first


def test_subsets_of_one_seed_are_nested() -> None:
    """A smaller subset lies within every larger one."""
    chosen = [set(identities(example().subset(size, seed=7))) for size in range(3, 31)]
    assert all(small < large for small, large in pairwise(chosen))


def test_subset_reaches_every_image() -> None:
    """Over many seeds every image is chosen, so nothing is left out by a slip."""
    seen: set[int] = set()
    for seed in range(60):
        seen.update(identities(example().subset(6, seed=seed)))
    assert seen == set(range(30))


@pytest.mark.parametrize("size", [-1, 0, 2, 31])
def test_subset_of_impossible_size(size: int) -> None:
    """Fewer images than classes, or more than there are, is an error."""
    with pytest.raises(DataError, match=f"subset of {size} images.*expected 3 .* to 30"):
        example().subset(size, seed=0)


def test_subset_of_a_small_class() -> None:
    """A class without enough images is named, with the largest size that can be had."""
    few = ImageSet(images(12), torch.tensor([0] * 5 + [1] * 5 + [2] * 2), CLASSES)
    with pytest.raises(DataError, match=r"class 'c' has 2 images, 3 are needed for 9.*at most 6"):
        few.subset(9, seed=0)
    assert len(few.subset(6, seed=0)) == 6
    none = ImageSet(images(12), torch.tensor([0] * 6 + [1] * 6), CLASSES)
    with pytest.raises(DataError, match=r"class 'c' has 0 images, 2 are needed for 6.*; leave out the class that has"):
        none.subset(6, seed=0)


@pytest.mark.parametrize("size", [3, 17, 29])
def test_rest_is_what_a_subset_leaves_out(size: int) -> None:
    """Subset and rest together are the whole set, each image once, with its label."""
    whole = example()
    chosen, rest = whole.subset(size, seed=5), whole.rest(size, seed=5)
    assert sorted(identities(chosen) + identities(rest)) == list(range(30))
    assert identities(rest) == sorted(identities(rest))
    assert rest.labels.tolist() == [number % 3 for number in identities(rest)]


def test_no_rest() -> None:
    """A subset of everything leaves nothing, and an impossible one is the same error as for the subset."""
    with pytest.raises(DataError, match="no image is left beside a subset of all 30"):
        example().rest(30, seed=0)
    with pytest.raises(DataError, match="subset of 31 images"):
        example().rest(31, seed=0)


def test_unlabelled() -> None:
    """Without labels, the images and the classes stay and each label is −1."""
    bare = example(6).unlabelled()
    assert not bare.labelled
    assert example(6).labelled
    assert bare.labels.tolist() == [-1] * 6
    assert (identities(bare), bare.classes) == (list(range(6)), CLASSES)
    assert not bare.to("cpu").labelled
    assert not bare.resized(2).labelled
    assert not bare.unlabelled().labelled


def test_labels_in_a_set_without_labels() -> None:
    """A set that says it has no labels must not have any."""
    with pytest.raises(DataError, match="label 0 came in a set without labels"):
        ImageSet(images(2), torch.tensor([-1, 0]), CLASSES, labelled=False)


def test_subsets_without_labels() -> None:
    """Without labels a subset is drawn from all images, from 1 on, nested, and fixed by the seed."""
    bare = example().unlabelled()
    chosen = [set(identities(bare.subset(size, seed=2))) for size in range(1, 31)]
    assert [len(numbers) for numbers in chosen] == list(range(1, 31))
    assert all(small < large for small, large in pairwise(chosen))
    assert set(identities(bare.rest(12, seed=2))) == set(range(30)) - chosen[11]
    with pytest.raises(DataError, match="subset of 0 images was asked for, expected 1 to 30"):
        bare.subset(0, seed=0)


def test_batches_are_the_images_of_the_indices() -> None:
    """Each index gives its images, in its order, also twice."""
    whole = example()
    taken = list(whole.batches([torch.tensor([4, 2, 2]), torch.tensor([29])]))
    assert [batch[:, 0, 0, 0].tolist() for batch in taken] == [[4, 2, 2], [29]]
    assert taken[0].shape == (3, *whole.shape)
    assert identities(whole.take(torch.tensor([7, 3]))) == [7, 3]


def test_select_classes() -> None:
    """Some classes, numbered in the order in which they are named."""
    chosen = example(9).select(["c", "a"])
    assert chosen.classes == ("c", "a")
    assert identities(chosen) == [0, 2, 3, 5, 6, 8]
    assert chosen.labels.tolist() == [1, 0] * 3
    assert example(9).select(CLASSES).labels.tolist() == example(9).labels.tolist()


def test_select_unfit_classes() -> None:
    """Unknown classes are answered with the nearest; a class named twice, none, and none with images are refused."""
    clothes = ImageSet(images(2), torch.tensor([0, 0]), ("trouser", "shirt", "bag"))
    with pytest.raises(OptionError, match="no class is called 'trousers'; did you mean 'trouser'"):
        clothes.select(["shirt", "trousers"])
    with pytest.raises(OptionError, match="'shirt' is named twice"):
        clothes.select(["shirt", "shirt"])
    with pytest.raises(OptionError, match="list of classes is empty"):
        clothes.select([])
    with pytest.raises(DataError, match="no image of the 1 selected"):
        clothes.select(["bag"])
    with pytest.raises(DataError, match="without labels"):
        clothes.unlabelled().select(["shirt"])


def test_channels() -> None:
    """Grey is repeated; a colour becomes its brightness; there and back changes nothing."""
    colour = torch.tensor([255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255, 10, 20, 30], dtype=torch.uint8)
    pictures = ImageSet(colour.reshape(5, 3, 1, 1), torch.zeros(5).long(), CLASSES)
    # 0.299, 0.587 and 0.114 of 255; the last: 2.99 + 11.74 + 3.42 = 18.15.
    assert pictures.with_channels(1).images.flatten().tolist() == [76, 150, 29, 255, 18]
    grey = ImageSet(torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16), torch.tensor([0]), CLASSES)
    assert torch.equal(grey.with_channels(3).with_channels(1).images, grey.images)
    assert grey.with_channels(3).shape == (3, 16, 16)
    assert grey.with_channels(1) is grey


@pytest.mark.parametrize("channels", [0, 2, 4, "3", True])
def test_impossible_channels(channels: Any) -> None:
    """Only grey and colour are known."""
    with pytest.raises(OptionError, match="channels is"):
        example().with_channels(channels)


def test_resize_to_the_same_size_is_free() -> None:
    """Images that have the size already are not touched."""
    same = example()
    assert same.resized(4) is same


def test_resize_by_hand() -> None:
    """Doubling two pixels gives the bilinear values, rounded."""
    pair = ImageSet(torch.tensor([[[[0, 100], [0, 100]]]], dtype=torch.uint8), torch.tensor([0]), CLASSES)
    assert pair.resized(4).images[0, 0, 0].tolist() == [0, 25, 75, 100]


def test_resize_keeps_constant_images() -> None:
    """White stays white and black stays black, larger and smaller, also where the shape was not square."""
    white = ImageSet(torch.full((2, 3, 5, 7), 255, dtype=torch.uint8), torch.tensor([0, 1]), CLASSES)
    for size in (1, 3, 16):
        assert white.resized(size).images.shape == (2, 3, size, size)
        assert (white.resized(size).images == 255).all()


def test_resize_in_pieces_is_resize_at_once() -> None:
    """More images than are resized at once come out like one by one."""
    many = ImageSet(torch.randint(0, 256, (4100, 1, 3, 3), dtype=torch.uint8), torch.zeros(4100).long(), CLASSES)
    tail = ImageSet(many.images[4095:4098], many.labels[4095:4098], CLASSES)
    assert torch.equal(many.resized(5).images[4095:4098], tail.resized(5).images)


@pytest.mark.parametrize("size", [0, -4, 2.0, "8", True, None])
def test_resize_to_an_impossible_size(size: Any) -> None:
    """A size that is not a number of pixels is refused."""
    with pytest.raises(OptionError, match="image_size is"):
        example().resized(size)
