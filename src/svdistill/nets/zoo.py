"""Networks by name."""

import math
from functools import partial

from torch import nn

from svdistill.errors import RecipeError, nearest
from svdistill.nets.vgg import VGG

# Only the teacher's row of the published table names dropout, so only the teacher has it.
_TEACHER = partial(VGG, (2, 2, 3, 3), (1024, 1024), dropout=0.5)
_STUDENT = partial(VGG, (1, 1, 1, 1), (1024,))
_BLOCKS = ("block1", "block2", "block3", "block4")

# name -> (builder, its published taps)
_ZOO = {
    "vgg-teacher": (_TEACHER, _BLOCKS),
    "vgg-student": (_STUDENT, _BLOCKS),
    "vgg-stride-student": (partial(_STUDENT, strided=True), _BLOCKS),
    "vgg-bn-teacher": (partial(_TEACHER, batch_norm=True), _BLOCKS),
    "vgg-bn-student": (partial(_STUDENT, batch_norm=True), _BLOCKS),
    "vgg-bn-stride-student": (partial(_STUDENT, batch_norm=True, strided=True), _BLOCKS),
}


def names() -> tuple[str, ...]:
    """Return the names that `create` knows."""
    return tuple(_ZOO)


def default_taps(name: str) -> tuple[str, ...]:
    """Return the dotted names of the taps that the paper uses in a network, in order.

    Args:
        name: one of `names`.

    Raises:
        RecipeError: the name is unknown.
    """
    _check_name(name)
    return _ZOO[name][1]


def create(name: str, *, num_classes: int, in_channels: int = 3, width: float = 1.0) -> nn.Module:
    """Make a network with fresh weights, drawn from torch's global generator.

    Args:
        name: one of `names`; ``vgg-bn-…`` has batch norm after each convolution.
        num_classes: number of logits, at least 1.
        in_channels: number of image channels, at least 1.
        width: scales every channel count, the hidden fully connected layers' too; finite, above 0.

    Returns:
        The network, in train mode: (B, in_channels, H, W) → (B, num_classes).

    Raises:
        RecipeError: the name is unknown or a number is out of range.
    """
    _check_name(name)
    for key, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise RecipeError(f"{key} is {value!r}, expected a whole number of at least 1")
    if isinstance(width, bool) or not isinstance(width, int | float) or not (math.isfinite(width) and width > 0):
        raise RecipeError(f"width is {width!r}, expected a finite number above 0 (1.0 = the published network)")
    return _ZOO[name][0](num_classes=num_classes, in_channels=in_channels, width=float(width))


def _check_name(name: str) -> None:
    if name not in _ZOO:
        raise RecipeError(f"no network is called {name!r}{nearest(str(name), _ZOO, limit=len(_ZOO))}")
