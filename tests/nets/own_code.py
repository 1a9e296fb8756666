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


def broken(depth: int) -> nn.Module:
    """Fail."""
    raise KeyError(f"no depth {depth}")


def tensor() -> Tensor:
    """Return what is no network."""
    return torch.zeros(2)
