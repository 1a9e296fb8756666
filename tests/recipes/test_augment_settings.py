"""The settings of augmentation: their bounds, what they make, and what they are to a run's digest."""

from typing import Any

import pytest
from tests.recipes.small import checked, loaded

from svdistill import recipes
from svdistill.errors import RecipeError
from svdistill.recipes.check import check_parts
from svdistill.recipes.images import augmentation

BOXES = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("resized_crop=1", r"^data\.augment\.resized_crop: expected settings of its own"),
        ("resized_crop.scale=[0.5,1.5]", r"^data\.augment\.resized_crop\.scale: expected two numbers .* at most 1,"),
        ("resized_crop.scale=[0,1]", r"^data\.augment\.resized_crop\.scale: expected two numbers above 0"),
        (
            "resized_crop.ratio=[2,1]",
            r"^data\.augment\.resized_crop\.ratio: expected .* the smaller first; got \[2, 1\]$",
        ),
        ("resized_crop.ratio=2", r"^data\.augment\.resized_crop\.ratio: expected a list of two numbers"),
        ("erasing.probability=0", r"^data\.augment\.erasing\.probability: expected more than 0"),
        ("erasing.probability=1.5", r"^data\.augment\.erasing\.probability: expected at most 1"),
        ("erasing.area=[0.1,1.1]", r"^data\.augment\.erasing\.area: expected two numbers above 0 and at most 1,"),
        ("erasing.scale=[0.1,1]", r"^data\.augment\.erasing\.scale: unknown key"),
        ("colour_jitter={}", r"^data\.augment\.colour_jitter: all are 0, so that nothing varies"),
        ("colour_jitter=true", r"^data\.augment\.colour_jitter: expected settings of its own"),
        ("colour_jitter.hue=0.6", r"^data\.augment\.colour_jitter\.hue: expected at most 0\.5"),
        ("colour_jitter.contrast=-1", r"^data\.augment\.colour_jitter\.contrast: expected at least 0"),
        ("colour_jitter.color=1", r"^data\.augment\.colour_jitter\.color: unknown key"),
        ("trivial_augment=1", r"^data\.augment\.trivial_augment: expected true or false, got 1"),
        ("mixup=0", r"^data\.augment\.mixup: expected more than 0, got 0"),
        ("cutmix=-1", r"^data\.augment\.cutmix: expected more than 0"),
        ("cutmix=1e4", r"^data\.augment\.cutmix: expected at most 1000"),
        ("mixup=true", r"^data\.augment\.mixup: expected a number, got True"),
        ("resized_crop.area=2", r"^data\.augment\.resized_crop\.area: unknown key"),
    ],
)
def test_out_of_range(setting: str, match: str) -> None:
    """One line that names the key."""
    with pytest.raises(RecipeError, match=match):
        recipes.load("digits/svd", [f"data.augment.{setting}"])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], {}),
        (["resized_crop=true"], {"resized_crop": BOXES}),
        (["erasing=true"], {"erasing": {"probability": 0.5, "area": (0.02, 0.33), "ratio": (0.3, 3.3)}}),
        (
            ["colour_jitter.brightness=0.4"],
            {"colour_jitter": {"brightness": 0.4, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}},
        ),
        (["trivial_augment=true"], {"trivial_augment": True}),
        (["resized_crop={scale: [0.5, 1]}"], {"resized_crop": BOXES | {"scale": (0.5, 1.0)}}),
    ],
)
def test_what_they_make(settings: list[str], expected: dict[str, Any]) -> None:
    """What is off does not count among what a teacher cache is of, so that older ones still serve."""
    recipe = recipes.load("digits/svd", [f"data.augment.{one}" for one in settings])
    assert augmentation(recipe.data.augment).plain() == {"flip": False, "rotation": 10.0, "shift": 1} | expected
    assert recipes.validate(recipe.to_dict()) == recipe


def test_what_cannot_be_mixed() -> None:
    """Fixed views, live or stored; images that do not pair up in each process; a loss that compares with labels."""
    mixed, even = "data.augment={cutmix: 1.0, rotation: 5.0}", ["train.batch_size=24"]
    for views in (["teacher.views=2"], ["teacher.views=2", "teacher.live=true"]):
        with pytest.raises(RecipeError, match=r"^data\.augment\.cutmix: which images are .* teacher\.views=null$"):
            recipes.load("digits/svd", [mixed, *even, *views])
    for processes, overrides, said in (
        (1, [], r"train\.batch_size: 25 images .* into pairs for data\.augment\.cutmix; take train\.batch_size=24$"),
        (
            2,
            ["train.batch_size=6"],
            r"train\.batch_size: 6 .* 2 processes and into pairs for data\..*; take train\.batch_size=8$",
        ),
        (1, [*even, "data.unlabelled={batch_size: 3}"], r"data\.unlabelled\.batch_size: 3 .*batch_size=4$"),
    ):
        with pytest.raises(RecipeError, match=said):
            check_parts(recipes.load("digits/svd", [mixed, *overrides]), processes=processes)
    check_parts(recipes.load("digits/svd", [mixed, *even, "train.accumulate=3"]), processes=2)
    with pytest.raises(RecipeError, match=r"^data\.augment\.cutmix: a mixed image has two labels, and dkd .*null"):
        checked(loaded(mixed, "loss=[svd,dkd]"))
    checked(loaded(mixed, "loss=[svd,soft-target]"))


def test_digests() -> None:
    """A default that is written out names no other run; whatever varies images does."""
    plain = recipes.load("digits/svd").digest()
    off = ("resized_crop=null", "resized_crop=false", "erasing=false", "trivial_augment=false", "mixup=null")
    for same in off:
        assert recipes.load("digits/svd", [f"data.augment.{same}"]).digest() == plain
    others = ["resized_crop=true", "resized_crop={scale: [0.5, 1]}", "erasing=true", "erasing.probability=0.1"]
    others += ["mixup=0.2", "cutmix=1.0", "trivial_augment=true", "colour_jitter.hue=0.1", "colour_jitter.contrast=0.1"]
    assert len({plain, *(recipes.load("digits/svd", [f"data.augment.{one}"]).digest() for one in others)}) == 1 + len(
        others
    )
    written = recipes.load("digits/svd", ["data.augment.resized_crop={scale: [0.08, 1]}"]).digest()
    assert written == recipes.load("digits/svd", ["data.augment.resized_crop={}"]).digest()
