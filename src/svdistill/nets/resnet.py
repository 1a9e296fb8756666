"""Residual networks for small images."""

from torch import Tensor, nn

from svdistill.errors import OptionError
from svdistill.nets.layers import classifier, conv_norm, in_order, initialize, scaled

CHANNELS = (16, 16, 32, 64)
CHANNELS_X4 = (32, 64, 128, 256)
STRIDES = (1, 2, 2)


class ResNet(nn.Module):
    """A convolution, three stages of (depth − 2) / 6 basic blocks, global average pooling, a linear layer.

    A block that changes the width or the size has a 1×1 convolution with batch norm on its shortcut. The taps are the
    outputs of ``stem`` and of ``stage1`` to ``stage3``. Weights start He normal with the fan out.

    Args:
        depth: number of layers on the longest path, 6n + 2.
        channels: of the stem and of the three stages; ``CHANNELS_X4`` makes the ×4 networks, whose stem is doubled.
        num_classes: how many logits come out.
        in_channels: how many channels an image has.
        width: scales every channel count, rounded, at least 1.

    Raises:
        OptionError: the depth is not 6n + 2.

    Source: He et al., CVPR 2016, section 4.2; ×4 and shortcuts as in the protocol of Tian et al., ICLR 2020.
    """

    def __init__(
        self,
        depth: int,
        channels: tuple[int, int, int, int] = CHANNELS,
        *,
        num_classes: int,
        in_channels: int = 3,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise OptionError(f"depth is {depth}, expected 6n + 2: 8, 14, 20, …")
        self.in_channels = in_channels
        stem, *stages = (scaled(full, width) for full in channels)
        self.stem = conv_norm(in_channels, stem, 3)
        before = stem
        for number, (wider, stride) in enumerate(zip(stages, STRIDES, strict=True), start=1):
            first = BasicBlock(before, wider, stride=stride)
            stage = nn.Sequential(first, *(BasicBlock(wider, wider) for _ in range(blocks - 1)))
            self.add_module(f"stage{number}", stage)
            before = wider
        self.classifier = classifier(before, num_classes)
        initialize(self, mode="fan_out")

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images; see `layers.in_order`."""
        return in_order(self, images, in_channels=self.in_channels)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch norm, plus a shortcut, then a ReLU.

    Args:
        in_channels: channels that come in.
        out_channels: channels that go out.
        stride: of the first convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv_norm(in_channels, out_channels, 3, stride=stride)
        self.conv2 = conv_norm(out_channels, out_channels, 3, relu=False)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else conv_norm(in_channels, out_channels, 1, stride=stride, relu=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map.

        Args:
            x: (B, in_channels, H, W).

        Returns:
            (B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉), not negative.
        """
        y: Tensor = self.relu(self.conv2(self.conv1(x)) + self.shortcut(x))
        return y
