"""Wide residual networks."""

from torch import Tensor, nn

from svdistill.errors import OptionError
from svdistill.nets.layers import classifier, in_order, initialize, scaled

STEM = 16
CHANNELS = (16, 32, 64)
STRIDES = (1, 2, 2)


class WideResNet(nn.Module):
    """A convolution, three stages of (depth − 4) / 6 pre-activated blocks, batch norm, ReLU, pooling, a linear layer.

    The taps are the outputs of ``stem`` and of ``stage1`` to ``stage3``: plain sums, since a block begins with batch
    norm and ReLU instead of ending with them. Weights start He normal with the fan out.

    Args:
        depth: number of layers on the longest path, 6n + 4.
        factor: how many times as wide the stages are as those of a ResNet; the stem is not widened.
        num_classes: how many logits come out.
        in_channels: how many channels an image has.
        width: scales every channel count, that of the stem too, rounded, at least 1.

    Raises:
        OptionError: the depth is not 6n + 4.

    Source: Zagoruyko and Komodakis, BMVC 2016, table 1.
    """

    def __init__(self, depth: int, factor: int, *, num_classes: int, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise OptionError(f"depth is {depth}, expected 6n + 4: 10, 16, 22, …")
        self.in_channels = in_channels
        before = scaled(STEM, width)
        self.stem = nn.Conv2d(in_channels, before, 3, padding=1, bias=False)
        for number, (full, stride) in enumerate(zip(CHANNELS, STRIDES, strict=True), start=1):
            wider = scaled(full * factor, width)
            first = PreactivatedBlock(before, wider, stride=stride)
            stage = nn.Sequential(first, *(PreactivatedBlock(wider, wider) for _ in range(blocks - 1)))
            self.add_module(f"stage{number}", stage)
            before = wider
        self.norm = nn.BatchNorm2d(before)
        self.relu = nn.ReLU()
        self.classifier = classifier(before, num_classes)
        initialize(self, mode="fan_out")

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images; see `layers.in_order`."""
        return in_order(self, images, in_channels=self.in_channels)


class PreactivatedBlock(nn.Module):
    """Twice batch norm, ReLU and a 3×3 convolution, plus a shortcut.

    Where the width or the size changes, the shortcut is a 1×1 convolution of the activated input, otherwise the input.

    Args:
        in_channels: channels that come in.
        out_channels: channels that go out.
        stride: of the first convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = None if same else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map.

        Args:
            x: (B, in_channels, H, W).

        Returns:
            (B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉).
        """
        activated = self.relu1(self.norm1(x))
        y: Tensor = self.conv2(self.relu2(self.norm2(self.conv1(activated))))
        return y + (x if self.shortcut is None else self.shortcut(activated))
