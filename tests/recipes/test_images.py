"""The images of a recipe, batches with and without labels."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.pictures import tree

from svdistill import data, recipes
from svdistill.errors import DataError, RecipeError
from svdistill.recipes.images import batches, load_images


def test_the_rest_are_the_images_that_train_size_leaves_out() -> None:
    """Together they are all training images; none has a label."""
    recipe = recipes.load("digits/svd", ["data.unlabelled={}", "data.train_size=50", "data.image_size=null"])
    images, whole = load_images(recipe), load_images(recipes.load("digits/teacher", ["data.image_size=null"]))
    assert images.unlabelled is not None
    assert (len(images.train), len(images.unlabelled), len(whole.train)) == (50, 950, 1000)
    assert images.unlabelled.labels.unique().tolist() == [-1]

    def sorted_rows(*sets: Any) -> torch.Tensor:
        rows = torch.cat([part.images.flatten(1) for part in sets]).long()
        keys = (rows * torch.arange(1, rows.shape[1] + 1) ** 3).sum(1)
        return keys.sort().values

    assert torch.equal(sorted_rows(images.train, images.unlabelled), sorted_rows(whole.train))
    assert torch.equal(images.mean, whole.mean)


@pytest.mark.parametrize("size", [1, 9])
def test_a_share_that_leaves_a_class_without_images(size: int) -> None:
    """One line that says how many there must be."""
    recipe = recipes.load("digits/student", [f"data.train_size={size}", "train.batch_size=1"])
    with pytest.raises(
        DataError, match=rf"^data\.train_size: .* {size} images .*, expected 10 \(one a class\) to 1000$"
    ):
        load_images(recipe)


def test_batches_of_both_kinds() -> None:
    """As many without labels as said, else as many as with; their warps are others."""
    for given, expected in ((None, 25), (7, 7)):
        text = "{}" if given is None else f"{{batch_size: {given}}}"
        recipe = recipes.load("digits/svd", [f"data.unlabelled={text}"])
        images = load_images(recipe)
        stream = batches(recipe, images)
        assert isinstance(stream, data.Mixed)
        pixels, labels, *_ = next(stream.epoch())
        assert (len(pixels), (labels >= 0).sum(), (labels == -1).sum()) == (25 + expected, 25, expected)
    plain = batches(recipes.load("digits/svd"), images)
    assert isinstance(plain, data.Batches)
    # The labelled ones come as they would without the others.
    assert torch.equal(next(plain.epoch())[0], next(batches(recipe, images).epoch())[0][:25])


def test_only_so_many_without_labels() -> None:
    """Chosen by the seed; a step cannot take more than there are."""
    recipe = recipes.load("digits/svd", ["data.unlabelled={size: 30, batch_size: 10}"])
    first, other = (
        load_images(recipe),
        load_images(recipes.load("digits/svd", ["data.unlabelled={size: 30}", "seed=1"])),
    )
    assert first.unlabelled is not None
    assert other.unlabelled is not None
    assert len(first.unlabelled) == 30
    assert not torch.equal(
        next(first.unlabelled.batches([torch.arange(30)])), next(other.unlabelled.batches([torch.arange(30)]))
    )
    with pytest.raises(RecipeError, match=r"^data\.unlabelled: 25 images a step are more than the 5 there are"):
        load_images(recipes.load("digits/svd", ["data.unlabelled={size: 5}"]))


def test_images_without_labels_of_another_data_set() -> None:
    """They are brought to the size and the channels of the labelled ones."""
    recipe = recipes.load(
        "digits/svd", ["data.unlabelled={name: digits}", "data.classes=['3','1']", "data.train_size=40"]
    )
    images = load_images(recipe)
    assert images.unlabelled is not None
    assert images.train.classes == ("3", "1")
    assert len(images.unlabelled) == 1000
    assert images.unlabelled.shape == images.shape == (1, 16, 16)
    with pytest.raises(RecipeError, match=r"^data\.unlabelled\.name: no 'digit'; did you mean 'digits'"):
        load_images(recipes.load("digits/svd", ["data.unlabelled={name: digit}"]))


def test_images_move_together() -> None:
    """Those without labels too."""
    images = load_images(recipes.load("digits/svd", ["data.unlabelled={}"]))
    assert images.to("cpu").unlabelled is not None
    assert len(images.to("cpu").unlabelled or ()) == len(images.unlabelled or ())


def keys(source: data.ImageSource, *, turns: int = 0) -> list[bytes]:
    """Tell images apart by their pixels, after some quarter turns: no two of the digits are equal."""
    assert isinstance(source, data.ImageSet)
    return [bytes(pixels.flatten().tolist()) for pixels in source.images.rot90(turns, (2, 3))]


def test_held_out_images_are_those_of_every_seed_and_of_the_teacher() -> None:
    """They are measured on, and are neither trained on, with or without labels, nor in the statistics."""
    small, part = "data.image_size=null", "data.held_out=0.1"
    whole = load_images(recipes.load("digits/teacher", [small]))
    held, known = None, set(keys(whole.train))
    teacher = "teacher.overrides.data.image_size=null"
    for name, *more in (
        ("digits/teacher",),
        ("digits/svd", teacher, "data.unlabelled={}"),
        ("digits/svd", teacher, "data.unlabelled={}", "seed=1"),
        ("digits/svd", teacher, "data.unlabelled={name: digits}"),
    ):
        recipe = recipes.load(name, [small, part, *more])
        images = load_images(recipe)
        held = held or set(keys(images.test))
        assert set(keys(images.test)) == held
        assert images.test.labels.bincount().tolist() == [10] * 10
        assert held < known
        others = [] if images.unlabelled is None else keys(images.unlabelled)
        seen = set(keys(images.train) + others)
        assert seen == known - held
        index = torch.tensor([key not in held for key in keys(whole.train)])
        assert torch.equal(images.mean, data.channel_statistics(whole.train.take(index.nonzero().flatten()))[0])
        parent = recipes.teacher_of(recipe)
        if parent is not None:
            assert set(keys(load_images(parent).test)) == held
    with pytest.raises(DataError, match=r"^data\.held_out: of the 100 images of class '0' none would be held out"):
        load_images(recipes.load("digits/teacher", ["data.held_out=0.004"]))


def test_held_out_images_are_never_seen_turned_another_way() -> None:
    """They are left out first and turned afterwards; train_size counts the turned ones."""
    part = ["data.image_size=null", "data.held_out=0.1"]
    plain = load_images(recipes.load("digits/teacher", part))
    turned = load_images(recipes.load("digits/turned", [*part, "data.train_size=100"]))
    assert keys(turned.test.take(torch.arange(0, 400, 4))) == keys(plain.test)
    assert turned.train.labels.bincount().tolist() == [25] * 4
    held = {key for turns in range(4) for key in keys(plain.test, turns=turns)}
    assert not held & set(keys(turned.train))
    assert torch.equal(turned.mean, plain.mean)


def test_a_part_of_the_labelled_images_validates() -> None:
    """Of each class alike, out of `train_size`; test images, those without labels and the statistics stay."""
    settings = ["data.image_size=null", "data.train_size=100", "data.unlabelled={}", "train.batch_size=25"]
    plain = load_images(recipes.load("digits/svd", settings))
    images = load_images(recipes.load("digits/svd", [*settings, "data.validation=0.2"]))
    assert images.validation is not None
    assert images.validation.labels.bincount().tolist() == [2] * 10
    assert images.train.labels.bincount().tolist() == [8] * 10
    assert sorted(keys(images.train) + keys(images.validation)) == sorted(keys(plain.train))
    assert keys(images.test) == keys(plain.test)
    assert keys(images.sets["unlabelled"]) == keys(plain.sets["unlabelled"])
    assert torch.equal(images.mean, plain.mean)
    assert (images.watched, plain.watched) == (images.validation, plain.test)
    assert images.fingerprints.keys() == {*plain.fingerprints, "validation"}
    assert len(images.to("cpu").watched) == 20
    other = load_images(recipes.load("digits/svd", [*settings, "data.validation=0.2", "seed=1"]))
    assert keys(other.watched) != keys(images.validation)


def test_validation_beside_images_that_are_held_out() -> None:
    """These are measured at the end, and are neither trained on nor validated with; one part for all seeds."""
    settings = ["data.image_size=null", "data.held_out=0.1", "data.validation=0.1"]
    images = load_images(recipes.load("digits/teacher", settings))
    parts = [set(keys(part)) for part in (images.train, images.watched, images.test)]
    assert [len(part) for part in parts] == [810, 90, 100]
    assert len(set.union(*parts)) == 1000
    again = load_images(recipes.load("digits/teacher", [*settings, "seed=1"]))
    assert keys(again.watched) == keys(images.watched)


@pytest.mark.parametrize(
    ("overrides", "error", "match"),
    [
        (
            ["data.validation=0.1"],
            DataError,
            r"^data\.validation: of the 5 images of class '0' none would be held out ",
        ),
        (["data.validation=0.95"], DataError, r"^data\.validation: of the 5 images .* none would be left to train on"),
        (["data.validation=0.6"], RecipeError, r"^train\.batch_size: 25 is more than the 20 training images$"),
        (
            ["data.validation=0.2", "data.unlabelled={name: digits}", "train.batch_size=10"],
            RecipeError,
            r"^data\.unlabelled: the images of digits hold those of data\.validation; take data\.unlabelled\.name=rest",
        ),
    ],
)
def test_validation_that_cannot_be(overrides: list[str], error: type[Exception], match: str) -> None:
    """Found while the images are loaded, in one line."""
    with pytest.raises(error, match=match) as caught:
        load_images(recipes.load("digits/svd", overrides))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("root", ["photos/train", "photos/train/sea", "."])
@pytest.mark.parametrize("left_out", ["held_out", "validation"])
def test_images_that_are_left_out_do_not_come_back_without_labels(tmp_path: Path, root: str, left_out: str) -> None:
    """A folder within the labelled images', or around it, holds them too; without such images one within is taken."""
    tree(tmp_path / "photos", classes=("sea", "sky"))
    folder = {"name": "image-folder", "root": str(tmp_path / "photos"), "image_size": 8, "train_size": None}
    unlabelled = {"name": "image-folder", "root": str(tmp_path / root)}
    settings = {"data": {**folder, "unlabelled": unlabelled}, "train": {"batch_size": 2}}
    if root != ".":  # which holds the test images too
        assert load_images(recipes.load("digits/svd", settings)).unlabelled is not None
    settings["data"][left_out] = 0.25
    with pytest.raises(RecipeError, match=rf"^data\.unlabelled: the images of .* hold those of data\.{left_out}; take"):
        load_images(recipes.load("digits/svd", settings))


@pytest.mark.parametrize("root", ["photos/val", "photos/val/sea", ".", "link"])
def test_test_images_are_not_trained_on_without_labels(tmp_path: Path, root: str) -> None:
    """Not from their own folder, one in it or around it, or a link to it."""
    tree(tmp_path / "photos", classes=("sea", "sky"))
    (tmp_path / "link").symlink_to(tmp_path / "photos" / "val")
    folder = {"name": "image-folder", "root": str(tmp_path / "photos"), "image_size": 8, "train_size": None}
    unlabelled = {"name": "image-folder", "root": str(tmp_path / root)}
    settings = {"data": {**folder, "unlabelled": unlabelled}, "train": {"batch_size": 2}}
    with pytest.raises(RecipeError, match=r"^data\.unlabelled: the images of .* hold the test images, those in .*val"):
        load_images(recipes.load("digits/svd", settings))


@pytest.mark.filterwarnings("ignore:left out of")  # the licences
def test_links_that_share_no_image(tmp_path: Path) -> None:
    """Trees of links into one pool, each to files of its own, and to one licence."""
    tree(tmp_path / "pool", classes=("sea", "sky"))
    (tmp_path / "LICENSE").write_text("as you like")
    for name, part in (("photos", "train"), ("photos", "val"), ("others", "train")):
        for number, label in enumerate(("sea", "sky")):
            folder = tmp_path / name / part / label if name == "photos" else tmp_path / name / label
            folder.mkdir(parents=True)
            for image in sorted((tmp_path / "pool" / part / label).iterdir())[name == "others" :: 2]:
                (folder / image.name).symlink_to(image)
            (folder / f"LICENSE{number}").symlink_to(tmp_path / "LICENSE")
    folder = {"name": "image-folder", "root": str(tmp_path / "photos"), "image_size": 8, "train_size": None}
    unlabelled = {"name": "image-folder", "root": str(tmp_path / "others")}
    settings = {"data": {**folder, "unlabelled": unlabelled, "validation": 0.5}, "train": {"batch_size": 2}}
    assert load_images(recipes.load("digits/svd", settings)).unlabelled is not None


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("others/train/pics", "photos/val"),
        ("others/more/sea", "photos/val/sea"),
        ("others/a.png", "photos/val/sky/1.png"),
        ("photos/val/sky/others", "others"),
    ],
)
def test_links_among_images_without_labels(tmp_path: Path, link: str, target: str) -> None:
    """One that leads to test images, or from them, is found; one to training images is where some are left out."""
    tree(tmp_path / "photos", classes=("sea", "sky"))
    shutil.copytree(tmp_path / "photos" / "train", tmp_path / "others" / ("train" if "train" in link else "."))
    (tmp_path / link).parent.mkdir(exist_ok=True)
    folder = {"name": "image-folder", "root": str(tmp_path / "photos"), "image_size": 8, "train_size": None}
    unlabelled = {"name": "image-folder", "root": str(tmp_path / "others")}
    settings = {"data": {**folder, "unlabelled": unlabelled}, "train": {"batch_size": 2}}
    assert load_images(recipes.load("digits/svd", settings)).unlabelled is not None
    (tmp_path / link).symlink_to(tmp_path / target)
    with pytest.raises(RecipeError, match=r"^data\.unlabelled: the images of .* hold the test images, those in .*val"):
        load_images(recipes.load("digits/svd", settings))
    (tmp_path / link).unlink()
    (tmp_path / link.replace("val", "train")).symlink_to(tmp_path / target.replace("val", "train"))
    assert load_images(recipes.load("digits/svd", settings)).unlabelled is not None
    settings["data"]["validation"] = 0.25
    with pytest.raises(RecipeError, match=r"^data\.unlabelled: the images of .* hold those of data\.validation; take"):
        load_images(recipes.load("digits/svd", settings))
