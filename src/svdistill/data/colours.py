"""Brightness, contrast, saturation and hue of a batch, each image by its own factor."""

from dataclasses import dataclass

import torch
from torch import Tensor

from svdistill.errors import OptionError, ShapeError

# Even numbers that a jitter takes.
NUMBERS = 4
_MOST = {"brightness": 10.0, "contrast": 10.0, "saturation": 10.0, "hue": 0.5}
# Of red, green and blue in grey, as in ITU-R BT.601.
_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True)
class ColourJitter:
    """Vary the colours of each image, in the order of the settings, each evenly.

    Attributes:
        brightness: by a factor of 1 ± this, not below 0.
        contrast: the same of the distance to the image's mean grey.
        saturation: the same of the distance to each pixel's own grey; only of images with three channels.
        hue: by ± this part of the colour circle, at most ½; only of images with three channels.

    Raises:
        OptionError: a value has the wrong type or is out of range, or all are 0.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        given = dict(zip(_MOST, (self.brightness, self.contrast, self.saturation, self.hue), strict=True))
        for name, value in given.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= _MOST[name]:
                raise OptionError(f"colour_jitter: {name} is {value!r}, expected a number from 0 to {_MOST[name]:g}")
        if not any(given.values()):
            raise OptionError("colour_jitter: all are 0, so that nothing varies; give for instance brightness=0.4")

    @property
    def needs_colour(self) -> bool:
        """Whether the images must have three channels."""
        return bool(self.saturation or self.hue)


def jitter_factors(even: Tensor, jitter: ColourJitter) -> dict[str, Tensor]:
    """Return what each image is varied by.

    Args:
        even: (B, `NUMBERS`), float64, evenly in [0, 1).
        jitter: how far.

    Returns:
        (B,), float32, for each that varies: a factor, of hue a part of the circle.
    """
    found = {}
    for name, reach, number in (
        ("brightness", jitter.brightness, even[:, 0]),
        ("contrast", jitter.contrast, even[:, 1]),
        ("saturation", jitter.saturation, even[:, 2]),
    ):
        low, high = max(0.0, 1 - reach), 1 + reach
        if reach:
            found[name] = (low + (high - low) * number).float()
    if jitter.hue:
        found["hue"] = ((2 * even[:, 3] - 1) * jitter.hue).float()
    return found


def brighten(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply by a factor.

    Args:
        images: (B, C, H, W), in [0, 1].
        factor: (B,), ≥ 0.

    Returns:
        (B, C, H, W), in [0, 1].
    """
    return blend(images, torch.zeros_like(images[:, :1]), factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply the distance to each image's mean grey by a factor; see `brighten`."""
    return blend(images, grey(images).mean((2, 3), keepdim=True), factor)


def saturate(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply the distance to each pixel's grey by a factor; see `brighten`."""
    return blend(images, grey(images), factor)


def blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Go from other images to these, and beyond where the factor is above 1; the result is held in [0, 1].

    Args:
        images: (B, C, H, W), in [0, 1].
        other: of a shape that fits.
        factor: (B,): 0 gives the other, 1 these.

    Returns:
        (B, C, H, W).
    """
    factor = factor.to(images.device, images.dtype)[:, None, None, None]
    return torch.lerp(other.expand_as(images), images, factor).clamp_(0, 1)


def grey(images: Tensor) -> Tensor:
    """Return the brightness of each pixel, (B, 1, H, W); of other than three channels their mean."""
    if images.shape[1] != len(_GREY):
        return images.mean(1, keepdim=True)
    red, green, blue = (weight * images[:, n : n + 1] for n, weight in enumerate(_GREY))
    return red + green + blue


def turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn each image's colours on the circle of hues; lightest and darkest channel of each pixel keep their values.

    Args:
        images: (B, 3, H, W).
        turn: (B,), as a part of the circle.

    Returns:
        (B, 3, H, W).

    Raises:
        ShapeError: the images do not have three channels.
    """
    if images.shape[1] != 3:
        raise ShapeError(f"images of {images.shape[1]} channels have no hue; take hue=0, or images of 3 channels")
    red, green, blue = images.unbind(1)
    most, least = images.amax(1), images.amin(1)
    chroma = most - least
    unit = torch.where(chroma > 0, chroma, 1.0)
    # Sixths of the circle: red is 0, green 2, blue 4.
    first = torch.where(most == green, (blue - red) / unit + 2, (red - green) / unit + 4)
    hue = torch.where(most == red, (green - blue) / unit, first)
    hue = hue + 6 * turn.to(images.device, images.dtype)[:, None, None]
    channels = []
    for start in (5, 3, 1):
        place = (hue + start) % 6
        channels.append(most - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels, 1)
