"""Tests of the MobileNets."""

import pytest
import torch
from torch import nn

from svdistill.nets import create


@pytest.mark.parametrize(("name", "blocks"), [("mobilenet-teacher", 9), ("mobilenet-student", 5)])
def test_layers(name: str, blocks: int) -> None:
    """After the stem, depthwise and pointwise convolutions take turns, each with batch norm and ReLU, without bias."""
    leaves = [m for m in create(name, num_classes=3, width=0.1).modules() if not list(m.children())]
    places = [i for i, m in enumerate(leaves) if isinstance(m, nn.Conv2d)]
    assert len(places) == 1 + 2 * blocks
    for number, i in enumerate(places):
        conv = leaves[i]
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is None
        assert isinstance(leaves[i + 1], nn.BatchNorm2d)
        assert isinstance(leaves[i + 2], nn.ReLU)
        if number:
            depthwise = number % 2 == 1
            assert conv.kernel_size == ((3, 3) if depthwise else (1, 1))
            assert conv.groups == (conv.in_channels if depthwise else 1)


def test_strides() -> None:
    """Each halving is in the first depthwise convolution of a stage; the last stage has none."""
    model = create("mobilenet-teacher", num_classes=3, width=0.1)
    strides = [m.stride[0] for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert strides == [1, 2, 1, 2, 1, 2, 1, 1, 1]


def test_he_normal_initialization() -> None:
    """Weights have deviation √(2 / fan in); that of a depthwise convolution is 9."""
    torch.manual_seed(0)
    model = create("mobilenet-teacher", num_classes=100)
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.numel() > 4000:
            expected = (2 / parameter[0].numel()) ** 0.5
            assert abs(parameter.std().item() / expected - 1) < 5 / (2 * parameter.numel()) ** 0.5
