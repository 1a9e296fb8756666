"""Tests of the ResNeXts."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svdistill.nets import create
from svdistill.nets.resnext import Bottleneck


def normalized(x: Tensor, norm: nn.BatchNorm2d, channels: slice) -> Tensor:
    """Batch norm of some channels, in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return F.batch_norm(
        x, norm.running_mean[channels], norm.running_var[channels], norm.weight[channels], norm.bias[channels]
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("cardinality", [2, 4])
def test_paths_one_by_one(stride: int, cardinality: int) -> None:
    """The grouped convolution is what separate paths, laid side by side, compute."""
    torch.manual_seed(0)
    block = Bottleneck(6, 10, 4, cardinality, stride=stride).double().eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 1.5)
    x = torch.randn(3, 6, 8, 8, dtype=torch.float64)
    weights = dict(block.named_parameters())
    outputs = []
    for i in range(cardinality):
        own = slice(4 * i, 4 * i + 4)
        y = F.relu(normalized(F.conv2d(x, weights["reduce.conv.weight"][own]), block.reduce[1], own))  # type: ignore[arg-type]
        y = F.conv2d(y, weights["paths.conv.weight"][own], stride=stride, padding=1)
        outputs.append(F.relu(normalized(y, block.paths[1], own)))  # type: ignore[arg-type]
    joined = F.conv2d(torch.cat(outputs, 1), weights["join.conv.weight"])
    joined = normalized(joined, block.join[1], slice(None))  # type: ignore[arg-type]
    shortcut = torch.zeros_like(joined)
    shortcut[:, 2:8] = x if stride == 1 else F.avg_pool2d(x, 2)
    expected = F.relu(joined + shortcut)
    assert torch.allclose(block(x), expected, rtol=0, atol=1e4 * torch.finfo(torch.float64).eps)


def test_shortcut_of_odd_maps() -> None:
    """Where a map of odd size shrinks, the last row and column are averaged over what is there."""
    block = Bottleneck(1, 1, 1, 2, stride=2).eval()
    nn.init.zeros_(block.join.get_parameter("norm.weight"))
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    expected = torch.tensor([[[[2.0, 3.5], [6.5, 8.0]]]])
    assert torch.equal(block(x), expected)


@pytest.mark.parametrize(("name", "cardinality"), [("resnext-teacher", 4), ("resnext-student", 2)])
def test_layers(name: str, cardinality: int) -> None:
    """Three bottlenecks whose 3×3 convolutions have a group for each path of 64 channels and carry the stride."""
    model = create(name, num_classes=100)
    grouped = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert [m.groups for m in grouped] == [cardinality] * 3
    assert [m.out_channels for m in grouped] == [64 * cardinality] * 3
    assert [m.stride[0] for m in grouped] == [1, 2, 2]
    assert all(m.bias is None for m in model.modules() if isinstance(m, nn.Conv2d))
