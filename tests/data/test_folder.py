"""Tests of trees of image files."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.pictures import encoded, tree

from svdistill.data import FileSet, ImageSet, ImageSource, load
from svdistill.data.folder import load_image_folder
from svdistill.errors import DataError, OptionError, SvdistillWarning


def greys(source: ImageSource) -> list[int]:
    """The grey of each image."""
    return [int(image[0, 0, 0]) for batch in source.batches([torch.arange(len(source))]) for image in batch]


@pytest.mark.parametrize("test_folder", ["val", "validation", "test"])
def test_tree(tmp_path: Path, test_folder: str) -> None:
    """Every image gets the class of its folder; the classes are sorted; both parts have all."""
    loaded = load("image-folder", root=tree(tmp_path, test_folder=test_folder), image_size=8)
    assert (loaded.name, loaded.flip_allowed) == ("image-folder", True)
    assert loaded.train.classes == loaded.test.classes == ("cat", "dog", "eel")
    assert loaded.train.shape == (3, 8, 8)
    assert loaded.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert greys(loaded.train) == [0, 1, 2, 3, 40, 41, 42, 43, 80, 81, 82, 83]
    assert greys(loaded.test) == [0, 1, 40, 41, 80, 81]


def test_small_trees_are_in_memory_and_large_ones_streamed(tmp_path: Path) -> None:
    """What is too large for memory is read as it is used; the images are the same."""
    root = tree(tmp_path)
    small = load_image_folder(root, image_size=8)
    large = load_image_folder(root, image_size=8, in_memory=6 * 3 * 64)
    assert isinstance(small.train, ImageSet)
    assert isinstance(large.train, FileSet)
    assert isinstance(large.test, ImageSet)
    assert greys(small.train) == greys(large.train)


def test_validation_before_test(tmp_path: Path) -> None:
    """Where there are both, the validation images are measured on: a test folder often has no labels."""
    tree(tmp_path, test_folder="test", test=3)
    shutil.rmtree(tmp_path / "train")
    tree(tmp_path)
    assert len(load("image-folder", root=tmp_path, image_size=8).test) == 6
    shutil.rmtree(tmp_path / "val")
    (tmp_path / "val").mkdir()
    assert len(load("image-folder", root=tmp_path, image_size=8).test) == 9


def test_class_list(tmp_path: Path) -> None:
    """A list selects classes and numbers them, as ImageNet-50 is cut out of ImageNet."""
    root = tree(tmp_path / "data")
    (tmp_path / "list.txt").write_text("eel\ncat\n")
    loaded = load("image-folder", root=root, image_size=8, classes=tmp_path / "list.txt")
    assert loaded.train.classes == ("eel", "cat")
    assert loaded.train.labels.tolist() == [0] * 4 + [1] * 4
    assert greys(loaded.test) == [80, 81, 0, 1]
    with pytest.raises(OptionError, match="no class is called 'eels'; did you mean 'eel'"):
        load("image-folder", root=root, image_size=8, classes=["cat", "eels"])
    with pytest.raises(OptionError, match="'cat' is named twice"):
        load("image-folder", root=root, image_size=8, classes=["cat", "cat"])


def test_grey(tmp_path: Path) -> None:
    """Images can be read as grey."""
    assert load("image-folder", root=tree(tmp_path), image_size=4, channels=1).train.shape == (1, 4, 4)


def test_what_is_no_image_is_left_alone(tmp_path: Path) -> None:
    """Text files, hidden files and folders do not count; folders within a class do."""
    root = tree(tmp_path)
    for name in ("cat/notes.txt", "cat/.hidden.png", ".git/a.png", "readme.md", "cat/._0.png"):
        (root / "train" / name).parent.mkdir(exist_ok=True)
        (root / "train" / name).write_text("no image")
    (root / "train" / "cat" / "more").mkdir()
    (root / "train" / "cat" / "more" / "X.JPEG").write_bytes(encoded(np.full((8, 8, 3), 99, np.uint8), "JPEG"))
    loaded = load("image-folder", root=root, image_size=8)
    assert loaded.train.classes == ("cat", "dog", "eel")
    assert greys(loaded.train)[:5] == [0, 1, 2, 3, 99]


def test_damaged_images(tmp_path: Path) -> None:
    """One damaged image is named and made up for; more than a few are an error."""
    root = tree(tmp_path)
    (root / "train" / "dog" / "1.png").write_bytes(b"")
    with pytest.warns(SvdistillWarning, match=r"train/dog/1.png cannot be decoded"):
        loaded = load("image-folder", root=root, image_size=8)
    assert greys(loaded.train)[4:8] == [40, 42, 42, 43]
    for name in ("cat", "dog", "eel"):
        for number in (0, 1):
            (root / "train" / name / f"{number}.png").write_text("<html>")
    with (
        pytest.warns(SvdistillWarning),
        pytest.raises(DataError, match=r"4 images in .*train cannot be decoded, 3 .*cat/0.png, cat/1.png, dog/0.png"),
    ):
        load("image-folder", root=root, image_size=8)


def without(*names: str) -> Any:
    """Remove folders from a tree."""

    def change(root: Path) -> None:
        for name in names:
            shutil.rmtree(root / name)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("."), r"no data folder .*; name one that holds train/CLASS"),
        (without("train"), "has no folder train"),
        (without("val"), r"has no folder val/CLASS \(or test/CLASS\)"),
        (without("train/cat", "train/dog", "train/eel"), "train holds no folders"),
        (without("train/dog"), "val has a class 'dog' that .*train lacks"),
        (lambda root: (root / "val" / "dogs").mkdir(), "val has a class 'dogs' that .*train lacks; did you mean 'dog'"),
        (lambda root: (root / "train" / "fox").mkdir(), r"train/fox holds no image \(.bmp, .*; remove it or fill it"),
        (
            lambda root: [path.unlink() for path in (root / "val").rglob("*.png")],
            "there is no image in .*val; give at least one",
        ),
    ],
)
def test_trees_that_lack_something(tmp_path: Path, change: Any, message: str) -> None:
    """What is missing is named."""
    root = tree(tmp_path / "data")
    change(root)
    with pytest.raises(DataError, match=message):
        load("image-folder", root=root, image_size=8)


def test_a_class_without_test_images(tmp_path: Path) -> None:
    """A class may be absent from the test images."""
    root = tree(tmp_path)
    shutil.rmtree(root / "val" / "dog")
    assert load("image-folder", root=root, image_size=8).test.labels.tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("options", [{"image_size": 0}, {"image_size": 8, "channels": 2}])
def test_impossible_options(tmp_path: Path, options: dict[str, int]) -> None:
    """A size or a number of channels that is none is refused."""
    with pytest.raises(OptionError, match=r"image_size is 0|channels is 2"):
        load("image-folder", root=tree(tmp_path), **options)
