"""Tests of resized crops: their boxes, and what is shown of them."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.data import Augmentation, ResizedCrop, Views, augment
from svdistill.data.augment import draw
from svdistill.data.boxes import NUMBERS, crop_boxes
from svdistill.data.edits import edit, plan
from svdistill.errors import OptionError

DEFAULT = ResizedCrop()


def noise(height: int, width: int, batch: int = 1) -> Tensor:
    """Images of noise."""
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def even(batch: int, columns: int = NUMBERS, seed: int = 0) -> Tensor:
    """Numbers evenly in [0, 1)."""
    return torch.rand(batch, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_box(numbers: list[float], crop: ResizedCrop, height: int, width: int) -> list[int]:
    """Find a box as a loop over the tries."""
    for area, ratio in zip(numbers[:10], numbers[10:20], strict=True):
        pixels = (crop.scale[0] + area * (crop.scale[1] - crop.scale[0])) * height * width
        shape = crop.ratio[0] * (crop.ratio[1] / crop.ratio[0]) ** ratio
        wide, high = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < wide <= width and 0 < high <= height:
            return [int(numbers[20] * (width - wide + 1)), int(numbers[21] * (height - high + 1)), wide, high]
    wide, high = min(width, round(height * crop.ratio[1])), min(height, round(width / crop.ratio[0]))
    return [(width - wide) // 2, (height - high) // 2, wide, high]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 37), (8, 60), (1, 1), (60, 8)])
def test_boxes_against_a_loop(height: int, width: int) -> None:
    """The first try that lies within the image, else the largest box in the middle; the ends of the range too."""
    numbers = torch.cat(
        [even(500), torch.zeros(1, NUMBERS), torch.full((1, NUMBERS), 1 - 2.0**-53, dtype=torch.float64)]
    )
    for crop in (DEFAULT, ResizedCrop(scale=(0.9, 1.0), ratio=(0.2, 5.0)), ResizedCrop(scale=(1.0, 1.0), ratio=(2, 2))):
        found = crop_boxes(numbers, crop, height=height, width=width)
        assert found.tolist() == [one_box(row, crop, height, width) for row in numbers.tolist()]
        assert (found[:, :2] >= 0).all()
        assert (found[:, 2:] >= 1).all()
        assert (found[:, :2] + found[:, 2:] <= torch.tensor([width, height])).all()


def test_areas_and_ratios_are_spread_as_they_should_be() -> None:
    """On images so large that every try fits and rounding does not show."""
    boxes = crop_boxes(even(4000), ResizedCrop(scale=(0.04, 0.25)), height=4000, width=4000).double()
    area, ratio = boxes[:, 2] * boxes[:, 3] / 4000**2, (boxes[:, 2] / boxes[:, 3]).log()
    for values, (low, high) in ((area, (0.04, 0.25)), (ratio, (math.log(3 / 4), math.log(4 / 3)))):
        error = 5 * (high - low) / math.sqrt(12 * 4000)
        assert abs(values.mean() - (low + high) / 2) < error
        assert abs(values.std() - (high - low) / math.sqrt(12)) < error
        assert low - 1e-3 < values.min() < values.max() < high + 1e-3
    place = boxes[:, :2] / (4000 - boxes[:, 2:])
    assert abs(place.mean() - 0.5) < 0.02
    assert abs(torch.corrcoef(torch.stack([area, ratio, *place.T])) - torch.eye(4)).max() < 0.06


@pytest.mark.parametrize(("height", "width"), [(32, 32), (9, 24)])
def test_a_crop_is_what_interpolating_the_box_gives(height: int, width: int) -> None:
    """One image after the other, cut out and enlarged by torch's own function; then mirrored and moved."""
    images = noise(height, width, batch=40)
    for other in ({}, {"flip": True, "shift": 3}):
        settings = Augmentation(resized_crop=DEFAULT, **other)  # type: ignore[arg-type]
        numbers = draw(40, settings, torch.Generator().manual_seed(3))
        assert numbers is not None
        assert numbers.resized_crop is not None
        found = edit(images, plan(numbers, settings, height=height, width=width), fill=torch.zeros(3))
        boxes = crop_boxes(numbers.resized_crop, DEFAULT, height=height, width=width)
        for image, result, box, flip, shift in zip(images, found, boxes, numbers.flip, numbers.shift, strict=True):
            left, top, wide, high = box.tolist()
            cut = image[None, :, top : top + high, left : left + wide]
            expected = F.interpolate(cut, (height, width), mode="bilinear", align_corners=False)[0]
            expected = expected.flip(2) if flip else expected
            right, down = shift.tolist()
            padded = F.pad(expected, (3, 3, 3, 3))
            expected = padded[:, 3 - down : 3 - down + height, 3 - right : 3 - right + width]
            torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
        assert found.dtype == images.dtype
        assert 0 <= found.min() < found.max() <= 1


def test_a_turned_crop_has_no_edge_smeared() -> None:
    """What a rotation brings in from outside is 0, not the box's edge."""
    white = torch.ones(16, 1, 21, 21)
    settings = Augmentation(rotation=45.0, resized_crop=DEFAULT)
    found = augment(white, settings, torch.Generator().manual_seed(0))
    assert ((found == 0) | ((found - 1).abs() < 1e-6)).all()
    plain = augment(white, Augmentation(rotation=45.0), torch.Generator().manual_seed(0))
    assert (
        (found > 0.5) != (plain > 0.5)
    ).float().mean() < 0.01  # the same angles; only where a centre lies on the edge


def test_a_crop_of_everything_changes_nothing() -> None:
    """A box of the whole image, however the image is laid out and typed."""
    images = noise(12, 12, batch=3).double()
    whole = Augmentation(resized_crop=ResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0)))
    for one in (images, images.to(memory_format=torch.channels_last), images.float()):
        found = augment(one, whole, torch.Generator().manual_seed(0))
        torch.testing.assert_close(found, one, atol=1e-6, rtol=0)


def test_the_other_numbers_stay_as_they_are() -> None:
    """A crop beside them changes no flip, angle or shift, neither of draws nor of views."""
    plain, cropped = (Augmentation(flip=True, rotation=9.0, shift=2, resized_crop=one) for one in (None, DEFAULT))
    index, view = torch.arange(30), torch.arange(30) % 4
    for first, second in (
        [draw(30, one, torch.Generator().manual_seed(1)) for one in (plain, cropped)],
        [Views(count=4).numbers(index, view, one) for one in (plain, cropped)],
    ):
        assert first is not None
        assert second is not None
        assert all(torch.equal(a, b) for a, b in zip(first[:3], second[:3], strict=True))  # type: ignore[arg-type]
        assert first.resized_crop is None
        assert second.resized_crop is not None


def test_views_of_crops_are_a_pure_function() -> None:
    """The same in any batch and order, and spread as random ones are; another image, view or seed gives another."""
    settings, views = Augmentation(resized_crop=DEFAULT), Views(count=5, seed=1)
    index, view = torch.arange(2000).repeat_interleave(5), torch.arange(5).repeat(2000)
    whole = views.numbers(index, view, settings)
    some = views.numbers(index.flip(0)[:70], view.flip(0)[:70], settings)
    other = Views(count=5, seed=2).numbers(index, view, settings)
    for one in (whole, some, other):
        assert one is not None
        assert one.resized_crop is not None
    assert torch.equal(whole.resized_crop[-70:].flip(0), some.resized_crop)  # type: ignore[union-attr,index,arg-type]
    rows = torch.cat([whole.resized_crop, other.resized_crop]).numpy()  # type: ignore[union-attr,list-item]
    assert len(np.unique(rows.round(9), axis=0)) == 20_000
    assert abs(rows.mean(0) - 0.5).max() < 0.012
    assert abs(np.corrcoef(rows.T) - np.eye(NUMBERS)).max() < 0.04


@pytest.mark.parametrize("key", ["scale", "ratio"])
@pytest.mark.parametrize(
    "value", [(0.0, 1.0), (0.5, 0.2), (0.1, math.inf), (math.nan, 1.0), 0.5, (0.1,), (True, 2), ("a", 1)]
)
def test_ranges_that_cannot_be(key: str, value: Any) -> None:
    """Empty, out of range, or not a pair of numbers."""
    with pytest.raises(OptionError, match=f"^resized_crop: {key} is .* expected two numbers above 0.*smaller first$"):
        ResizedCrop(**{key: value})


def test_more_than_the_whole_image() -> None:
    """An area is at most 1; a ratio may be more."""
    with pytest.raises(OptionError, match="and at most 1"):
        ResizedCrop(scale=(0.5, 1.1))
    assert ResizedCrop(ratio=(0.5, 7.0)).ratio == (0.5, 7.0)
