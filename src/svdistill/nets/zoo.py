"""Networks by name."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

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


def check_name(name: str, *, allow_code: bool = False) -> None:
    """Check that `create` knows a network of this name.

    Args:
        name: as in `create`.
        allow_code: as in `create`.

    Raises:
        OptionError: the name is unknown, its library is not installed, or it names code that may not run.
    """
    if foreign.is_foreign(str(name)):
        foreign.check(name, allow_code=allow_code)
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
    if foreign.is_foreign(str(name)):
        if foreign.is_of_library(name):
            foreign.check(name)
        raise OptionError(f"{name!r} has no taps of its own; name them, as 'svdistill taps {name}' suggests them")
    check_name(name)
    return _ZOO[name][1]


def create(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    width: float = 1.0,
    arguments: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    allow_code: bool = False,
) -> nn.Module:
    """Make a network; without ``pretrained`` its weights are fresh, drawn from torch's global generator.

    Args:
        name: one of `names` (``vgg-bn-…`` has batch norm after each convolution), ``timm:NAME``, ``torchvision:NAME``,
            ``transformers:NAME``, or, for code of your own, ``package.module:callable``.
        num_classes: number of logits, at least 1; of a network from outside also 0, for the features that a classifier
            would read.
        in_channels: number of image channels, at least 1.
        width: scales every channel count, the hidden fully connected layers' too; finite, above 0; 1 for networks from
            outside.
        arguments: further keyword arguments for what makes a network from outside.
        pretrained: with the weights of the network's library, from its own cache or hub.
        allow_code: whether code of your own may be imported and run.

    Returns:
        The network, in train mode: (B, in_channels, H, W) → (B, num_classes).

    Raises:
        OptionError: the name is unknown, a number is out of range, a network cannot be made of the arguments, its
            weights cannot be had, or code may not run.
    """
    check_name(name, allow_code=allow_code)
    outside = foreign.is_foreign(name)
    for key, value, least in (("num_classes", num_classes, 0 if outside else 1), ("in_channels", in_channels, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise OptionError(f"{key} is {value!r}, expected a whole number of at least {least}")
    if isinstance(width, bool) or not isinstance(width, int | float) or not (math.isfinite(width) and width > 0):
        raise OptionError(f"width is {width!r}, expected a finite number above 0 (1.0 = the published network)")
    if outside:
        if width != 1:
            raise OptionError(
                f"width is {width:g}, but {name!r} has a width of its own; take width 1 or another network"
            )
        return foreign.create(
            name,
            num_classes=num_classes,
            in_channels=in_channels,
            arguments=arguments,
            pretrained=pretrained,
            allow_code=allow_code,
        )
    for key, given in (("arguments", bool(arguments)), ("pretrained", pretrained)):
        if given:
            raise OptionError(f"{key}: {name!r} takes none; they are for networks from outside, e.g. timm:resnet18")
    return _ZOO[name][0](num_classes=num_classes, in_channels=in_channels, width=float(width))
