"""Tests of TrivialAugment, against Pillow image by image."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from tests.waiting import DEVICE, nothing_waits
from torch import Tensor

from svdistill.data import Augmentation, ColourJitter, ResizedCrop, Views, augment
from svdistill.data.augment import Numbers
from svdistill.data.edits import edit, plan
from svdistill.data.trivial import CHANGES, LEVELS, NUMBERS, Changes, change, choose, moves
from svdistill.errors import OptionError

TRIVIAL = Augmentation(trivial_augment=True)
BLACK = torch.zeros(3)


def pictures(batch: int, height: int = 24, width: int = 24, channels: int = 3) -> Tensor:
    """Smooth images in colours, with a little noise, of whole levels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    noise = torch.rand(batch, channels, height, width, generator=generator)
    return ((0.15 + 0.6 * smooth + 0.1 * noise).clamp(0, 1) * 255).round().byte()


def numbers(name: str, level: int, *, negative: bool = False) -> Tensor:
    """Even numbers that choose this change at this level."""
    even = [(CHANGES.index(name) + 0.5) / len(CHANGES), (level + 0.5) / LEVELS, 0.9 if negative else 0.1]
    return torch.tensor([even], dtype=torch.float64)


def ours(images: Tensor, name: str, level: int, *, negative: bool = False) -> Tensor:
    """Change images from 0 to 255 through the whole of what training does."""
    height, width = images.shape[2:]
    still = Numbers(torch.zeros(1).bool(), torch.zeros(1), torch.zeros(1, 2).long())
    drawn = still._replace(trivial_augment=numbers(name, level, negative=negative))
    edits = plan(drawn, TRIVIAL, height=height, width=width)
    return torch.cat([edit(image[None] / 255, edits, fill=BLACK) for image in images]) * 255


def pillows(image: Image.Image, name: str, level: int, *, negative: bool = False) -> Image.Image:
    """Change one image as torchvision's TrivialAugmentWide does with Pillow's functions."""
    part = level / 30 * (-1 if negative else 1)

    def affine(*rows: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, rows, Image.Resampling.NEAREST)

    enhance: dict[str, Any] = {
        "brightness": ImageEnhance.Brightness,
        "saturation": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "sharpness": ImageEnhance.Sharpness,
    }
    done: dict[str, Callable[[], Image.Image]] = {
        "identity": lambda: image,
        **{key: lambda key=key: enhance[key](image).enhance(1 + 0.99 * part) for key in enhance},  # type: ignore[misc]
        "posterize": lambda: ImageOps.posterize(image, 8 - round(level / 5)),
        "solarize": lambda: ImageOps.solarize(image, math.ceil(255 - 8.5 * level)),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "shear_x": lambda: affine(1, 0.99 * part, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, 0.99 * part, 1, 0),
        "shift_x": lambda: affine(1, 0, -int(min(32, image.width) * part), 0, 1, 0),
        "shift_y": lambda: affine(1, 0, 0, 0, 1, -int(min(32, image.height) * part)),
        "rotate": lambda: image.rotate(135 * part, Image.Resampling.NEAREST),
    }
    return done[name]()


@pytest.mark.parametrize("name", CHANGES)
def test_changes_against_pillow(name: str) -> None:
    """Every change at several strengths and both signs; Pillow rounds to whole levels."""
    images = pictures(3, 24, 40)
    signed = name in CHANGES[1:5] or name in CHANGES[9:]
    for level in (0, 7, 15, 29 if name == "rotate" else 30):  # at 135° all centres lie between two pixels
        for negative in (False, True) if signed else (False,):
            found = ours(images, name, level, negative=negative)
            for image, result in zip(images, found, strict=True):
                picture = pillows(Image.fromarray(image.permute(1, 2, 0).numpy()), name, level, negative=negative)
                off = (result - torch.from_numpy(np.array(picture)).permute(2, 0, 1)).abs()
                # A look-up between two pixels, and a step of a table, may go either way.
                moved = name in CHANGES[9:]
                assert (off > (0.01 if moved else 2.05)).float().mean() <= (0.02 if moved else 0.002), (level, negative)
            assert 0 <= found.min() <= found.max() <= 255.001


def test_level_zero_changes_nothing() -> None:
    """But for the two without a strength; solarizing from 255 on inverts white alone."""
    images = pictures(2)
    for name in set(CHANGES) - {"autocontrast", "equalize"}:
        torch.testing.assert_close(ours(images, name, 0), images.float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["autocontrast", "equalize", "sharpness", "contrast", "solarize"])
def test_images_with_nothing_to_spread(name: str) -> None:
    """One level, or two, grey or in colours, and very small ones: as Pillow has them."""
    flat, two = torch.full((1, 3, 9, 9), 77, dtype=torch.uint8), torch.full((1, 3, 9, 9), 10, dtype=torch.uint8)
    two[..., :4] = 200
    for images in (flat, two, flat[..., :2, :2], flat[..., :1, :1]):
        found = ours(images, name, 20)
        picture = pillows(Image.fromarray(images[0].permute(1, 2, 0).numpy()), name, 20)
        assert (found[0] - torch.from_numpy(np.array(picture)).permute(2, 0, 1)).abs().max() <= 1.05


def test_a_batch_is_its_images_one_by_one() -> None:
    """Each image by its own change; a device that must not wait computes the same."""
    images, settings = pictures(200) / 255, Augmentation(flip=True, shift=2, trivial_augment=True)
    drawn = Views(count=2).numbers(torch.arange(200), torch.zeros(200).long(), settings)
    assert drawn is not None
    edits = plan(drawn, settings, height=24, width=24)
    assert edits.change is not None
    assert edits.strength is not None
    assert set(edits.change.tolist()) == set(range(len(CHANGES)))
    found = edit(images, edits, fill=BLACK)
    for n in range(200):
        part = slice(n, n + 1)
        assert torch.equal(edit(images[part], edits.take(part), fill=BLACK), found[part])
    assert found.dtype == images.dtype
    assert 0 <= found.min() < found.max() <= 1
    with nothing_waits():
        there = [torch.empty_like(one, device=DEVICE) for one in (images, edits.change, edits.strength)]
        assert change(*there).shape == images.shape


def test_choices_are_even_and_apart() -> None:
    """Each change, level and sign about as often as the next."""
    even = torch.rand(60_000, NUMBERS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    changes = choose(even, height=32, width=32)
    counts = Counter(changes.which.tolist())
    assert set(counts) == set(range(14))
    assert max(abs(n - 60_000 / 14) for n in counts.values()) < 5 * math.sqrt(60_000 / 14)
    turns = changes.strength[changes.which == CHANGES.index("rotate")]
    values, counted = turns.abs().round(decimals=3).unique(return_counts=True)
    assert values.tolist() == pytest.approx([4.5 * n for n in range(LEVELS)])
    assert (counted - len(turns) / LEVELS).abs().max() < 5 * math.sqrt(len(turns) / LEVELS)
    assert abs((turns > 0).float().mean() - 0.5) < 0.05
    bits = changes.strength[changes.which == CHANGES.index("posterize")]
    assert bits.unique().tolist() == [2, 3, 4, 5, 6, 7, 8]


def test_shifts_are_no_larger_than_the_image() -> None:
    """At most 32 pixels, as published, on images of 32 and more; at most the side of smaller ones."""
    for size, most in ((8, 8), (32, 32), (224, 32)):
        for name, column in (("shift_x", 0), ("shift_y", 1)):
            changes = choose(numbers(name, 30), height=size, width=size)
            assert moves(changes, height=size, width=size)[0, column, 2] == -most


def test_moves_join_the_other_warps() -> None:
    """A move after a flip, a shift and a crop is the move of what they give, where nothing leaves the frame."""
    images = pictures(1, 21, 21) / 255
    for other in (Augmentation(flip=True), Augmentation(flip=True, resized_crop=ResizedCrop())):
        both = Augmentation(flip=True, resized_crop=other.resized_crop, trivial_augment=True)
        crop = torch.full((1, 22), 0.4, dtype=torch.float64) if other.resized_crop else None
        first = Numbers(torch.ones(1).bool(), torch.zeros(1), torch.zeros(1, 2).long(), crop)
        for name in ("shift_x", "shift_y"):
            drawn = first._replace(trivial_augment=numbers(name, 8))
            found = edit(images, plan(drawn, both, height=21, width=21), fill=BLACK)
            before = edit(images, plan(first, other, height=21, width=21), fill=BLACK)
            torch.testing.assert_close(found * 255, ours(before * 255, name, 8), atol=1e-3, rtol=0)


def test_grey_images() -> None:
    """Saturation leaves them as they are; all else works."""
    images = pictures(300, 12, 12, channels=1) / 255
    grey = Changes(torch.tensor([CHANGES.index("saturation")]), torch.tensor([0.01]))
    torch.testing.assert_close(change(images[:1], *grey), images[:1])
    found = augment(images, TRIVIAL, torch.Generator().manual_seed(0))
    assert (found != images).flatten(1).any(1).float().mean() > 0.6


def test_views_and_other_numbers() -> None:
    """A pure function of image and view; flips and jitter stay as they were without."""
    index, view = torch.arange(60), torch.arange(60) % 3
    jitter = ColourJitter(brightness=0.4)
    settings, plain = (Augmentation(flip=True, colour_jitter=jitter, trivial_augment=on) for on in (True, False))
    whole, some, without = (
        Views(count=3).numbers(index[part], view[part], one)
        for part, one in ((slice(None), settings), (slice(50, 60), settings), (slice(None), plain))
    )
    for one in (whole, some, without):
        assert one is not None
    assert torch.equal(whole.trivial_augment[50:], some.trivial_augment)  # type: ignore[union-attr,index,arg-type]
    assert torch.equal(whole.flip, without.flip)  # type: ignore[union-attr]
    assert torch.equal(whole.colour_jitter, without.colour_jitter)  # type: ignore[union-attr,arg-type]
    assert len(whole.trivial_augment.unique()) == 60 * NUMBERS  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [1, "yes", None])
def test_not_a_switch(value: Any) -> None:
    """Refused by name."""
    with pytest.raises(OptionError, match=r"^trivial_augment is .* expected true or false$"):
        Augmentation(trivial_augment=value)
