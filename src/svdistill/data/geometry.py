"""Where each pixel of a varied image comes from: a batch of warps and crops in one look-up."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.errors import ShapeError

# A few megabytes of float32 and float64 beside each other.
_PIXELS_IN_CACHE = 2**17


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
    check_images(images)
    if images.numel() == 0:  # there is nothing to look up
        return images
    height, width = images.shape[2:]
    return look_up(images, inverse_maps(flip, angle, shift, height=height, width=width))


def check_images(images: Tensor) -> None:
    """Raise `ShapeError` unless these are float32 or float64 (B, C, H, W)."""
    if images.ndim != 4 or images.dtype not in (torch.float32, torch.float64):
        kind = f"{images.dtype} of shape {tuple(images.shape)}"
        raise ShapeError(f"images are {kind}, expected float32 or float64 (B, C, H, W); scale uint8 to [0, 1] first")


def inverse_maps(flip: Tensor, angle: Tensor, shift: Tensor, *, height: int, width: int) -> Tensor:
    """Return where each pixel of the results of `warp` comes from, as an affine map of each image.

    Args:
        flip: (B,), bool.
        angle: (B,), in degrees.
        shift: (B, 2), in pixels.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Returns:
        (B, 2, 3), float64: x and y in the image from (x, y, 1) in the result, each axis from −1 to 1.
    """
    radians = angle.double() * (math.pi / 180)
    mirror = 1 - 2 * flip.double()
    cos, sin = radians.cos(), radians.sin()
    turn = torch.stack([torch.stack([mirror * cos, -mirror * sin], -1), torch.stack([sin, cos], -1)], -2)
    return in_units(torch.cat([turn, -(turn @ shift.double()[:, :, None])], dim=-1), height=height, width=width)


def in_units(maps: Tensor, *, height: int, width: int) -> Tensor:
    """Return affine maps of pixels from the centre, (B, 2, 3), as maps of each axis from −1 to 1."""
    # Rows and columns each have their own unit, or rotation would shear.
    unit = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    return torch.cat([maps[:, :, :2] * unit / unit[:, None], maps[:, :, 2:] / unit[:, None]], dim=-1)


def one_after_the_other(first: Tensor, second: Tensor) -> Tensor:
    """Return the affine maps, (B, 2, 3), that send each place where the second sends what the first makes of it."""
    turned = second[:, :, :2] @ first
    return torch.cat([turned[:, :, :2], turned[:, :, 2:] + second[:, :, 2:]], dim=-1)


def look_up(images: Tensor, maps: Tensor, boxes: Tensor | None = None) -> Tensor:
    """Sample each image, or a box of it, where its map sends the centres of the pixels; outside it is 0.

    Args:
        images: (B, C, H, W), float32 or float64.
        maps: (B, 2, 3), from `inverse_maps`.
        boxes: (B, 4), left, top, width and height in pixels: what the maps lead to in place of the whole image. Then
            pixels are interpolated, from those of the box alone; without boxes the nearest is taken.

    Returns:
        (B, C, H, W), on the device of the images; nothing waits for it.
    """
    # In float64, rounded once at the end, a look-up falls between two pixels only where it should. MPS has no float64.
    exact = torch.float32 if images.device.type == "mps" else torch.float64
    maps = maps.to(device=images.device, dtype=exact)
    boxes = None if boxes is None else boxes.to(device=images.device, dtype=exact)
    pieces = pieces_in_cache(images)
    if len(pieces) == 1:
        return _look_up(images, maps, boxes)
    warped = torch.empty_like(images)
    for piece in pieces:
        warped[piece] = _look_up(images[piece], maps[piece], None if boxes is None else boxes[piece])
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


def _look_up(images: Tensor, maps: Tensor, boxes: Tensor | None) -> Tensor:
    if boxes is not None:
        return _interpolated(images, maps, boxes)
    grid = _places(images, maps).to(images.dtype).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def _interpolated(images: Tensor, maps: Tensor, boxes: Tensor) -> Tensor:
    """Sample boxes of images between their pixels; beyond the centres of its outermost pixels a box does not change."""
    frame = torch.stack([torch.full_like(boxes[:, 0], size) for size in (images.shape[3], images.shape[2])], 1)
    half = boxes[:, 2:] / frame  # of each side of the box, where the image's measures 2
    middle = 2 * boxes[:, :2] / frame + half - 1
    maps = torch.cat([maps[:, :, :2] * half[:, :, None], (maps[:, :, 2] * half + middle)[:, :, None]], 2)
    last = half - 1 / frame  # from the middle to the outermost centres
    # Between pixels a place need not be exact, and half as many bytes are faster.
    maps, middle, half, last = (one.to(images.dtype) for one in (maps, middle, half, last))
    middle, half, last = (one[:, :, None, None] for one in (middle, half, last))
    places = _places(images, maps)
    grid = places.clamp(middle - last, middle + last).permute(0, 2, 3, 1)
    found = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found.mul_((places >= middle - half).logical_and_(places <= middle + half).all(1, keepdim=True))


def _places(images: Tensor, maps: Tensor) -> Tensor:
    """Return where each pixel comes from, (B, 2, H, W), each axis from −1 to 1."""
    height, width = images.shape[2:]
    x, y = (_centres(size, maps) for size in (width, height))
    # What affine_grid computes, as a sum of a row and a column for each coordinate instead of a product of matrices.
    along, down = maps[:, :, 0, None] * x, maps[:, :, 1, None] * y + maps[:, :, 2, None]
    return along[:, :, None, :] + down[:, :, :, None]


def _centres(size: int, like: Tensor) -> Tensor:
    """Return where the centres of `size` pixels are between −1 and 1."""
    return (2 * torch.arange(size, device=like.device, dtype=like.dtype) + 1) / size - 1
