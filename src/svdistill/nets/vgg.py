"""The VGG networks: those of the published table, and those with five blocks and batch norm."""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from svdistill.errors import OptionError
from svdistill.nets.layers import check_images, classifier, initialize, scaled

CHANNELS = (64, 128, 256, 512)
FIVE_CHANNELS = (64, 128, 256, 512, 512)
# Larger images are halved once more, before the fifth block.
SMALL_IMAGE = 32


class VGG(nn.Module):
    """Four blocks of 3×3 convolutions, then fully connected layers.

    A block is ``convolutions[i]`` times (convolution, batch norm if wanted, ReLU), then a 2×2 max pool. The blocks are
    the submodules ``block1`` to ``block4``; their outputs are the published taps. The weights are drawn He normal with
    the fan in (He et al. 2015, equation 10, which keeps the variance of the activations from layer to layer) from
    torch's global generator; the biases start at zero. The published networks have this in every layer. With
    batch norm and dropout, which the paper does not have together, the layers behind a dropout start smaller.

    At 32×32 this is the published network to the last parameter. Two things let it run on other images without
    changing anything there: the pools round up (28 → 14 → 7 → 4 → 2, and an 8×8 image keeps one pixel instead of
    vanishing), and the last map is averaged or repeated to 2×2 before the classifier (it is 2×2 already for every image
    from 17×17 to 32×32), so that the classifier's size, and with it the parameter count, does not depend on the image.

    Args:
        convolutions: how many convolutions each of the four blocks has.
        hidden: the widths of the hidden fully connected layers.
        num_classes: how many logits come out.
        in_channels: how many channels an image has.
        width: scales every channel count and hidden width, rounded, at least 1.
        batch_norm: batch norm after each convolution, which then has no bias of its own.
        strided: the last convolution of a block has stride 2 and stands in place of the pool.
        dropout: probability of dropout after each hidden fully connected layer; 0 = none.

    Raises:
        OptionError: convolutions does not have four entries.

    Source: Lee, Kim, Song, ECCV 2018, section 4.
    """

    def __init__(
        self,
        convolutions: Sequence[int],
        hidden: Sequence[int],
        *,
        num_classes: int,
        in_channels: int = 3,
        width: float = 1.0,
        batch_norm: bool = False,
        strided: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(convolutions) != len(CHANNELS):
            raise OptionError(f"a VGG has {len(CHANNELS)} blocks, but convolutions has {len(convolutions)} entries")
        self.in_channels = in_channels
        channels = in_channels
        for number, (full, depth) in enumerate(zip(CHANNELS, convolutions, strict=True), start=1):
            wider = scaled(full, width)
            block = _block(
                channels, wider, depth, batch_norm=batch_norm, bias=not batch_norm, strided=strided, pool=not strided
            )
            self.add_module(f"block{number}", block)
            channels = wider
        self.pool = nn.AdaptiveAvgPool2d(2)
        hidden = [scaled(full, width) for full in hidden]
        self.classifier = _hidden_classifier(4 * channels, hidden, num_classes, dropout=dropout)
        initialize(self)
        if batch_norm and dropout > 0:
            _count_dropout(self.classifier, dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images; see `layers.check_images` for what they must be."""
        check_images(images, self.in_channels)
        x = images
        for number in range(1, len(CHANNELS) + 1):
            x = self.get_submodule(f"block{number}")(x)
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


class FiveBlockVGG(nn.Module):
    """Five blocks of 3×3 convolutions with batch norm, global average pooling, a linear layer.

    The outputs of ``block1`` to ``block5`` are the taps. The first three end with a 2×2 max pool; images of more than
    32 pixels in height or width are halved once more after the fourth. The convolutions keep the biases that batch norm
    makes idle, so that the parameters can be counted beside those of the protocol. Weights start He normal with the fan
    out.

    Args:
        convolutions: how many convolutions each of the five blocks has.
        num_classes: how many logits come out.
        in_channels: how many channels an image has.
        width: scales every channel count, rounded, at least 1.

    Source: the vgg8 and vgg13 of the protocol of Tian, Krishnan, Isola, ICLR 2020.
    """

    def __init__(
        self,
        convolutions: tuple[int, int, int, int, int],
        *,
        num_classes: int,
        in_channels: int = 3,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        channels = in_channels
        for number, (full, depth) in enumerate(zip(FIVE_CHANNELS, convolutions, strict=True), start=1):
            wider = scaled(full, width)
            block = _block(channels, wider, depth, batch_norm=True, bias=True, strided=False, pool=number <= 3)
            self.add_module(f"block{number}", block)
            channels = wider
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.classifier = classifier(channels, num_classes)
        initialize(self, mode="fan_out")

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images; see `layers.check_images` for what they must be."""
        check_images(images, self.in_channels)
        x = images
        for number in range(1, len(FIVE_CHANNELS)):
            x = self.get_submodule(f"block{number}")(x)
        if max(images.shape[2:]) > SMALL_IMAGE:
            x = self.pool(x)
        logits: Tensor = self.classifier(self.get_submodule(f"block{len(FIVE_CHANNELS)}")(x))
        return logits


def _block(
    in_channels: int,
    out_channels: int,
    depth: int,
    *,
    batch_norm: bool,
    bias: bool,
    strided: bool,
    pool: bool,
) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(1, depth + 1):
        stride = 2 if strided and i == depth else 1
        layers[f"conv{i}"] = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias)
        if batch_norm:
            layers[f"norm{i}"] = nn.BatchNorm2d(out_channels)
        # Not in place: a tap on the convolution must not see the ReLU's result.
        layers[f"relu{i}"] = nn.ReLU()
        in_channels = out_channels
    if pool:
        layers["pool"] = nn.MaxPool2d(2, ceil_mode=True)
    return nn.Sequential(layers)


def _count_dropout(classifier: nn.Sequential, dropout: float) -> None:
    """Let the variance of the activations stay the same behind dropout too, in training, and up to the logits.

    A dropout raises the second moment of what passes by 1 / (1 − p), and no ReLU halves what the output layer gives.
    With two dropouts of ½ the logits would start with 8 times the variance; in the first steps hidden units then die.
    """
    _, *behind = (layer for layer in classifier if isinstance(layer, nn.Linear))
    with torch.no_grad():
        for layer in behind:
            layer.weight.mul_(math.sqrt(1 - dropout))
        behind[-1].weight.mul_(math.sqrt(1 / 2))


def _hidden_classifier(features: int, hidden: Sequence[int], num_classes: int, *, dropout: float) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, size in enumerate(hidden, start=1):
        layers[f"hidden{i}"] = nn.Linear(features, size)
        layers[f"relu{i}"] = nn.ReLU()
        if dropout > 0:
            layers[f"dropout{i}"] = nn.Dropout(dropout)
        features = size
    layers["output"] = nn.Linear(features, num_classes)
    return nn.Sequential(layers)
