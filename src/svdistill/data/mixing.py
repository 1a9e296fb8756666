"""MixUp and CutMix: the images of a batch are mixed in pairs, and so are their labels."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from svdistill.data.boxes import inside
from svdistill.errors import OptionError

# Even numbers that a batch takes: for the way, where a box lies from the left and from the top, and the weight.
NUMBERS = 4
_MOST = 1000.0


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mix each image of a batch with another one; where both ways are given, each batch takes one of them by chance.

    Attributes:
        mixup: weigh the pixels of both. The weight λ of an image's own, the same for a whole batch, is drawn from the
            distribution Beta(α, α) with this α; None = not.
        cutmix: put a box of the other image into its place. The box has a part 1 − λ of the area, drawn with this α,
            before what lies outside of the image is cut off; None = not.

    Raises:
        OptionError: neither is given, or one is out of range.

    Source: H. Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018; S. Yun et al., CutMix, ICCV 2019.
    """

    mixup: float | None = None
    cutmix: float | None = None

    def __post_init__(self) -> None:
        given = {"mixup": self.mixup, "cutmix": self.cutmix}
        for name, value in given.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and (not number or not 0 < value <= _MOST):
                raise OptionError(f"{name} is {value!r}, expected a number above 0 and at most {_MOST:g}, or None")
        if all(value is None for value in given.values()):
            raise OptionError(
                "neither mixup nor cutmix is given, so that nothing is mixed; give for instance mixup=0.2"
            )


class Mix(NamedTuple):
    """How the pairs of a batch are mixed.

    Attributes:
        share: 0-dim, float32: the part that an image's own label keeps, 0 to 1.
        outside: 0-dim, float32: the weight of an image's own pixels outside of the box.
        box: (4,), int64: left, top, width and height of the box, in which the other image is seen alone.
    """

    share: Tensor
    outside: Tensor
    box: Tensor

    def each(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to each tensor."""
        return type(self)(*map(function, self))


def plan_mix(even: Tensor, mixing: Mixing, *, height: int, width: int) -> Mix:
    """Make of the random numbers of a batch how it is mixed: a pure function.

    Args:
        even: (`NUMBERS`,), float64, evenly in [0, 1), on the CPU.
        mixing: in which ways.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Returns:
        The mix, on the CPU.
    """
    way, across, down, last = even.tolist()
    seed = int(last * 2**53)
    alpha = mixing.mixup if mixing.cutmix is None or (mixing.mixup is not None and way < 0.5) else None
    if alpha is not None:
        share = _weight(alpha, seed)
        return Mix(torch.tensor(share), torch.tensor(share), torch.zeros(4, dtype=torch.int64))
    assert mixing.cutmix is not None
    side = math.sqrt(1 - _weight(mixing.cutmix, seed))
    left, right = _cut(int(across * width), int(width * side), width)
    top, bottom = _cut(int(down * height), int(height * side), height)
    box = torch.tensor([left, top, right - left, bottom - top])
    share = 1 - (right - left) * (bottom - top) / (height * width)
    return Mix(torch.tensor(share), torch.tensor(1.0), box)


def _weight(alpha: float, seed: int) -> float:
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def _cut(centre: int, size: int, frame: int) -> tuple[int, int]:
    """Return where an interval begins and ends, without what lies outside of the frame."""
    return max(0, centre - size // 2), min(frame, centre + size // 2)


def mix_images(images: Tensor, mix: Mix) -> Tensor:
    """Mix the first image with the second one, the third with the fourth, and so on, each with the other.

    Args:
        images: (B, C, H, W), B even.
        mix: how.

    Returns:
        (B, C, H, W), laid out in memory as the images are.
    """
    height, width = images.shape[2:]
    _, outside, box = mix.each(lambda one: one.to(images.device))
    own = torch.where(inside(box[None], height=height, width=width)[:, None], 0.0, outside).to(images.dtype)
    mixed = torch.empty_like(images)
    return torch.lerp(partners(images), images, own, out=mixed)


def partners(each: Tensor) -> Tensor:
    """Return what belongs to the other image of each pair, (B, …).

    Pairs are neighbours, who stay together however many processes a batch is divided over; its order is random.
    """
    return each.view(-1, 2, *each.shape[1:]).flip(1).view(each.shape)
