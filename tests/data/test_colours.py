"""Tests of what changes colours, against Pillow's and Python's own image by image."""

import colorsys
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from svdistill import recipes
from svdistill.data import Augmentation, Batches, ColourJitter, ImageSet, Views, augment
from svdistill.data.augment import Numbers
from svdistill.data.colours import NUMBERS, brighten, contrast, jitter_factors, saturate, turn_hue
from svdistill.data.edits import edit, plan
from svdistill.errors import OptionError, RecipeError, ShapeError
from svdistill.recipes.images import load_images

ALL = ColourJitter(brightness=0.4, contrast=0.5, saturation=0.6, hue=0.1)
FACTORS = [0.0, 0.3, 1.0, 1.7, 4.0]


def pictures(batch: int = 5, channels: int = 3) -> Tensor:
    """Images of whole levels from 0 to 255: noise with a ramp of light, so that means differ."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (batch, channels, 12, 9), generator=generator)
    light = torch.linspace(0.2, 1, batch)[:, None, None, None]
    return (noise * light).round().byte()


def pillow(image: Tensor) -> Image.Image:
    """Return one image for Pillow."""
    return Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy())


def levels(image: Image.Image) -> Tensor:
    """Return Pillow's image as (C, H, W)."""
    array = torch.from_numpy(np.array(image))
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(brighten, ImageEnhance.Brightness), (contrast, ImageEnhance.Contrast), (saturate, ImageEnhance.Color)],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_enhancements_against_pillow(ours: Any, theirs: Any, channels: int) -> None:
    """Each image by its own factor; Pillow rounds grey and result to whole levels."""
    images = pictures(channels=channels)
    found = ours(images / 255, torch.tensor(FACTORS)) * 255
    for image, result, factor in zip(images, found, FACTORS, strict=True):
        expected = levels(theirs(pillow(image)).enhance(factor))
        assert (result - expected).abs().max() <= 1 + 0.5 * abs(1 - factor) + 1e-3
    assert 0 <= found.min() < found.max() <= 255 + 1e-4


def test_hue_against_colorsys() -> None:
    """Pixel by pixel, grey and primary ones too; a whole turn changes nothing."""
    images = pictures().double() / 255
    images[0, :, 0] = torch.tensor([[0.0, 0, 1, 1, 0.5], [0, 1, 0, 1, 0.5], [0, 0, 0, 1, 0.5]])[
        :, [*range(5), 1, 2, 3, 4]
    ]
    turns = torch.tensor([0.25, -0.5, 0.1, 0.0, 1.0])
    found = turn_hue(images, turns)
    for image, result, turn in zip(images, found, turns.double().tolist(), strict=True):
        for pixel, new in zip(image.flatten(1).T.tolist(), result.flatten(1).T.tolist(), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            assert new == pytest.approx(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), abs=1e-7)
    torch.testing.assert_close(found[3:], images[3:])


def test_values_by_hand() -> None:
    """An orange pixel beside a black one, whose greys are 0.299 + 0.587 / 2 and 0."""
    image = torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.0, 0.0]])[None, :, None]
    half = torch.tensor([0.5])
    grey = 0.299 + 0.587 / 2
    assert brighten(image, half)[0, :, 0].T.tolist() == [[0.5, 0.25, 0], [0, 0, 0]]
    expected = [0.5 + grey / 4, 0.25 + grey / 4, grey / 4, *[grey / 4] * 3]
    assert contrast(image, half)[0, :, 0].T.flatten().tolist() == pytest.approx(expected)
    expected = [0.5 + grey / 2, 0.25 + grey / 2, grey / 2, 0, 0, 0]
    assert saturate(image, half)[0, :, 0].T.flatten().tolist() == pytest.approx(expected)
    # From 30° on the circle to 150°: green, half of it blue.
    assert turn_hue(image, torch.tensor([1 / 3]))[0, :, 0, 0].tolist() == pytest.approx([0, 1, 0.5], abs=1e-6)


def test_factors_are_spread_evenly_and_apart() -> None:
    """Over 1 ± what is said, not below 0; what does not vary has none."""
    even = torch.rand(20_000, NUMBERS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factors = jitter_factors(even, ColourJitter(brightness=0.4, contrast=2.0, hue=0.5))
    assert set(factors) == {"brightness", "contrast", "hue"}
    for name, low, high in (("brightness", 0.6, 1.4), ("contrast", 0.0, 3.0), ("hue", -0.5, 0.5)):
        values = factors[name].double()
        assert low <= values.min() < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / math.sqrt(12 * 20_000)
        assert abs(values.std() - (high - low) / math.sqrt(12)) < 0.01 * (high - low)
    assert (torch.corrcoef(torch.stack(list(factors.values()))) - torch.eye(3)).abs().max() < 0.03


def test_order_and_what_comes_before() -> None:
    """Pixels move first; then brightness, contrast, saturation, hue; an erased box stays as it is filled."""
    images = pictures() / 255
    settings = Augmentation(flip=True, shift=2, colour_jitter=ALL)
    numbers = Views(count=2).numbers(torch.arange(5), torch.zeros(5).long(), settings)
    assert numbers is not None
    assert numbers.colour_jitter is not None
    found = edit(images, plan(numbers, settings, height=12, width=9), fill=torch.zeros(3))
    moved = Augmentation(flip=True, shift=2)
    expected = edit(images, plan(Numbers(*numbers[:3]), moved, height=12, width=9), fill=torch.zeros(3))
    factors = jitter_factors(numbers.colour_jitter, ALL)
    for change, name in ((brighten, "brightness"), (contrast, "contrast"), (saturate, "saturation"), (turn_hue, "hue")):
        expected = change(expected, factors[name])
    assert torch.equal(found, expected)
    assert found.dtype == images.dtype
    assert not torch.equal(found, images)
    assert 0 <= found.min() < found.max() <= 1


def test_views_of_colours_are_a_pure_function() -> None:
    """The same in any batch; flips stay as they were without."""
    index, view = torch.arange(60), torch.arange(60) % 3
    settings, plain = (Augmentation(flip=True, colour_jitter=one) for one in (ALL, None))
    whole, some, without = (
        Views(count=3).numbers(index[part], view[part], one)
        for part, one in ((slice(None), settings), (slice(50, 60), settings), (slice(None), plain))
    )
    for one in (whole, some, without):
        assert one is not None
    assert torch.equal(whole.colour_jitter[50:], some.colour_jitter)  # type: ignore[union-attr,index,arg-type]
    assert torch.equal(whole.flip, without.flip)  # type: ignore[union-attr]
    assert len(whole.colour_jitter.unique()) == 60 * NUMBERS  # type: ignore[union-attr]


def test_colours_of_grey_images() -> None:
    """Saturation and hue are refused, wherever images come in; brightness and contrast are not."""
    grey = pictures(channels=1)
    options: dict[str, Any] = {"seed": 0, "mean": torch.zeros(1), "std": torch.ones(1)}
    images = ImageSet(grey, torch.zeros(5).long(), ("all",))
    for jitter in (ColourJitter(saturation=0.1), ColourJitter(brightness=0.1, hue=0.1)):
        settings = Augmentation(colour_jitter=jitter)
        with pytest.raises(OptionError, match=r"^colour_jitter: .* 3 channels, and these have 1; take 0 for both$"):
            augment(grey / 255, settings, torch.Generator())
        with pytest.raises(OptionError, match="and these have 1"):
            Batches(images, 2, augmentation=settings, **options)
    settings = Augmentation(colour_jitter=ColourJitter(brightness=0.4, contrast=0.4))
    assert len(next(Batches(images, 2, augmentation=settings, **options).epoch()).images) == 2
    with pytest.raises(RecipeError, match=r"^data\.augment\.colour_jitter: saturation and hue are of .* have 1; take"):
        load_images(recipes.load("digits/svd", ["data.augment.colour_jitter.hue=0.1"]))
    load_images(recipes.load("digits/svd", ["data.augment.colour_jitter.hue=0.1", "data.channels=3"]))
    with pytest.raises(ShapeError, match="images of 1 channels have no hue"):
        turn_hue(grey / 255, torch.zeros(5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "all are 0, so that nothing varies"),
        *[({"hue": v}, "hue is .*from 0 to 0.5$") for v in (-0.1, 0.6, math.nan, True, "a", None)],
        *[({"contrast": v}, "contrast is .*from 0 to 10$") for v in (-0.1, 10.5)],
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    """Refused by name."""
    with pytest.raises(OptionError, match=f"^colour_jitter: {message}"):
        ColourJitter(**settings)
