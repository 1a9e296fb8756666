"""Boxes of random area, shape and place within an image: what a resized crop shows, and what is erased."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from svdistill.errors import OptionError

_TRIES = 10
# Even numbers that a box takes: an area and a ratio for each try, then where it lies, from the left and from the top.
NUMBERS = 2 * _TRIES + 2

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ResizedCrop:
    """Show a box of each image, enlarged to the whole size.

    Attributes:
        scale: least and greatest area of the box, as parts of the image's; above 0, at most 1.
        ratio: least and greatest ratio of the box's width to its height, above 0; it is drawn evenly on a logarithmic
            scale.

    Raises:
        OptionError: a range is empty or out of range.

    Source: C. Szegedy et al., Going Deeper with Convolutions, CVPR 2015; the ranges are those of torchvision.
    """

    scale: Range = (0.08, 1.0)
    ratio: Range = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        check_range("resized_crop: scale", self.scale, most=1.0)
        check_range("resized_crop: ratio", self.ratio, most=math.inf)


@dataclass(frozen=True, kw_only=True)
class Erasing:
    """Erase a box of some images: it shows the mean colour, which standardization makes 0.

    Attributes:
        probability: that an image has a box erased, above 0, at most 1.
        area: least and greatest area of the box, as parts of the image's; above 0, at most 1.
        ratio: least and greatest ratio of the box's width to its height, above 0; it is drawn evenly on a logarithmic
            scale.

    Raises:
        OptionError: a value has the wrong type or is out of range.

    Source: Z. Zhong et al., Random Erasing Data Augmentation, AAAI 2020; the defaults are those of torchvision.
    """

    probability: float = 0.5
    area: Range = (0.02, 0.33)
    ratio: Range = (0.3, 3.3)

    def __post_init__(self) -> None:
        number = isinstance(self.probability, int | float) and not isinstance(self.probability, bool)
        if not number or not 0 < self.probability <= 1:
            raise OptionError(f"erasing: probability is {self.probability!r}, expected a number above 0, at most 1")
        check_range("erasing: area", self.area, most=1.0)
        check_range("erasing: ratio", self.ratio, most=math.inf)


def check_range(name: str, value: Range, *, most: float) -> None:
    """Raise `OptionError` unless a value is a pair of numbers above 0, in order."""
    pair = isinstance(value, tuple | list) and len(value) == 2
    numbers = pair and all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)
    if not numbers or not 0 < value[0] <= value[1] <= most or not math.isfinite(value[1]):
        limit = "" if most == math.inf else f" and at most {most:g}"
        raise OptionError(f"{name} is {value!r}, expected two numbers above 0{limit}, the smaller first")


def crop_boxes(even: Tensor, crop: ResizedCrop, *, height: int, width: int) -> Tensor:
    """Return the boxes of resized crops.

    Where none of ten tries lies within the image, the box is the largest in the middle that the ratios allow.

    Args:
        even: (B, `NUMBERS`), float64, evenly in [0, 1).
        crop: areas and ratios.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Returns:
        (B, 4), int64: left, top, width and height, in pixels.
    """
    boxes = random_boxes(even, area=crop.scale, ratio=crop.ratio, height=height, width=width, most=(height, width))
    least, greatest = crop.ratio
    wide = min(width, max(1, round(height * greatest)))
    high = min(height, max(1, round(width / least)))
    middle = torch.tensor([(width - wide) // 2, (height - high) // 2, wide, high])
    return torch.where(boxes[:, 2:3] > 0, boxes, middle)


def erased_boxes(even: Tensor, erasing: Erasing, *, height: int, width: int) -> Tensor:
    """Return the boxes that are erased; each is lower and narrower than the image.

    Args:
        even: (B, 1 + `NUMBERS`), float64, evenly in [0, 1).
        erasing: how often, areas and ratios.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Returns:
        (B, 4), int64: left, top, width and height, in pixels; the last two are 0 where nothing is erased, also
        where none of ten tries was small enough.
    """
    most = (height - 1, width - 1)
    boxes = random_boxes(even[:, 1:], area=erasing.area, ratio=erasing.ratio, height=height, width=width, most=most)
    return boxes * (even[:, :1] < erasing.probability)


def erase(images: Tensor, boxes: Tensor, fill: Tensor) -> Tensor:
    """Fill a box of each image.

    Args:
        images: (B, C, H, W).
        boxes: (B, 4), int64: left, top, width and height, in pixels.
        fill: (C,), with what.

    Returns:
        (B, C, H, W).
    """
    height, width = images.shape[2:]
    erased = inside(boxes.to(images.device), height=height, width=width)[:, None]
    return torch.where(erased, fill.to(images.device, images.dtype)[:, None, None], images)


def inside(boxes: Tensor, *, height: int, width: int) -> Tensor:
    """Return which pixels lie inside of boxes.

    Args:
        boxes: (B, 4), int64: left, top, width and height, in pixels.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Returns:
        (B, H, W), bool.
    """
    both = []
    for axis, frame in enumerate((width, height)):
        pixel, start = torch.arange(frame, device=boxes.device), boxes[:, axis, None]
        both.append((pixel >= start) & (pixel < start + boxes[:, axis + 2, None]))
    across, down = both
    return down[:, :, None] & across[:, None, :]


def random_boxes(even: Tensor, *, area: Range, ratio: Range, height: int, width: int, most: tuple[int, int]) -> Tensor:
    """Return boxes in whole pixels, each the first of ten tries that is not empty and not too large.

    Args:
        even: (B, `NUMBERS`), float64, evenly in [0, 1).
        area: least and greatest, as parts of the image's.
        ratio: least and greatest width over height, even on a logarithmic scale.
        height: of the images, in pixels.
        width: of the images, in pixels.
        most: the greatest height and width that a box may have.

    Returns:
        (B, 4), int64: left, top, width and height; the last two are 0 where no try succeeded.
    """
    areas = (area[0] + (area[1] - area[0]) * even[:, :_TRIES]) * (height * width)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratios = (low + (high - low) * even[:, _TRIES : 2 * _TRIES]).exp()
    sizes = torch.stack([(areas * ratios).sqrt(), (areas / ratios).sqrt()], -1).round()  # shape: (B, tries, 2)
    fits = ((sizes >= 1) & (sizes <= torch.tensor(most[::-1]))).all(-1)
    first = fits.int().argmax(1)
    size = sizes[torch.arange(len(even)), first] * fits.any(1, keepdim=True)
    start = (even[:, -2:] * (torch.tensor([width, height]) - size + 1)).floor()
    return torch.cat([start, size], 1).long()
