"""Feature maps as networks make them: what a few random convolutions with ReLU and pooling give on noise."""

import torch
from torch import Tensor, nn

VGG_CHANNELS = (64, 128, 256, 512)


def post_relu_maps(
    batch: int, *, seed: int = 0, channels: tuple[int, ...] = VGG_CHANNELS, size: int = 32
) -> list[Tensor]:
    """Return maps (B, C, H, W) after each of a row of conv-ReLU-pool blocks with random weights."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 3, size, size, generator=generator)
    maps = []
    for width in channels:
        kernel = torch.randn(width, x.shape[1], 3, 3, generator=generator) * (2 / (9 * x.shape[1])) ** 0.5
        x = nn.functional.max_pool2d(torch.relu(nn.functional.conv2d(x, kernel, padding=1)), 2)
        maps.append(x)
    return maps


def as_matrices(feature: Tensor) -> Tensor:
    """View a map (B, C, H, W) as matrices (B, H·W, C)."""
    return feature.flatten(2).mT
