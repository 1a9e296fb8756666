"""The VGG networks of the published table: teacher, student and strided student."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from svdistill.errors import ShapeError

CHANNELS = (64, 128, 256, 512)


class VGG(nn.Module):
    """Four blocks of 3×3 convolutions, then fully connected layers.

    A block is ``convolutions[i]`` times (convolution, batch norm if wanted, ReLU), then a 2×2 max pool. The blocks are
    the submodules ``block1`` to ``block4``; their outputs are the published taps. The weights are drawn He normal with
    the fan in (He et al. 2015, equation 10, which keeps the variance of the activations from layer to layer) from
    torch's global generator; the biases start at zero.

    At 32×32 this is the published network to the last parameter. Two things let it run on other images and change
    nothing there: the pools round up (28 → 14 → 7 → 4 → 2, and an 8×8 image keeps one pixel instead of vanishing), and
    the last map is averaged or repeated to 2×2 before the classifier (it is 2×2 already for every image from 17×17 to
    32×32), so that the classifier's size, and with it the parameter count, does not depend on the image.

    Args:
        convolutions: how many convolutions each of the four blocks has.
        hidden: the widths of the hidden fully connected layers.
        num_classes: how many logits come out.
        in_channels: how many channels an image has.
        width: scales every channel count and hidden width, rounded, at least 1.
        batch_norm: batch norm after each convolution, which then has no bias of its own.
        strided: the last convolution of a block has stride 2 and stands in place of the pool.
        dropout: probability of dropout after each hidden fully connected layer; 0 = none.

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
            raise ShapeError(f"a VGG has {len(CHANNELS)} blocks, but convolutions has {len(convolutions)} entries")
        self.in_channels = in_channels
        channels = in_channels
        for number, (full, depth) in enumerate(zip(CHANNELS, convolutions, strict=True), start=1):
            wider = _scaled(full, width)
            block = _block(channels, wider, depth, batch_norm=batch_norm, strided=strided)
            self.add_module(f"block{number}", block)
            channels = wider
        self.pool = nn.AdaptiveAvgPool2d(2)
        hidden = [_scaled(full, width) for full in hidden]
        self.classifier = _classifier(4 * channels, hidden, num_classes, dropout=dropout)
        self.apply(_initialize)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: (B, in_channels, H, W), floating point, standardized.

        Returns:
            Logits, (B, num_classes).

        Raises:
            ShapeError: the images have another number of dimensions or channels.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ShapeError(
                f"images of shape {tuple(images.shape)} came, expected (B, {self.in_channels}, H, W); "
                "create the network with the in_channels of the data"
            )
        x = images
        for number in range(1, len(CHANNELS) + 1):
            x = self.get_submodule(f"block{number}")(x)
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def _block(in_channels: int, out_channels: int, depth: int, *, batch_norm: bool, strided: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(1, depth + 1):
        stride = 2 if strided and i == depth else 1
        layers[f"conv{i}"] = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=not batch_norm)
        if batch_norm:
            layers[f"norm{i}"] = nn.BatchNorm2d(out_channels)
        # Not in place: a tap on the convolution must not see the ReLU's result.
        layers[f"relu{i}"] = nn.ReLU()
        in_channels = out_channels
    if not strided:
        layers["pool"] = nn.MaxPool2d(2, ceil_mode=True)
    return nn.Sequential(layers)


def _classifier(features: int, hidden: Sequence[int], num_classes: int, *, dropout: float) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, size in enumerate(hidden, start=1):
        layers[f"hidden{i}"] = nn.Linear(features, size)
        layers[f"relu{i}"] = nn.ReLU()
        if dropout > 0:
            layers[f"dropout{i}"] = nn.Dropout(dropout)
        features = size
    layers["output"] = nn.Linear(features, num_classes)
    return nn.Sequential(layers)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
