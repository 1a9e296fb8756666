"""The ResNeXts of the published table."""

from torch import Tensor, nn
from torch.nn import functional as F

from svdistill.nets.layers import classifier, conv_norm, in_order, initialize, scaled

STEM = 64
PATH = 64
CHANNELS = (64, 128, 256)
STRIDES = (1, 2, 2)


class ResNeXt(nn.Module):
    """A convolution, three stages of one bottleneck each, global average pooling, a linear layer.

    The outputs of ``stem`` and ``stage1`` to ``stage3`` are the published taps. Weights start He normal with the fan
    in.

    Args:
        cardinality: how many parallel paths a bottleneck has.
        num_classes: how many logits come out.
        in_channels: how many channels an image has.
        width: scales every channel count, that of a path too, rounded, at least 1.

    Source: Lee, Kim, Song, ECCV 2018, section 4; Xie et al., CVPR 2017, figure 3.
    """

    def __init__(self, cardinality: int, *, num_classes: int, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        self.in_channels = in_channels
        channels = scaled(STEM, width)
        self.stem = conv_norm(in_channels, channels, 3)
        path = scaled(PATH, width)
        for number, (full, stride) in enumerate(zip(CHANNELS, STRIDES, strict=True), start=1):
            wider = scaled(full, width)
            self.add_module(f"stage{number}", Bottleneck(channels, wider, path, cardinality, stride=stride))
            channels = wider
        self.classifier = classifier(channels, num_classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images; see `layers.in_order`."""
        return in_order(self, images, in_channels=self.in_channels)


class Bottleneck(nn.Module):
    """Parallel paths of a 1×1 and a 3×3 convolution, laid side by side, joined by a 1×1 convolution, plus a shortcut.

    The paths are written as one grouped convolution, which computes the same. The shortcut has no parameters: where
    the map shrinks it is averaged, where channels are lacking zeros stand in on both sides.

    Args:
        in_channels: channels that come in.
        out_channels: channels that go out, at least as many.
        path: channels of one path.
        cardinality: how many paths there are.
        stride: of the 3×3 convolutions, 1 or 2.
    """

    def __init__(self, in_channels: int, out_channels: int, path: int, cardinality: int, *, stride: int) -> None:
        super().__init__()
        inner = path * cardinality
        self.reduce = conv_norm(in_channels, inner, 1)
        self.paths = conv_norm(inner, inner, 3, stride=stride, groups=cardinality)
        self.join = conv_norm(inner, out_channels, 1, relu=False)
        # Rounded up like the strided convolution, so that odd maps fit too.
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.relu = nn.ReLU()
        lacking = out_channels - in_channels
        self._before, self._after = lacking // 2, lacking - lacking // 2

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map.

        Args:
            x: (B, in_channels, H, W).

        Returns:
            (B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉), not negative.
        """
        shortcut = F.pad(self.pool(x), (0, 0, 0, 0, self._before, self._after))
        y: Tensor = self.relu(self.join(self.paths(self.reduce(x))) + shortcut)
        return y
