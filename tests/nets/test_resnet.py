"""Tests of the residual networks for small images."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from svdistill.errors import OptionError
from svdistill.nets import ResNet, create
from svdistill.nets.resnet import BasicBlock


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_depth_is_in_the_name(depth: int) -> None:
    """Convolutions on the longest path, and the linear layer, are as many as the name says."""
    with torch.device("meta"):
        model = create(f"resnet{depth}", num_classes=10)
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) == depth - 1
    shortcuts = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert [(m.in_channels, m.out_channels, m.stride) for m in shortcuts] == [(16, 32, (2, 2)), (32, 64, (2, 2))]


@pytest.mark.parametrize("depth", [7, 9, 2, 0, -4])
def test_impossible_depths(depth: int) -> None:
    """Only 6n + 2 layers make three equal stages."""
    with pytest.raises(OptionError, match=rf"depth is {depth}, expected 6n \+ 2"):
        ResNet(depth, num_classes=2)


@pytest.mark.parametrize(("out_channels", "stride"), [(4, 1), (4, 2), (6, 1), (6, 2)])
def test_block_step_by_step(out_channels: int, stride: int) -> None:
    """A block computes what its description says, with a convolution on the shortcut where shapes change."""
    torch.manual_seed(0)
    block = BasicBlock(4, out_channels, stride=stride).double()
    x = torch.randn(5, 4, 7, 7, dtype=torch.float64)
    weights = dict(block.named_parameters())

    def normalized(y: torch.Tensor) -> torch.Tensor:
        return (y - y.mean((0, 2, 3), keepdim=True)) / (y.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()

    y = F.relu(normalized(F.conv2d(x, weights["conv1.conv.weight"], stride=stride, padding=1)))
    y = normalized(F.conv2d(y, weights["conv2.conv.weight"], padding=1))
    same = (out_channels, stride) == (4, 1)
    shortcut = x if same else normalized(F.conv2d(x, weights["shortcut.conv.weight"], stride=stride))
    assert torch.allclose(block(x), F.relu(y + shortcut), rtol=0, atol=1e4 * torch.finfo(torch.float64).eps)
    assert same == ("shortcut.conv.weight" not in weights)


def test_initialization() -> None:
    """Convolutions have deviation √(2 / fan out), biases are zero."""
    torch.manual_seed(0)
    model = create("resnet8x4", num_classes=100)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 4 and parameter.numel() > 4000:
            expected = (2 / (parameter.shape[0] * parameter[0, 0].numel())) ** 0.5
            assert abs(parameter.std().item() / expected - 1) < 5 / (2 * parameter.numel()) ** 0.5
        elif name.endswith("bias"):
            assert (parameter == 0).all()
