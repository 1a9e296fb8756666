"""Tests of random erasing."""

import math
from typing import Any

import pytest
import torch

from svdistill.data import Augmentation, Batches, Erasing, ImageSet, Views, augment, channel_statistics
from svdistill.data.augment import draw
from svdistill.data.boxes import NUMBERS, erase, erased_boxes
from svdistill.errors import OptionError

DEFAULT = Erasing()


def even(batch: int, seed: int = 0) -> torch.Tensor:
    """Numbers evenly in [0, 1)."""
    return torch.rand(batch, 1 + NUMBERS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_box(numbers: list[float], erasing: Erasing, height: int, width: int) -> list[int]:
    """Find a box as a loop over the tries."""
    if numbers[0] >= erasing.probability:
        return [0, 0, 0, 0]
    for area, ratio in zip(numbers[1:11], numbers[11:21], strict=True):
        pixels = (erasing.area[0] + area * (erasing.area[1] - erasing.area[0])) * height * width
        shape = erasing.ratio[0] * (erasing.ratio[1] / erasing.ratio[0]) ** ratio
        wide, high = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < wide < width and 0 < high < height:
            return [int(numbers[21] * (width - wide + 1)), int(numbers[22] * (height - high + 1)), wide, high]
    return [0, 0, 0, 0]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 37), (4, 60), (2, 2)])
def test_boxes_against_a_loop(height: int, width: int) -> None:
    """The first try that is smaller than the image, on as many images as said."""
    for erasing in (DEFAULT, Erasing(probability=1.0, area=(0.5, 1.0))):
        found = erased_boxes(even(500), erasing, height=height, width=width)
        for box, row in zip(found.tolist(), even(500).tolist(), strict=True):
            expected = one_box(row, erasing, height, width)
            assert box[2:] == expected[2:]
            assert box == expected or not expected[2]
    assert erased_boxes(even(3), Erasing(probability=1.0), height=1, width=1)[:, 2:].sum() == 0


def test_a_box_is_filled_and_nothing_else() -> None:
    """By hand, on each channel with its own value."""
    images = torch.rand(3, 2, 4, 5)
    boxes = torch.tensor([[1, 2, 3, 1], [0, 0, 0, 0], [4, 0, 1, 4]])
    found = erase(images, boxes, torch.tensor([5.0, 7.0]))
    expected = images.clone()
    for channel, value in enumerate((5.0, 7.0)):
        expected[0, channel, 2, 1:4] = value
        expected[2, channel, :, 4] = value
    assert torch.equal(found, expected)


def test_an_erased_box_is_0_after_standardization() -> None:
    """In batches of images, exactly; about as many images have one as said, each of a fitting size."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 256, (400, 3, 16, 16), generator=generator, dtype=torch.uint8)
    images = ImageSet(pixels, torch.zeros(400).long(), ("all",))
    mean, std = channel_statistics(pixels)
    varied = Augmentation(erasing=Erasing(probability=0.25))
    batch = next(Batches(images, 400, seed=0, augmentation=varied, mean=mean, std=std).epoch())
    plain = next(Batches(images, 400, seed=0, augmentation=Augmentation(), mean=mean, std=std).epoch())
    assert torch.equal(batch.indices, plain.indices)
    erased = (batch.images == 0).all(1)
    assert torch.equal(torch.where(erased[:, None], 0.0, plain.images), batch.images)
    sizes = erased.flatten(1).sum(1) / 256
    assert abs((sizes > 0).float().mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 400)
    assert sizes[sizes > 0].min() > 0.01
    assert sizes.max() < 0.36


def test_the_other_numbers_stay_as_they_are() -> None:
    """Erasing changes neither flips nor crops, of draws or of views; its own are those of the view alone."""
    plain, erasing = (Augmentation(flip=True, shift=2, erasing=one) for one in (None, DEFAULT))
    index, view = torch.arange(40), torch.arange(40) % 4
    views = Views(count=4)
    whole = views.numbers(index, view, erasing)
    some = views.numbers(index.flip(0)[:9], view.flip(0)[:9], erasing)
    drawn = [draw(40, one, torch.Generator().manual_seed(1)) for one in (plain, erasing)]
    for one in (whole, some, *drawn):
        assert one is not None
    assert torch.equal(whole.erasing[-9:].flip(0), some.erasing)  # type: ignore[union-attr,index,arg-type]
    assert len(whole.erasing.unique()) == 40 * (1 + NUMBERS)  # type: ignore[union-attr]
    for first, second in (drawn, (views.numbers(index, view, plain), whole)):
        assert torch.equal(first.flip, second.flip)  # type: ignore[union-attr]
        assert torch.equal(first.shift, second.shift)  # type: ignore[union-attr]


def test_what_it_shows_without_standardization() -> None:
    """Black, unless something else is asked for; type and layout stay."""
    images = torch.ones(64, 1, 8, 8, dtype=torch.float64)
    settings = Augmentation(erasing=Erasing(probability=1.0))
    black = augment(images, settings, torch.Generator().manual_seed(0))
    grey = augment(images, settings, torch.Generator().manual_seed(0), fill=torch.tensor([0.5]))
    assert set(black.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(grey, black.clamp(min=0.5))
    assert (black == 0).flatten(1).any(1).all()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("probability", v) for v in (0.0, 1.1, -1, True, "a", None, math.nan)],
        *[("area", v) for v in ((0.0, 0.5), (0.5, 1.2), (0.3, 0.2), 0.3)],
        *[("ratio", v) for v in ((0.0, 0.5), (2, 1), (1, math.inf))],
    ],
)
def test_settings_out_of_range(key: str, value: Any) -> None:
    """Refused by name."""
    with pytest.raises(OptionError, match=f"^erasing: {key} is .* expected"):
        Erasing(**{key: value})
