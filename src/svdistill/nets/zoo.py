"""Networks by name."""

import math
from collections.abc import Callable
from functools import partial

from torch import nn

from svdistill.errors import OptionError, nearest
from svdistill.nets import foreign
from svdistill.nets.mobilenet import MobileNet
from svdistill.nets.resnet import CHANNELS_X4, ResNet
from svdistill.nets.resnext import ResNeXt
from svdistill.nets.vgg import VGG, FiveBlockVGG
from svdistill.nets.wrn import WideResNet

# The published table mentions dropout in the teacher's row only, so only the teacher has it.
_VGG_TEACHER = partial(VGG, (2, 2, 3, 3), (1024, 1024), dropout=0.5)
_VGG_STUDENT = partial(VGG, (1, 1, 1, 1), (1024,))
_BLOCKS = ("block1", "block2", "block3", "block4")
_STAGES = ("stage1", "stage2", "stage3")

# The last hidden features, what the output layer reads, end each network's taps: the last hidden layer after its ReLU
# and before any dropout, or the pooled map.
_TWO_HIDDEN = ("classifier.relu2",)
_ONE_HIDDEN = ("classifier.relu1",)
_POOLED = ("classifier.flatten",)

_TEACHER_TAPS = (*_BLOCKS, *_TWO_HIDDEN)
_STUDENT_TAPS = (*_BLOCKS, *_ONE_HIDDEN)
_MOBILENET_TAPS = (*_STAGES, "stage4", "stage5", *_POOLED)
_STAGE_TAPS = ("stem", *_STAGES, *_POOLED)
_FIVE_BLOCK_TAPS = (*_BLOCKS, "block5", *_POOLED)

# name -> (builder, its default taps)
_ZOO: dict[str, tuple[Callable[..., nn.Module], tuple[str, ...]]] = {
    "vgg-teacher": (_VGG_TEACHER, _TEACHER_TAPS),
    "vgg-student": (_VGG_STUDENT, _STUDENT_TAPS),
    "vgg-stride-student": (partial(_VGG_STUDENT, strided=True), _STUDENT_TAPS),
    "vgg-bn-teacher": (partial(_VGG_TEACHER, batch_norm=True), _TEACHER_TAPS),
    "vgg-bn-student": (partial(_VGG_STUDENT, batch_norm=True), _STUDENT_TAPS),
    "vgg-bn-stride-student": (partial(_VGG_STUDENT, batch_norm=True, strided=True), _STUDENT_TAPS),
    "mobilenet-teacher": (partial(MobileNet, (1, 2, 2, 2, 2)), _MOBILENET_TAPS),
    "mobilenet-student": (partial(MobileNet, (1, 1, 1, 1, 1)), _MOBILENET_TAPS),
    "resnext-teacher": (partial(ResNeXt, 4), _STAGE_TAPS),
    "resnext-student": (partial(ResNeXt, 2), _STAGE_TAPS),
    **{f"resnet{depth}": (partial(ResNet, depth), _STAGE_TAPS) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": (partial(ResNet, depth, CHANNELS_X4), _STAGE_TAPS) for depth in (8, 32)},
    **{
        f"wrn-{depth}-{factor}": (partial(WideResNet, depth, factor), _STAGE_TAPS)
        for depth, factor in ((16, 1), (16, 2), (16, 4), (40, 1), (40, 2), (40, 4))
    },
    "vgg8": (partial(FiveBlockVGG, (1, 1, 1, 1, 1)), _FIVE_BLOCK_TAPS),
    "vgg13": (partial(FiveBlockVGG, (2, 2, 2, 2, 2)), _FIVE_BLOCK_TAPS),
}


def names() -> tuple[str, ...]:
    """Return the names that `create` knows, except those of other libraries."""
    return tuple(_ZOO)


def check_name(name: str) -> None:
    """Check that `create` knows a network of this name.

    Args:
        name: one of `names`, ``timm:NAME`` or ``torchvision:NAME``.

    Raises:
        OptionError: the name is unknown, or its library is not installed.
    """
    if foreign.is_foreign(str(name)):
        foreign.check(name)
    elif name not in _ZOO:
        raise OptionError(f"no network is called {name!r}{nearest(str(name), _ZOO)}")


def default_taps(name: str) -> tuple[str, ...]:
    """Return the dotted names of the taps that are used unless others are given, in order.

    They end with the last hidden features, which the output layer reads.

    Args:
        name: one of `names`.

    Raises:
        OptionError: the name is unknown, or belongs to another library, whose networks have no default taps.
    """
    check_name(name)
    if foreign.is_foreign(name):
        raise OptionError(f"{name!r} has no taps of its own; name them in model.taps (a teacher's in teacher.taps)")
    return _ZOO[name][1]


def create(name: str, *, num_classes: int, in_channels: int = 3, width: float = 1.0) -> nn.Module:
    """Make a network with fresh weights, drawn from torch's global generator.

    Args:
        name: one of `names`, ``timm:NAME`` or ``torchvision:NAME``; ``vgg-bn-…`` has batch norm after each convolution.
        num_classes: number of logits, at least 1.
        in_channels: number of image channels, at least 1.
        width: scales every channel count, the hidden fully connected layers' too; finite, above 0; 1 for networks of
            other libraries.

    Returns:
        The network, in train mode: (B, in_channels, H, W) → (B, num_classes).

    Raises:
        OptionError: the name is unknown or a number is out of range.
    """
    check_name(name)
    for key, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise OptionError(f"{key} is {value!r}, expected a whole number of at least 1")
    if isinstance(width, bool) or not isinstance(width, int | float) or not (math.isfinite(width) and width > 0):
        raise OptionError(f"width is {width!r}, expected a finite number above 0 (1.0 = the published network)")
    if foreign.is_foreign(name):
        return foreign.create(name, num_classes=num_classes, in_channels=in_channels, width=float(width))
    return _ZOO[name][0](num_classes=num_classes, in_channels=in_channels, width=float(width))
