"""The feature maps that the benchmarks work on: two pairs of networks on 32 x 32 images, and shapes of ResNet-50."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from svdistill.nets import Taps, create, default_taps

RESNET50 = ((3136, 256), (784, 512), (196, 1024), (49, 2048))  # positions, channels at 224 x 224


class TapSet(NamedTuple):
    """Feature maps of a pair of networks, and how many images they come from."""

    maps: Callable[[int], tuple[list[Tensor], list[Tensor]]]  # batch -> student's (with gradient), teacher's
    batch: int


def vgg_maps(batch: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the taps of the published VGG student (with gradient) and teacher, full width."""
    return _of_networks("vgg-student", "vgg-teacher", batch)


def wrn_maps(batch: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the taps of WRN-16-2 (student, with gradient) and WRN-40-2 (teacher)."""
    return _of_networks("wrn-16-2", "wrn-40-2", batch)


def resnet50_maps(batch: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return maps of the shapes of ResNet-50's four stages for a student (with gradient) and a teacher as wide.

    They are made up: relu(A Z + a + n), with A a random mixing of 64 patterns Z whose strength falls off as 1 / i, a an
    offset per channel, and n weak noise.
    """
    student, teacher = (
        [
            _features(batch, channels, positions, seed=10 * who + tap)
            for tap, (positions, channels) in enumerate(RESNET50)
        ]
        for who in range(2)
    )
    return [m.requires_grad_() for m in student], teacher


TAPS: Mapping[str, TapSet] = {
    "VGG": TapSet(vgg_maps, 128),
    "WRN": TapSet(wrn_maps, 128),
    "ResNet-50": TapSet(resnet50_maps, 32),
}


def _of_networks(student: str, teacher: str, batch: int) -> tuple[list[Tensor], list[Tensor]]:
    """Taps of untrained networks on random 32 x 32 images."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, 32, 32)
    maps = []
    for name in (student, teacher):
        model = create(name, num_classes=100)
        with torch.no_grad(), Taps(model, default_taps(name)) as taps:
            model(images)
            # The last hidden features, a single position, leave nothing to decompose.
            maps.append([m.clone() for m in taps.collect() if m.dim() == 4])
    return [m.requires_grad_() for m in maps[0]], maps[1]


def _features(batch: int, channels: int, positions: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    side, patterns = round(positions**0.5), min(64, positions)
    mixing = torch.randn(channels, patterns, generator=generator) / torch.arange(1, patterns + 1)
    maps = mixing @ torch.randn(batch, patterns, positions, generator=generator)
    maps += 0.5 * torch.randn(channels, 1, generator=generator)
    maps += 0.1 * torch.randn(batch, channels, positions, generator=generator)
    return maps.relu_().reshape(batch, channels, side, side)
