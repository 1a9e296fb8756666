"""Networks of a user's own, which tests name as ``tests.nets.own_code:…``."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

NUMBER = 3


class Output(NamedTuple):
    """What `Small` returns."""

    logits: Tensor
    features: Tensor


class Small(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self, num_classes: int, in_channels: int = 3, *, width: int = 4, named: bool = False) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, padding=1), nn.ReLU())
        self.head = nn.Linear(2 * width, num_classes)
        self.named = named

    def forward(self, images: Tensor) -> Tensor | Output:
        """Return logits, by name where that was asked for."""
        features = self.second(self.first(images)).mean((2, 3))
        return Output(self.head(features), features) if self.named else self.head(features)


class OneSize(nn.Module):
    """Takes images of one size, and says so as transformers does."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(27, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of images of 3 × 3 pixels."""
        if images.shape[2] != 3:
            raise ValueError(f"Input image size ({images.shape[2]}) doesn't match model (3).")
        return self.head(images.flatten(1))


class Tied(nn.Module):
    """The same layer under two names."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.one = self.two = nn.Linear(64, 64)
        self.head = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of images of 64 numbers."""
        return self.head(self.two(self.one(images.flatten(1))))


class Lazy(nn.Module):
    """A layer that has no shape before it runs."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.LazyLinear(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.head(images.flatten(1))


class Counting(nn.Linear):
    """Keeps a number beside its weights."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(64, num_classes)

    def get_extra_state(self) -> int:
        """Return the number."""
        return NUMBER


def broken(depth: int) -> nn.Module:
    """Fail."""
    raise KeyError(f"no depth {depth}")


def tensor() -> Tensor:
    """Return what is no network."""
    return torch.zeros(2)


class Draws(Small):
    """Keeps random numbers, and some that are not, out of its state."""

    def __init__(self, num_classes: int, in_channels: int = 3, *, seed: int | None = None) -> None:
        super().__init__(num_classes, in_channels)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        self.register_buffer("positions", torch.arange(4), persistent=False)
        self.second.register_buffer("mask", torch.rand(8, generator=generator), persistent=False)
