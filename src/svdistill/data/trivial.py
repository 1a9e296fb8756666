"""TrivialAugment: one change of each image, chosen evenly, as strong as chosen evenly."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.data.colours import blend, brighten, contrast, saturate

# Even numbers that an image takes: for the change, its strength and its sign.
NUMBERS = 3
LEVELS = 31
_WHITE = 255
# The published ranges; a shift is at most this many pixels, and at most the image's side.
_SHEAR, _TURN, _SHIFT, _FACTOR, _FEWEST_BITS = 0.99, 135.0, 32, 0.99, 2

MOVES = ("shear_x", "shear_y", "shift_x", "shift_y", "rotate")
COLOURS = (
    "identity",
    "brightness",
    "saturation",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
CHANGES = (*COLOURS, *MOVES)


class Changes(NamedTuple):
    """What TrivialAugment does to each image of a batch.

    Attributes:
        which: (B,), int64, a position in `CHANGES`.
        strength: (B,), float32: of the moves a slope, pixels or degrees; of the first four after identity a factor; of
            ``posterize`` how many bits are kept; of ``solarize`` the level from 0 to 255 from which on it inverts.
    """

    which: Tensor
    strength: Tensor


def choose(even: Tensor, *, height: int, width: int) -> Changes:
    """Choose a change of each image, and how strong it is.

    Args:
        even: (B, `NUMBERS`), float64, evenly in [0, 1).
        height: of the images, in pixels.
        width: of the images, in pixels.

    Returns:
        The changes.

    Source: S. G. Müller, F. Hutter, TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation, ICCV 2021, with
    the wide ranges, 31 strengths and 14 changes of torchvision.
    """
    which, level = (even[:, 0] * len(CHANGES)).long(), (even[:, 1] * LEVELS).floor()
    part = level / (LEVELS - 1)
    signed = torch.where(even[:, 2] < 0.5, part, -part)
    strengths = {
        "shear_x": _SHEAR * signed,
        "shear_y": _SHEAR * signed,
        "shift_x": (min(_SHIFT, width) * signed).trunc(),
        "shift_y": (min(_SHIFT, height) * signed).trunc(),
        "rotate": _TURN * signed,
        **dict.fromkeys(("brightness", "saturation", "contrast", "sharpness"), 1 + _FACTOR * signed),
        "posterize": 8 - ((8 - _FEWEST_BITS) * part).round(),
        "solarize": _WHITE * (1 - part),
    }
    strength = torch.zeros_like(part)
    for name, values in strengths.items():
        strength = torch.where(which == CHANGES.index(name), values, strength)
    return Changes(which, strength.float())


def moves(changes: Changes, *, height: int, width: int) -> Tensor:
    """Return where pixels come from, as an affine map of each image, in pixels from its centre, right and down.

    Args:
        changes: of B images; those that move no pixel give the identity.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Returns:
        (B, 2, 3), float64.
    """
    which, strength = changes.which, changes.strength.double()

    def only(name: str) -> Tensor:
        return torch.where(which == CHANGES.index(name), strength, 0.0)

    turn = only("rotate") * (math.pi / 180)
    cos, sin, across, down = turn.cos(), turn.sin(), only("shear_x"), only("shear_y")
    # A shear leaves the upper or the left edge where it is.
    right = across * (height / 2) - only("shift_x")
    low = down * (width / 2) - only("shift_y")
    return torch.stack([cos, across - sin, right, sin + down, cos, low], -1).view(-1, 2, 3)


def change(images: Tensor, which: Tensor, strength: Tensor) -> Tensor:
    """Change the colours of each image; what moves pixels is passed over.

    Args:
        images: (B, C, H, W), in [0, 1].
        which: (B,), see `Changes`.
        strength: (B,), see `Changes`.

    Returns:
        (B, C, H, W), in [0, 1].
    """
    which, strength = which.to(images.device), strength.to(images.device, images.dtype)
    on_cpu = images.device.type == "cpu"
    images = images.clone() if on_cpu else images
    for position, name in enumerate(COLOURS):
        if name == "identity":
            continue
        chosen = which == position
        if on_cpu:
            rows = chosen.nonzero()[:, 0]
            if len(rows):
                images[rows] = _DONE_BY[name](images[rows], strength[rows])
        else:  # to find out which would make the host wait
            images = torch.where(chosen[:, None, None, None], _DONE_BY[name](images, strength), images)
    return images


def sharpen(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply the distance to a smoothed image by a factor; pixels at the edge stay. See `colours.brighten`."""
    if min(images.shape[2:]) < 3:
        return images
    smooth = images.clone()
    inner = images[:, :, 1:-1, 1:-1]
    smooth[:, :, 1:-1, 1:-1] = (9 * F.avg_pool2d(images, 3, stride=1) + 4 * inner) / 13
    return blend(images, smooth, factor)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits of each level from 0 to 255.

    Args:
        images: (B, C, H, W), in [0, 1].
        bits: (B,), how many, 1 to 8.

    Returns:
        (B, C, H, W), in [0, 1].
    """
    step = (8 - bits.to(images.dtype)).exp2()[:, None, None, None]
    return (_levels(images) / step).floor() * step / _WHITE


def solarize(images: Tensor, start: Tensor) -> Tensor:
    """Invert what is at or above a level.

    Args:
        images: (B, C, H, W), in [0, 1].
        start: (B,), the level, from 0 to 255.

    Returns:
        (B, C, H, W), in [0, 1].
    """
    return torch.where(_levels(images) >= start[:, None, None, None], 1 - images, images)


def autocontrast(images: Tensor) -> Tensor:
    """Spread each channel of each image, (B, C, H, W), over the whole of [0, 1]; one of a single level stays."""
    least, most = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    spread = most > least
    return torch.where(spread, (images - least) / torch.where(spread, most - least, 1.0), images)


def equalize(images: Tensor) -> Tensor:
    """Let each level of each channel be about as frequent as any other.

    Args:
        images: (B, C, H, W), in [0, 1].

    Returns:
        (B, C, H, W), whole levels from 0 to 255, divided by 255; a channel with too few pixels beside those of its
        highest level stays as it is.
    """
    levels = _levels(images).long().flatten(2).clamp(0, _WHITE)
    counts = torch.zeros(*levels.shape[:2], _WHITE + 1, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    highest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - highest) // _WHITE
    below = counts.cumsum(2) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=_WHITE)
    found = table.gather(2, levels).to(images.dtype).div_(_WHITE)
    return torch.where(step > 0, found, images.flatten(2)).view(images.shape)


def _levels(images: Tensor) -> Tensor:
    return (images * _WHITE).round()


_DONE_BY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": brighten,
    "saturation": saturate,
    "contrast": contrast,
    "sharpness": sharpen,
    "posterize": posterize,
    "solarize": solarize,
    "autocontrast": lambda images, _: autocontrast(images),
    "equalize": lambda images, _: equalize(images),
}
