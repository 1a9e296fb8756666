"""Tests of the wide residual networks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from svdistill.errors import OptionError
from svdistill.nets import WideResNet, create
from svdistill.nets.wrn import PreactivatedBlock


@pytest.mark.parametrize(("depth", "factor"), [(16, 1), (16, 2), (16, 4), (40, 1), (40, 2), (40, 4)])
def test_depth_and_factor_are_in_the_name(depth: int, factor: int) -> None:
    """Convolutions on the longest path are depth − 4 + 1 (the shortcuts count for the rest); stages are widened."""
    with torch.device("meta"):
        model = create(f"wrn-{depth}-{factor}", num_classes=10)
    large = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    each = (depth - 4) // 3
    assert large == [16] + [16 * factor] * each + [32 * factor] * each + [64 * factor] * each
    shortcuts = sum(isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) for m in model.modules())
    assert shortcuts == (2 if factor == 1 else 3)


@pytest.mark.parametrize("depth", [15, 17, 4, 0])
def test_impossible_depths(depth: int) -> None:
    """Only 6n + 4 layers make three equal stages."""
    with pytest.raises(OptionError, match=rf"depth is {depth}, expected 6n \+ 4"):
        WideResNet(depth, 1, num_classes=2)


@pytest.mark.parametrize(("out_channels", "stride"), [(4, 1), (4, 2), (6, 1), (6, 2)])
def test_block_step_by_step(out_channels: int, stride: int) -> None:
    """A block computes what its description says; the shortcut is the raw input where shapes stay."""
    torch.manual_seed(0)
    block = PreactivatedBlock(4, out_channels, stride=stride).double()
    x = torch.randn(5, 4, 7, 7, dtype=torch.float64)
    weights = dict(block.named_parameters())

    def activated(y: torch.Tensor) -> torch.Tensor:
        deviation = (y.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
        return F.relu((y - y.mean((0, 2, 3), keepdim=True)) / deviation)

    y = F.conv2d(activated(x), weights["conv1.weight"], stride=stride, padding=1)
    y = F.conv2d(activated(y), weights["conv2.weight"], padding=1)
    same = (out_channels, stride) == (4, 1)
    shortcut = x if same else F.conv2d(activated(x), weights["shortcut.weight"], stride=stride)
    assert torch.allclose(block(x), y + shortcut, rtol=0, atol=1e4 * torch.finfo(torch.float64).eps)
    assert same == ("shortcut.weight" not in weights)
