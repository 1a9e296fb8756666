"""The MobileNets of the published table."""

from torch import Tensor, nn

from svdistill.nets.layers import classifier, conv_norm, in_order, initialize, scaled

STEM = 32
CHANNELS = (64, 128, 256, 512, 1024)
STRIDES = (1, 2, 2, 2, 1)


class MobileNet(nn.Module):
    """A convolution, five stages of depthwise-separable convolutions, global average pooling, a linear layer.

    A depthwise-separable convolution is a 3×3 convolution of each channel by itself and a 1×1 convolution across them,
    each with batch norm and ReLU. The first of a stage changes the width, and in ``stage2`` to ``stage4`` halves the
    map. The outputs of ``stage1`` to ``stage5`` are the published taps: the map after each change of width. Weights
    start He normal with the fan in.

    Args:
        blocks: how many depthwise-separable convolutions each of the five stages has.
        num_classes: how many logits come out.
        in_channels: how many channels an image has.
        width: scales every channel count, rounded, at least 1.

    Source: Lee, Kim, Song, ECCV 2018, section 4; Howard et al. 2017, arXiv 1704.04861, section 3.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int, int, int],
        *,
        num_classes: int,
        in_channels: int = 3,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        channels = scaled(STEM, width)
        self.stem = conv_norm(in_channels, channels, 3)
        for number, (full, stride, depth) in enumerate(zip(CHANNELS, STRIDES, blocks, strict=True), start=1):
            wider = scaled(full, width)
            stage = [_separable(channels, wider, stride), *(_separable(wider, wider, 1) for _ in range(depth - 1))]
            self.add_module(f"stage{number}", nn.Sequential(*stage))
            channels = wider
        self.classifier = classifier(channels, num_classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images; see `layers.in_order`."""
        return in_order(self, images, in_channels=self.in_channels)


def _separable(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    depthwise = conv_norm(in_channels, in_channels, 3, stride=stride, groups=in_channels)
    pointwise = conv_norm(in_channels, out_channels, 1)
    block = nn.Sequential()
    block.add_module("depthwise", depthwise)
    block.add_module("pointwise", pointwise)
    return block
