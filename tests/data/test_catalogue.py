"""Tests of data sets by name."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from svdistill.data import describe, fetch, load, names, read_classes
from svdistill.errors import DataError, OptionError

ALL = ("digits", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet", "image-folder")


def test_names() -> None:
    """Every data set is known."""
    assert names() == ALL


def test_unknown_name_points_to_the_nearest() -> None:
    """A misspelt name is answered with the right one."""
    with pytest.raises(OptionError, match=r"'fashion_mnist'; did you mean 'fashion-mnist'"):
        load("fashion_mnist")
    with pytest.raises(OptionError, match="'cifar-100'; did you mean 'cifar100'"):
        load("cifar-100")
    with pytest.raises(OptionError, match="known: digits, fashion-mnist"):
        describe("xyz")
    with pytest.raises(OptionError, match="known: digits, fashion-mnist"):
        fetch("xyz")


@pytest.mark.parametrize("name", ALL)
def test_descriptions(name: str) -> None:
    """Each data set says what it is, without being there."""
    known = describe(name)
    assert known.name == name
    assert known.source
    assert known.expected
    assert (known.size > 0) == (known.folder is not None)
    assert known.available == (name == "digits" or known.found is not None)


def test_description_is_true() -> None:
    """What is said of the digits is what is loaded."""
    known, loaded = describe("digits"), load("digits")
    assert known.shape == loaded.train.shape == loaded.test.shape
    assert (known.classes, known.flip_allowed) == (loaded.train.num_classes, loaded.flip_allowed)
    assert (known.train, known.test) == (len(loaded.train), len(loaded.test))
    assert not replace(known, size=1).available


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100", "tiny-imagenet"])
def test_nothing_is_found_in_an_empty_cache(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is, the description says where it would be put."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("svdistill.data.fashion_mnist.DEBIAN", tmp_path / "none")
    known = describe(name)
    assert known.found is None
    assert not known.available
    assert known.folder == tmp_path / "svdistill" / name


def test_nothing_to_fetch() -> None:
    """What is embedded, and what is the user's own, cannot be fetched."""
    with pytest.raises(DataError, match="digits comes with svdistill"):
        fetch("digits")
    with pytest.raises(DataError, match="image-folder is any folder of your own"):
        fetch("image-folder")


def test_image_size() -> None:
    """Images are resized, labels and classes stay."""
    small, large = load("digits"), load("digits", image_size=16)
    assert large.train.shape == large.test.shape == (1, 16, 16)
    assert (len(large.train), len(large.test)) == (1000, 797)
    assert large.train.labels.tolist() == small.train.labels.tolist()
    assert (large.name, large.flip_allowed) == (small.name, small.flip_allowed)


def test_channels() -> None:
    """Grey digits in colour are the same grey three times."""
    grey, colour = load("digits").test, load("digits", channels=3).test
    index = [torch.arange(5)]
    assert torch.equal(next(colour.batches(index)), next(grey.batches(index)).expand(-1, 3, -1, -1))


def test_classes(tmp_path: Any) -> None:
    """Some classes of both parts, by name or from a file."""
    chosen = load("digits", classes=["7", "1"])
    assert chosen.train.classes == chosen.test.classes == ("7", "1")
    assert chosen.train.labels.bincount().tolist() == [100, 100]
    path = tmp_path / "classes.txt"
    path.write_text("# two of ten\n7\n\n  1  \n")
    assert load("digits", classes=path).test.labels.tolist() == chosen.test.labels.tolist()
    assert read_classes(str(path)) == ("7", "1")


def test_unfit_classes(tmp_path: Any) -> None:
    """An unknown class, a list that is missing and an empty one are one line each."""
    with pytest.raises(OptionError, match="no class is called '12'"):
        load("digits", classes=["1", "12"])
    with pytest.raises(DataError, match=r"class list .*none.txt cannot be read \(No such file"):
        load("digits", classes=tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="is empty; write one class a line"):
        load("digits", classes=str(tmp_path / "empty.txt"))


@pytest.mark.parametrize("size", [0, -1, 1.5, "big"])
def test_impossible_image_size(size: Any) -> None:
    """A size that is not a number of pixels is refused."""
    with pytest.raises(OptionError, match="image_size is"):
        load("digits", image_size=size)


def test_impossible_channels() -> None:
    """Two channels are neither grey nor colour."""
    with pytest.raises(OptionError, match="channels is 2"):
        load("digits", channels=2)


def test_folder_for_embedded_data() -> None:
    """A folder for data that needs none is not ignored in silence."""
    with pytest.raises(DataError, match="leave the folder out"):
        load("digits", root="/somewhere")
