"""Tests of samples of a data set."""

import re
from pathlib import Path

import numpy as np
import pytest
from tests.data.pictures import tree

from svdistill import data
from svdistill.errors import OptionError, RecipeError
from svdistill.jobs.data import samples


def test_samples_of_digits() -> None:
    """The first training images of each class, and the same varied without a flip, which digits do not allow."""
    drawn = samples("digits", each=3)
    assert drawn.images.shape == drawn.varied.shape == (10, 3, 1, 8, 8)
    assert drawn.classes == tuple("0123456789")
    assert (drawn.train, drawn.test, drawn.num_classes, drawn.counts) == (1000, 797, 10, (100,) * 10)
    assert (drawn.augmentation.flip, drawn.augmentation.rotation, drawn.augmentation.shift) == (False, 15.0, 1)
    assert not np.array_equal(drawn.images, drawn.varied)


def test_seed() -> None:
    """The seed fixes how the images are varied, and not which they are."""
    first, same, other = (samples("digits", seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.varied, same.varied)
    assert np.array_equal(first.images, other.images)
    assert not np.array_equal(first.varied, other.varied)


def test_without_augmentation() -> None:
    """Where nothing is varied, both halves are the same to the last bit."""
    drawn = samples("digits", overrides=["data.augment.rotation=0"])
    assert np.array_equal(drawn.images, drawn.varied)


def test_classes_are_spread(tmp_path: Path) -> None:
    """Of many classes some are shown, evenly spread; of each no more images than the smallest has."""
    root = tree(tmp_path, classes=[f"c{i:02}" for i in range(7)], train=3, test=1)
    (root / "train" / "c04" / "2.png").unlink()
    drawn = samples("image-folder", root=root, image_size=8, rows=4)
    assert drawn.classes == ("c00", "c01", "c03", "c05")
    assert drawn.images.shape[:2] == (4, 3)
    assert drawn.images[:, 1, 0, 0, 0].tolist() == [1, 41, 121, 201]
    assert drawn.augmentation.flip
    assert samples("image-folder", root=root, image_size=8).images.shape[:2] == (7, 2)
    assert drawn.counts == (3, 3, 3, 3)


def test_options(tmp_path: Path) -> None:
    """Size, channels and classes reach the loader."""
    (tmp_path / "list").write_text("7\n3\n")
    drawn = samples("digits", image_size=16, channels=3, classes=tmp_path / "list")
    assert drawn.images.shape == (2, 6, 3, 16, 16)
    assert (drawn.classes, drawn.num_classes, drawn.augmentation.shift) == (("7", "3"), 2, 2)


def test_impossible() -> None:
    """No class, no image and an unknown name are refused."""
    with pytest.raises(OptionError, match="rows is 0"):
        samples("digits", rows=0)
    with pytest.raises(OptionError, match="each is -1"):
        samples("digits", each=-1)
    with pytest.raises(OptionError, match="did you mean 'digits'"):
        samples("digit")


def test_varied_as_a_recipe_varies_them() -> None:
    """What settings name is done and nothing else: here every image loses a box, which shows the mean of all."""
    drawn = samples("digits", overrides=["data.augment.erasing.probability=1", "data.augment.erasing.area=[0.25,0.25]"])
    assert drawn.augmentation == data.Augmentation(erasing=data.Erasing(probability=1.0, area=(0.25, 0.25)))
    mean = data.channel_statistics(data.load("digits").train)[0].mul(255).round().item()
    changed = drawn.images != drawn.varied
    assert changed.any((2, 3, 4)).all()
    assert (drawn.varied[changed] == mean).all()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.augment.rotation=200", "data.augment.rotation: expected at most 180, got 200"),
        ("data.augment.erase=true", "data.augment.erase: unknown key; did you mean 'erasing'"),
        ("data.augment.flip=true", "a mirror image of 'digits' is not of its class"),
        ("data.augment.colour_jitter.hue=0.1", "saturation and hue are of images with 3 channels"),
        ("data.augment.mixup=0.2", "each is shown by itself; leave it out"),
        ("train.epochs=3", "'train.epochs=3': expected how images vary, for instance data.augment.erasing=true"),
    ],
)
def test_settings_that_are_refused(override: str, message: str) -> None:
    """One line each: what training would refuse, what the sheet cannot show, and what is of something else."""
    with pytest.raises(RecipeError, match=re.escape(message)) as error:
        samples("digits", overrides=[override])
    assert "\n" not in str(error.value)
