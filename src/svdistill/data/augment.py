"""Random flip, rotation and shift of a batch, in one warp."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.errors import RecipeError, ShapeError


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far images are varied.

    Attributes:
        flip: mirror left and right, each image with probability ½.
        rotation: largest angle in degrees, 0 to 180; each image turns by an angle drawn evenly from ± this.
        shift: largest shift in whole pixels; each image moves by a number of pixels drawn evenly from ± this, in both
            directions. The same as padding with so many zeros and cropping at random.

    Raises:
        RecipeError: a value has the wrong type or is out of range.
    """

    flip: bool = False
    rotation: float = 0.0
    shift: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.flip, bool):
            raise RecipeError(f"flip is {self.flip!r}, expected true or false")
        number = isinstance(self.rotation, int | float) and not isinstance(self.rotation, bool)
        if not number or not 0 <= self.rotation <= 180:
            raise RecipeError(f"rotation is {self.rotation!r}, expected degrees from 0 to 180")
        if isinstance(self.shift, bool) or not isinstance(self.shift, int) or self.shift < 0:
            raise RecipeError(f"shift is {self.shift!r}, expected a whole number of pixels, 0 or more")

    @property
    def is_identity(self) -> bool:
        """Whether images stay as they are."""
        return not (self.flip or self.rotation or self.shift)


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Flip, rotate and shift each image at random.

    Args:
        images: (B, C, H, W), float32 or float64, raw: 0 is black, which is what comes in from outside the image.
        augmentation: how far.
        generator: the only source of random numbers, on the CPU, so that the same numbers serve every device. It is
            not touched where nothing is to be varied.

    Returns:
        (B, C, H, W); `images` itself where nothing is to be varied.

    Raises:
        ShapeError: the images have another dtype or number of dimensions.
    """
    if augmentation.is_identity:
        return images
    # All are drawn, used or not, so that allowing a shift does not change the flips.
    batch, limit = len(images), augmentation.shift
    flip = torch.rand(batch, generator=generator) < 0.5
    angle = (2 * torch.rand(batch, generator=generator) - 1) * augmentation.rotation
    shift = torch.randint(-limit, limit + 1, (batch, 2), generator=generator)
    return warp(images, flip=flip & augmentation.flip, angle=angle, shift=shift)


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
    if images.numel() == 0:  # affine_grid refuses it
        return images
    height, width = images.shape[2:]
    radians = angle.double() * (math.pi / 180)
    mirror = 1 - 2 * flip.double()
    cos, sin = radians.cos(), radians.sin()
    turn = torch.stack([torch.stack([mirror * cos, -mirror * sin], -1), torch.stack([sin, cos], -1)], -2)
    # grid_sample measures each axis from −1 to 1, so rows and columns need their own unit or rotation would shear.
    unit = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    matrix = turn * unit / unit[:, None]
    offset = -(turn @ shift.double()[:, :, None]) / unit[:, None]
    # affine_grid multiplies matrices: in float64 neither TF32 nor autocast can coarsen them. MPS has no float64.
    exact = torch.float32 if images.device.type == "mps" else torch.float64
    theta = torch.cat([matrix, offset], dim=-1).to(device=images.device, dtype=exact)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False).to(images.dtype)
    return F.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)
