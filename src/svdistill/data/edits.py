"""What is done to each image of a batch: made from its random numbers on the host, done on the images' device."""

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor

from svdistill.data.augment import Augmentation, Numbers, draw
from svdistill.data.boxes import crop_boxes, erase, erased_boxes
from svdistill.data.colours import brighten, contrast, jitter_factors, saturate, turn_hue
from svdistill.data.geometry import check_images, in_units, inverse_maps, look_up, one_after_the_other
from svdistill.data.trivial import change, choose, moves


class Edits(NamedTuple):
    """What is done to each image of a batch, in this order; None where nothing of a kind is done.

    Attributes:
        maps: (B, 2, 3), float64: where its pixels come from, see `inverse_maps`.
        crops: (B, 4), int64: the box of the image that the maps lead to, see `look_up`.
        change: (B,), int64: which of TrivialAugment's changes, see `trivial.Changes`.
        strength: (B,), float32: how strong it is.
        brightness: (B,), float32: a factor, see `brighten`.
        contrast: (B,), float32: a factor, see `contrast`.
        saturation: (B,), float32: a factor, see `saturate`.
        hue: (B,), float32: a part of the circle, see `turn_hue`.
        erased: (B, 4), int64: the box that is erased, see `erase`.
    """

    maps: Tensor | None = None
    crops: Tensor | None = None
    change: Tensor | None = None
    strength: Tensor | None = None
    brightness: Tensor | None = None
    contrast: Tensor | None = None
    saturation: Tensor | None = None
    hue: Tensor | None = None
    erased: Tensor | None = None

    def each(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to each tensor."""
        return type(self)(*(None if one is None else function(one) for one in self))

    def take(self, part: slice) -> Self:
        """Return what is done to some of the images."""
        return self.each(lambda one: one[part])


def plan(numbers: Numbers, augmentation: Augmentation, *, height: int, width: int) -> Edits:
    """Make of the random numbers of some images what is to be done to them: a pure function.

    Args:
        numbers: of B images.
        augmentation: how far; the numbers were drawn for it.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Returns:
        The edits, on the CPU.
    """
    maps = crops = which = strength = erased = None
    factors: dict[str, Tensor] = {}
    if augmentation.moves:
        maps = inverse_maps(numbers.flip, numbers.angle, numbers.shift, height=height, width=width)
    if maps is not None and numbers.trivial_augment is not None:
        which, strength = changes = choose(numbers.trivial_augment, height=height, width=width)
        moved = in_units(moves(changes, height=height, width=width), height=height, width=width)
        maps = one_after_the_other(moved, maps)
    if augmentation.resized_crop is not None and numbers.resized_crop is not None:
        crops = crop_boxes(numbers.resized_crop, augmentation.resized_crop, height=height, width=width)
    if augmentation.colour_jitter is not None and numbers.colour_jitter is not None:
        factors = jitter_factors(numbers.colour_jitter, augmentation.colour_jitter)
    if augmentation.erasing is not None and numbers.erasing is not None:
        erased = erased_boxes(numbers.erasing, augmentation.erasing, height=height, width=width)
    return Edits(maps, crops, which, strength, erased=erased, **factors)


def edit(images: Tensor, edits: Edits, *, fill: Tensor) -> Tensor:
    """Do to each image of a batch what was planned for it; where the edits lie on its device, nothing waits.

    Args:
        images: (B, C, H, W), float32 or float64, raw: 0 is black, which is what comes in from outside the image.
        edits: of these images, on any device.
        fill: (C,), what an erased box shows.

    Returns:
        (B, C, H, W).

    Raises:
        ShapeError: the images have another dtype or number of dimensions.
    """
    check_images(images)
    if images.numel() == 0:
        return images
    if edits.maps is not None:
        images = look_up(images, edits.maps, edits.crops)
    if edits.change is not None and edits.strength is not None:
        images = change(images, edits.change, edits.strength)
    if edits.brightness is not None:
        images = brighten(images, edits.brightness)
    if edits.contrast is not None:
        images = contrast(images, edits.contrast)
    if edits.saturation is not None:
        images = saturate(images, edits.saturation)
    if edits.hue is not None:
        images = turn_hue(images, edits.hue)
    if edits.erased is not None:
        images = erase(images, edits.erased, fill)
    return images


def augment(
    images: Tensor, augmentation: Augmentation, generator: torch.Generator, *, fill: Tensor | None = None
) -> Tensor:
    """Vary each image at random.

    Args:
        images: (B, C, H, W), float32 or float64, raw: 0 is black, which is what comes in from outside the image.
        augmentation: how far.
        generator: as for `draw`.
        fill: (C,), what an erased box shows, for instance the images' mean; None = black.

    Returns:
        (B, C, H, W); `images` itself where nothing is to be varied.

    Raises:
        ShapeError: the images have another dtype or number of dimensions.
        OptionError: they do not have the channels that a setting needs.
    """
    numbers = draw(len(images), augmentation, generator)
    if numbers is None:
        return images
    check_images(images)
    augmentation.check(images.shape[1])
    height, width = images.shape[2:]
    fill = images.new_zeros(images.shape[1]) if fill is None else fill
    return edit(images, plan(numbers, augmentation, height=height, width=width), fill=fill)
