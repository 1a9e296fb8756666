"""Standardization by the training set's own mean and deviation of each channel."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from svdistill.data.sets import ImageSet, ImageSource
from svdistill.errors import DataError, ShapeError

# How many images of a set on disk are read for its statistics.
STREAMED_IMAGES = 10_000


def channel_statistics(images: Tensor | ImageSource) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all pixels of all images.

    The sums are taken in whole numbers, so the result does not depend on the order of the images or on the device.

    Args:
        images: (N, C, H, W), uint8, 0 to 255, N ≥ 1; or an image set. Of a set that lies on disk, 10,000 images spread
            evenly over it are read, which fixes both to better than a part in a hundred.

    Returns:
        mean and std, (C,), float32, in units where 255 is 1; the deviation divides by the number of pixels. A channel
        that is constant has std 1, so that standardizing gives 0 there and not NaN.

    Raises:
        DataError: the images are not uint8 of four dimensions, or there are none.
    """
    pieces = images.split(4096) if isinstance(images, Tensor) else _pieces(images)
    sums: Tensor | None = None
    pixels = 0
    for piece in pieces:
        if piece.dtype != torch.uint8 or piece.ndim != 4 or piece.numel() == 0:
            kind = f"{piece.dtype} of shape {tuple(piece.shape)}"
            raise DataError(f"images are {kind}, expected torch.uint8 (N, C, H, W) with at least one image")
        values = piece.transpose(0, 1).flatten(1).to(torch.int64)  # shape: (C, pixels)
        added = torch.stack([values.sum(dim=1), values.square().sum(dim=1)])
        sums = added if sums is None else sums + added
        pixels += values.shape[1]
    assert sums is not None
    mean, square = (sums.double() / pixels).unbind()
    # In whole numbers once more: N Σx² − (Σx)² is exactly 0 for a constant channel and nothing cancels.
    constant = pixels * sums[1] == sums[0].square()
    std = torch.where(constant, 255.0, (square - mean.square()).clamp(min=0).sqrt())
    return (mean / 255).float(), (std / 255).float()


def measured(source: ImageSource) -> ImageSource:
    """Return those images of a set that `channel_statistics` reads: all in memory, some of those that lie on disk."""
    if isinstance(source, ImageSet):
        return source
    number = min(len(source), STREAMED_IMAGES)
    return source.take(torch.arange(number) * len(source) // number)


def _pieces(source: ImageSource) -> Iterator[Tensor]:
    read = measured(source)
    if isinstance(read, ImageSet):
        yield from read.images.split(4096)
    else:
        yield from read.batches(torch.arange(len(read)).split(256))


def standardize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Subtract the mean of each channel and divide by its deviation.

    Args:
        images: (B, C, H, W), uint8 0 to 255, or floating point in [0, 1].
        mean: (C,), in units where 255 is 1.
        std: (C,), above 0, in the same units.

    Returns:
        (B, C, H, W), float32, on the device of `images`.

    Raises:
        ShapeError: the number of channels does not fit.
    """
    check_statistics(images.shape, mean, std)
    mean, std = (x.to(images.device, torch.float32)[:, None, None] for x in (mean, std))
    return (unit_range(images) - mean).div_(std)


def check_statistics(shape: Sequence[int], mean: Tensor, std: Tensor) -> None:
    """Raise `ShapeError` unless there is one mean and one deviation a channel for images of this (B, C, H, W)."""
    channels = shape[1] if len(shape) == 4 else -1
    if tuple(mean.shape) != (channels,) or tuple(std.shape) != (channels,):
        raise ShapeError(
            f"images of shape {tuple(shape)} came with mean {tuple(mean.shape)} and std {tuple(std.shape)}, "
            "expected (B, C, H, W), (C,) and (C,); use channel_statistics of the training images"
        )


def unit_range(images: Tensor) -> Tensor:
    """Return images as float32 in [0, 1]: uint8 is divided by 255, floating point is taken as it is."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()
