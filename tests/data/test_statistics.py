"""Tests of standardization."""

from pathlib import Path

import numpy as np
import pytest
import torch

from svdistill.data import Files, FileSet, ImageSet, channel_statistics, measured, standardize
from svdistill.errors import DataError, ShapeError

EPS = torch.finfo(torch.float32).eps


def test_against_numpy() -> None:
    """Mean and deviation agree with NumPy in float64, channel by channel, over more images than one piece."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (4200, 3, 2, 5), dtype=torch.uint8)
    images[:, 1] //= 10
    mean, std = channel_statistics(images)
    reference = images.numpy().astype(np.float64) / 255
    assert mean.dtype == std.dtype == torch.float32
    np.testing.assert_allclose(mean, reference.mean((0, 2, 3)), rtol=EPS)
    np.testing.assert_allclose(std, reference.std((0, 2, 3)), rtol=EPS)


def test_order_does_not_matter() -> None:
    """Shuffled images have the same statistics to the last bit."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (500, 2, 4, 4), dtype=torch.uint8)
    for first, second in zip(channel_statistics(images), channel_statistics(images[torch.randperm(500)]), strict=True):
        assert torch.equal(first, second)


def test_training_set_becomes_standard() -> None:
    """Standardized with its own statistics, a set has mean 0 and deviation 1 in each channel."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (300, 2, 6, 6), dtype=torch.uint8)
    images[:, 1] //= 3
    result = standardize(images, *channel_statistics(images))
    assert result.dtype == torch.float32
    # The mean of 10,800 numbers near 1, each wrong by about eps.
    assert result.double().mean((0, 2, 3)).abs().max() < 10 * EPS
    assert (result.double().std((0, 2, 3), correction=0) - 1).abs().max() < 10 * EPS


def test_constant_channel_becomes_zero() -> None:
    """A channel without variation gives 0, not NaN."""
    images = torch.randint(0, 256, (9, 2, 3, 3), dtype=torch.uint8)
    images[:, 1] = 77
    mean, std = channel_statistics(images)
    assert std[1] == 1
    assert (standardize(images, mean, std)[:, 1].abs() < EPS).all()


def test_nearly_constant_channel_keeps_its_deviation() -> None:
    """One pixel that differs by one is enough: its deviation is exact, not lost in the difference of large numbers."""
    images = torch.full((2500, 1, 20, 20), 255, dtype=torch.uint8)
    images[0, 0, 0, 0] = 254
    fraction = 1 / images.numel()
    assert channel_statistics(images)[1].item() == pytest.approx((fraction * (1 - fraction)) ** 0.5 / 255, rel=1e-5)


def test_integers_and_floats_agree() -> None:
    """uint8 images and the same images in [0, 1] give the same result."""
    images = torch.randint(0, 256, (3, 1, 4, 4), dtype=torch.uint8)
    mean, std = torch.tensor([0.3]), torch.tensor([0.2])
    assert torch.equal(standardize(images, mean, std), standardize(images.float() / 255, mean, std))


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 1, 3, 3), torch.zeros(1, 3, 3, dtype=torch.uint8), torch.zeros(0, 1, 3, 3, dtype=torch.uint8)],
)
def test_statistics_of_unfit_images(images: torch.Tensor) -> None:
    """Floats, a single image and no image are refused."""
    with pytest.raises(DataError, match=r"expected torch\.uint8"):
        channel_statistics(images)


@pytest.mark.parametrize(("shape", "channels"), [((2, 3, 4, 4), 1), ((2, 1, 4, 4), 3), ((3, 4, 4), 3)])
def test_channels_that_do_not_fit(shape: tuple[int, ...], channels: int) -> None:
    """Statistics of another number of channels do not broadcast in silence."""
    with pytest.raises(ShapeError, match="channel_statistics"):
        standardize(torch.zeros(shape), torch.zeros(channels), torch.ones(channels))


def test_statistics_of_a_set_are_those_of_its_images() -> None:
    """An image set in memory is measured whole."""
    images = torch.randint(0, 256, (50, 3, 5, 4), dtype=torch.uint8)
    whole = ImageSet(images, torch.zeros(50).long(), ("a",))
    for one, other in zip(channel_statistics(whole), channel_statistics(images), strict=True):
        assert torch.equal(one, other)


def test_which_images_are_measured(tmp_path: Path) -> None:
    """All that are in memory; of those on disk at most ten thousand, evenly spread."""
    labels = torch.zeros(20_001, dtype=torch.int64)
    kept = ImageSet(torch.zeros(20_001, 1, 1, 1, dtype=torch.uint8), labels, ("a",))
    assert measured(kept) is kept
    streamed = FileSet(Files(tmp_path, [""] * 20_001), torch.arange(20_001), labels, ("a",), 8)
    found = measured(streamed)
    assert isinstance(found, FileSet)
    assert (len(found), found.positions[:3].tolist(), int(found.positions[-1])) == (10_000, [0, 2, 4], 19_998)
    assert len(measured(streamed.take(torch.arange(5)))) == 5
