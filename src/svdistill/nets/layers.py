"""What the networks have in common: scaled channel counts, a check of the images, initial weights."""

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn

from svdistill.errors import ShapeError


def scaled(channels: int, width: float) -> int:
    """Return a channel count times a width, rounded, at least 1."""
    return max(1, round(channels * width))


def check_images(images: Tensor, in_channels: int) -> None:
    """Refuse images that a network was not made for.

    Args:
        images: expected (B, in_channels, H, W).
        in_channels: of the network.

    Raises:
        ShapeError: the images have another number of dimensions or channels.
    """
    if images.ndim != 4 or images.shape[1] != in_channels:
        raise ShapeError(
            f"got images of shape {tuple(images.shape)}, expected (B, {in_channels}, H, W); "
            "create the network with the in_channels of the data"
        )


def in_order(network: nn.Module, images: Tensor, *, in_channels: int) -> Tensor:
    """Classify images by the submodules of a network, one after the other as they were added.

    Args:
        network: its last submodule gives the logits.
        images: (B, in_channels, H, W), floating point, standardized.
        in_channels: of the network.

    Returns:
        Logits, (B, num_classes).

    Raises:
        ShapeError: the images have another number of dimensions or channels.
    """
    check_images(images, in_channels)
    x = images
    for module in network.children():
        x = module(x)
    return x


def initialize(network: nn.Module, *, mode: Literal["fan_in", "fan_out"] = "fan_in") -> None:
    """Draw the weights of a network He normal, from torch's global generator; biases start at zero.

    Args:
        network: all its convolutions and linear layers are drawn anew, in the order of ``modules()``.
        mode: ``fan_in`` keeps the variance of the activations from layer to layer, ``fan_out`` that of the gradients.
            The latter draws convolutions only, as the networks of the residual family do, and leaves linear layers
            as torch draws them.

    Source: He et al., ICCV 2015, equations 10 and 14.
    """
    kinds = (nn.Conv2d, nn.Linear) if mode == "fan_in" else (nn.Conv2d,)
    for module in network.modules():
        if isinstance(module, kinds):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def conv_norm(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """Make a convolution without bias, its batch norm and, if wanted, a ReLU.

    Args:
        in_channels: channels that come in.
        out_channels: channels that go out.
        kernel: size of the kernel, odd; the map is padded so that only the stride changes its size.
        stride: of the convolution; the map's size is divided by it, rounded up.
        groups: of the convolution.
        relu: end with a ReLU.

    Returns:
        The layers under the names ``conv``, ``norm`` and ``relu``.
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_channels))
    if relu:
        # Not in place: a tap on the norm must not see the ReLU's result.
        layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)


def classifier(features: int, num_classes: int) -> nn.Sequential:
    """Make global average pooling and a linear layer: (B, features, H, W) → (B, num_classes)."""
    layers = OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(1), output=nn.Linear(features, num_classes))
    return nn.Sequential(layers)
