"""How far images are varied, and the random numbers by which each of them is: new ones, or those of fixed views."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from svdistill.data import boxes, colours, trivial
from svdistill.data.boxes import Erasing, ResizedCrop
from svdistill.data.colours import ColourJitter
from svdistill.errors import OptionError

# Where the numbers of a kind begin among those of a view, and how many it takes. A new kind goes to the end, so that
# the views of the others stay as they are.
_KINDS = {
    "resized_crop": (4, boxes.NUMBERS),
    "erasing": (4 + boxes.NUMBERS, 1 + boxes.NUMBERS),
    "colour_jitter": (5 + 2 * boxes.NUMBERS, colours.NUMBERS),
    "trivial_augment": (5 + 2 * boxes.NUMBERS + colours.NUMBERS, trivial.NUMBERS),
}


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far images are varied.

    Attributes:
        flip: mirror left and right, each image with probability ½.
        rotation: largest angle in degrees, 0 to 180; each image turns by an angle drawn evenly from ± this.
        shift: largest shift in whole pixels; each image moves by a number of pixels drawn evenly from ± this, in both
            directions. The same as padding with as many zeros and cropping at random.
        resized_crop: show a box of each image, which is then mirrored, turned and shifted; None = the whole image.
        erasing: erase a box of some images, after all else; None = of none.
        colour_jitter: vary the colours, after all that moves pixels; None = not.
        trivial_augment: change each image in one more way, see `trivial.choose`.

    Raises:
        OptionError: a value has the wrong type or is out of range.
    """

    flip: bool = False
    rotation: float = 0.0
    shift: int = 0
    resized_crop: ResizedCrop | None = None
    erasing: Erasing | None = None
    colour_jitter: ColourJitter | None = None
    trivial_augment: bool = False

    def __post_init__(self) -> None:
        for name, value in (("flip", self.flip), ("trivial_augment", self.trivial_augment)):
            if not isinstance(value, bool):
                raise OptionError(f"{name} is {value!r}, expected true or false")
        number = isinstance(self.rotation, int | float) and not isinstance(self.rotation, bool)
        if not number or not 0 <= self.rotation <= 180:
            raise OptionError(f"rotation is {self.rotation!r}, expected degrees from 0 to 180")
        if isinstance(self.shift, bool) or not isinstance(self.shift, int) or self.shift < 0:
            raise OptionError(f"shift is {self.shift!r}, expected a whole number of pixels, 0 or more")

    @property
    def moves(self) -> bool:
        """Whether pixels change their place."""
        return bool(self.flip or self.rotation or self.shift or self.resized_crop or self.trivial_augment)

    @property
    def is_identity(self) -> bool:
        """Whether images stay as they are."""
        return not (self.moves or self.kinds)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The fields of `Numbers` beyond the first three that are drawn, in order."""
        there = {
            "resized_crop": self.resized_crop,
            "erasing": self.erasing,
            "colour_jitter": self.colour_jitter,
            "trivial_augment": self.trivial_augment,
        }
        return tuple(kind for kind, settings in there.items() if settings)

    def check(self, channels: int) -> None:
        """Make sure that images of so many channels can be varied in this way.

        Raises:
            OptionError: the jitter is of colours, and they have none.
        """
        if self.colour_jitter is not None and self.colour_jitter.needs_colour and channels != 3:
            raise OptionError(
                f"colour_jitter: saturation and hue are of images with 3 channels, and these have {channels}; take 0 "
                "for both"
            )

    def plain(self) -> dict[str, Any]:
        """Return the settings as plain values; what is off is left out, but for the first three."""
        always = ("flip", "rotation", "shift")
        return {name: value for name, value in asdict(self).items() if value or name in always}


class Numbers(NamedTuple):
    """The random numbers of each image of a batch, of which `plan` makes what is done to it.

    Attributes:
        flip: (B,), bool.
        angle: (B,), float, in degrees.
        shift: (B, 2), int64, in pixels.
        resized_crop: (B, n), float64, evenly in [0, 1); None where there is none.
        erasing: (B, n), float64, evenly in [0, 1); None where there is none.
        colour_jitter: (B, n), float64, evenly in [0, 1); None where there is none.
        trivial_augment: (B, n), float64, evenly in [0, 1); None where there is none.
    """

    flip: Tensor
    angle: Tensor
    shift: Tensor
    resized_crop: Tensor | None = None
    erasing: Tensor | None = None
    colour_jitter: Tensor | None = None
    trivial_augment: Tensor | None = None

    def take(self, part: slice) -> Self:
        """Return the numbers of some of the images."""
        taken: list[Any] = [None if one is None else one[part] for one in self]
        return type(self)(*taken)

    @classmethod
    def join(cls, some: Sequence[Self]) -> Self:
        """Put the numbers of several batches behind each other."""
        joined: list[Any] = [None if column[0] is None else torch.cat(column) for column in zip(*some, strict=True)]
        return cls(*joined)


@dataclass(frozen=True, kw_only=True)
class Views:
    """A few fixed variants of every image in place of ever new ones, for instance to store what a teacher says to each.

    Attributes:
        count: views an image, at least 1.
        seed: another seed gives other ones; 0 to 2³² − 1.

    Raises:
        OptionError: a value has the wrong type or is out of range.
    """

    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (("count", self.count, 1), ("seed", self.seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**32:
                raise OptionError(f"views: {name} is {value!r}, expected a whole number from {least} to {2**32 - 1}")

    def numbers(self, index: Tensor, view: Tensor, augmentation: Augmentation) -> Numbers | None:
        """Return the numbers of some views: a pure function of the seed and of the numbers of image and view.

        Args:
            index: (B,), int64, the image's number, ≥ 0.
            view: (B,), int64, the view's number, 0 to count − 1.
            augmentation: how far.

        Returns:
            The numbers, on the CPU; None where nothing is to be varied.

        Source: the numbers are hashed by the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
        """
        if augmentation.is_identity:
            return None
        key = _mixed(_mixed(np.uint64(self.seed)) + index.cpu().numpy().astype(np.uint64))
        key = _mixed(key + view.cpu().numpy().astype(np.uint64))

        def even(first: int, count: int) -> Tensor:  # 53 bits, in [0, 1)
            columns = np.arange(first, first + count, dtype=np.uint64)
            return torch.from_numpy((_mixed(key[:, None] + columns) >> np.uint64(11)) * 2.0**-53)

        flip, angle, right, down = even(0, 4).unbind(1)
        spread = 2 * augmentation.shift + 1
        shift = (torch.stack((right, down), 1) * spread).floor() - augmentation.shift
        return Numbers(
            (flip < 0.5) & augmentation.flip,
            ((2 * angle - 1) * augmentation.rotation).float(),
            shift.long(),
            **{kind: even(*_KINDS[kind]) for kind in augmentation.kinds},
        )


def _mixed(numbers: np.uint64 | np.ndarray[Any, np.dtype[np.uint64]]) -> Any:
    """Hash 64-bit numbers, so that any two that differ give results that look unrelated."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        z = numbers + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def draw(number: int, augmentation: Augmentation, generator: torch.Generator) -> Numbers | None:
    """Draw the numbers of some images at random.

    Args:
        number: of images.
        augmentation: how far.
        generator: the only source of random numbers, on the CPU, so that the same numbers serve every device. It is
            not touched where nothing is to be varied.

    Returns:
        The numbers, on the CPU; None where nothing is to be varied.
    """
    if augmentation.is_identity:
        return None
    # All are drawn, used or not, so that allowing a shift does not change the flips.
    limit = augmentation.shift
    flip = torch.rand(number, generator=generator) < 0.5
    angle = (2 * torch.rand(number, generator=generator) - 1) * augmentation.rotation
    shift = torch.randint(-limit, limit + 1, (number, 2), generator=generator)
    further = {
        kind: torch.rand(number, _KINDS[kind][1], generator=generator, dtype=torch.float64)
        for kind in augmentation.kinds
    }
    return Numbers(flip & augmentation.flip, angle, shift, **further)
