"""Random flip, rotation and shift of a batch, in one warp."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.errors import OptionError, ShapeError

# A few megabytes of float32 and float64 beside each other.
_PIXELS_IN_CACHE = 2**17


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far images are varied.

    Attributes:
        flip: mirror left and right, each image with probability ½.
        rotation: largest angle in degrees, 0 to 180; each image turns by an angle drawn evenly from ± this.
        shift: largest shift in whole pixels; each image moves by a number of pixels drawn evenly from ± this, in both
            directions. The same as padding with as many zeros and cropping at random.

    Raises:
        OptionError: a value has the wrong type or is out of range.
    """

    flip: bool = False
    rotation: float = 0.0
    shift: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.flip, bool):
            raise OptionError(f"flip is {self.flip!r}, expected true or false")
        number = isinstance(self.rotation, int | float) and not isinstance(self.rotation, bool)
        if not number or not 0 <= self.rotation <= 180:
            raise OptionError(f"rotation is {self.rotation!r}, expected degrees from 0 to 180")
        if isinstance(self.shift, bool) or not isinstance(self.shift, int) or self.shift < 0:
            raise OptionError(f"shift is {self.shift!r}, expected a whole number of pixels, 0 or more")

    @property
    def is_identity(self) -> bool:
        """Whether images stay as they are."""
        return not (self.flip or self.rotation or self.shift)


class Warps(NamedTuple):
    """How each image of a batch is varied; see `warp`.

    Attributes:
        flip: (B,), bool.
        angle: (B,), float, in degrees.
        shift: (B, 2), int64, in pixels.
    """

    flip: Tensor
    angle: Tensor
    shift: Tensor

    def take(self, part: slice) -> Self:
        """Return the warps of some of the images."""
        return type(self)(self.flip[part], self.angle[part], self.shift[part])


@dataclass(frozen=True, kw_only=True)
class Views:
    """A few fixed warps of every image in place of ever new ones, for instance to store what a teacher says to each.

    Attributes:
        count: views an image, at least 1.
        seed: another seed gives other warps; 0 to 2³² − 1.

    Raises:
        OptionError: a value has the wrong type or is out of range.
    """

    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (("count", self.count, 1), ("seed", self.seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**32:
                raise OptionError(f"views: {name} is {value!r}, expected a whole number from {least} to {2**32 - 1}")

    def warps(self, index: Tensor, view: Tensor, augmentation: Augmentation) -> Warps | None:
        """Return the warps of some views: a pure function of the seed and of the numbers of image and view.

        Args:
            index: (B,), int64, the image's number, ≥ 0.
            view: (B,), int64, the view's number, 0 to count − 1.
            augmentation: how far.

        Returns:
            The warps, on the CPU; None where nothing is to be varied.

        Source: the numbers are hashed by the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
        """
        if augmentation.is_identity:
            return None
        key = _mixed(_mixed(np.uint64(self.seed)) + index.cpu().numpy().astype(np.uint64))
        key = _mixed(key + view.cpu().numpy().astype(np.uint64))
        # 53 bits, evenly in [0, 1).
        flip, angle, right, down = ((_mixed(key + np.uint64(n)) >> np.uint64(11)) * 2.0**-53 for n in range(4))
        spread = 2 * augmentation.shift + 1
        shift = np.floor(np.stack((right, down), 1) * spread) - augmentation.shift
        return Warps(
            torch.from_numpy((flip < 0.5) & augmentation.flip),
            torch.from_numpy((2 * angle - 1) * augmentation.rotation).float(),
            torch.from_numpy(shift).long(),
        )


def _mixed(numbers: np.uint64 | np.ndarray[Any, np.dtype[np.uint64]]) -> Any:
    """Hash 64-bit numbers, so that any two that differ give results that look unrelated."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        z = numbers + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def draw(number: int, augmentation: Augmentation, generator: torch.Generator) -> Warps | None:
    """Draw warps at random.

    Args:
        number: of images.
        augmentation: how far.
        generator: the only source of random numbers, on the CPU, so that the same numbers serve every device. It is
            not touched where nothing is to be varied.

    Returns:
        The warps, on the CPU; None where nothing is to be varied.
    """
    if augmentation.is_identity:
        return None
    # All are drawn, used or not, so that allowing a shift does not change the flips.
    limit = augmentation.shift
    flip = torch.rand(number, generator=generator) < 0.5
    angle = (2 * torch.rand(number, generator=generator) - 1) * augmentation.rotation
    shift = torch.randint(-limit, limit + 1, (number, 2), generator=generator)
    return Warps(flip & augmentation.flip, angle, shift)


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Flip, rotate and shift each image at random.

    Args:
        images: (B, C, H, W), float32 or float64, raw: 0 is black, which is what comes in from outside the image.
        augmentation: how far.
        generator: as for `draw`.

    Returns:
        (B, C, H, W); `images` itself where nothing is to be varied.

    Raises:
        ShapeError: the images have another dtype or number of dimensions.
    """
    warps = draw(len(images), augmentation, generator)
    return images if warps is None else warp(images, **warps._asdict())


def warp(images: Tensor, *, flip: Tensor, angle: Tensor, shift: Tensor) -> Tensor:
    """Mirror each image, then turn it about its centre, then shift it: one nearest-neighbour look-up.

    For pixel centres p (x to the right, y down, in pixels from the centre) the result at p is the image at
    M R (p − t), where t is the shift, R turns back by the angle and M mirrors x. Being one look-up, nothing that a
    rotation moves out of the frame is lost when the shift moves it in again. Flips, whole shifts and, on square
    images, multiples of 90° are exact: the pixels are copied.

    Args:
        images: (B, C, H, W), float32 or float64.
        flip: (B,), bool.
        angle: (B,), in degrees, counter-clockwise as one sees the image.
        shift: (B, 2), in pixels, right and down; the gap is filled with 0.

    Returns:
        (B, C, H, W).

    Raises:
        ShapeError: the images have another dtype or number of dimensions.
    """
    if images.ndim != 4 or images.dtype not in (torch.float32, torch.float64):
        kind = f"{images.dtype} of shape {tuple(images.shape)}"
        raise ShapeError(f"images are {kind}, expected float32 or float64 (B, C, H, W); scale uint8 to [0, 1] first")
    if images.numel() == 0:  # there is nothing to look up
        return images
    height, width = images.shape[2:]
    return look_up(images, inverse_maps(Warps(flip, angle, shift), height=height, width=width))


def inverse_maps(warps: Warps, *, height: int, width: int) -> Tensor:
    """Return where each pixel of the results comes from, as an affine map of each image.

    Args:
        warps: of B images.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Returns:
        (B, 2, 3), float64: x and y in the image from (x, y, 1) in the result, each axis from −1 to 1.
    """
    radians = warps.angle.double() * (math.pi / 180)
    mirror = 1 - 2 * warps.flip.double()
    cos, sin = radians.cos(), radians.sin()
    turn = torch.stack([torch.stack([mirror * cos, -mirror * sin], -1), torch.stack([sin, cos], -1)], -2)
    # grid_sample measures each axis from −1 to 1, so rows and columns need their own unit or rotation would shear.
    unit = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    matrix = turn * unit / unit[:, None]
    offset = -(turn @ warps.shift.double()[:, :, None]) / unit[:, None]
    return torch.cat([matrix, offset], dim=-1)


def look_up(images: Tensor, maps: Tensor) -> Tensor:
    """Sample each image where its map sends the centres of the pixels; outside it is 0.

    Args:
        images: (B, C, H, W), float32 or float64.
        maps: (B, 2, 3), from `inverse_maps`.

    Returns:
        (B, C, H, W), on the device of the images; nothing waits for it.
    """
    # In float64, rounded once at the end, a look-up falls between two pixels only where it should. MPS has no float64.
    exact = torch.float32 if images.device.type == "mps" else torch.float64
    maps = maps.to(device=images.device, dtype=exact)
    pieces = pieces_in_cache(images)
    if len(pieces) == 1:
        return _look_up(images, maps)
    warped = torch.empty_like(images)
    for piece in pieces:
        warped[piece] = _look_up(images[piece], maps[piece])
    return warped


def pieces_in_cache(images: Tensor) -> list[slice]:
    """Divide a batch into parts whose intermediate results stay in a CPU's cache; elsewhere it stays whole.

    Operations that pass over a batch of large images one after the other wait for memory, and for the system to hand
    out its pages; on parts they are several times faster and give the same.

    Args:
        images: (B, C, H, W).

    Returns:
        The parts, in order; one at least.
    """
    batch, (height, width) = len(images), images.shape[2:]
    size = max(1, _PIXELS_IN_CACHE // max(1, height * width)) if images.device.type == "cpu" else batch
    return [slice(start, start + size) for start in range(0, batch, max(1, size))] or [slice(0, 0)]


def _look_up(images: Tensor, maps: Tensor) -> Tensor:
    height, width = images.shape[2:]
    x, y = (_centres(size, maps) for size in (width, height))
    # What affine_grid computes, as a sum of a row and a column for each coordinate instead of a product of matrices.
    along, down = maps[:, :, 0, None] * x, maps[:, :, 1, None] * y + maps[:, :, 2, None]
    grid = (along[:, :, None, :] + down[:, :, :, None]).to(images.dtype).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def _centres(size: int, like: Tensor) -> Tensor:
    """Return where the centres of `size` pixels are between −1 and 1."""
    return (2 * torch.arange(size, device=like.device, dtype=like.dtype) + 1) / size - 1
