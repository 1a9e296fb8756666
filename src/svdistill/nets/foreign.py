"""Networks of other libraries, imported only when one is named."""

import importlib
from types import ModuleType
from typing import Any

from torch import nn

from svdistill.errors import RecipeError, nearest

LIBRARIES = ("timm", "torchvision")
# Those whose output in train mode is no tensor unless they are told so.
_WITHOUT_AUXILIARY = {"googlenet": {"aux_logits": False}, "inception_v3": {"aux_logits": False}}


def is_foreign(name: str) -> bool:
    """Tell whether a name means a network of another library: ``timm:NAME`` or ``torchvision:NAME``."""
    return name.partition(":")[0] in LIBRARIES and ":" in name


def check(name: str) -> None:
    """Check that a library is installed and has a network of this name.

    Args:
        name: ``timm:NAME`` or ``torchvision:NAME``.

    Raises:
        RecipeError: the library is not installed, or the name is unknown to it.
    """
    library, _, short = name.partition(":")
    known = _names(library)
    # timm names a set of weights after a dot; the network is what stands before it.
    if (short.partition(".")[0] if library == "timm" else short) not in known:
        raise RecipeError(f"{library} has no network {short!r}{nearest(short, known)}")


def create(name: str, *, num_classes: int, in_channels: int, width: float) -> nn.Module:
    """Make a network of another library with fresh weights; nothing is downloaded.

    Args:
        name: ``timm:NAME`` or ``torchvision:NAME``, as those libraries call it.
        num_classes: number of logits.
        in_channels: number of image channels; 3 for torchvision.
        width: 1, since these networks have no width of ours.

    Returns:
        The network, in train mode.

    Raises:
        RecipeError: see ``check``; or a width or number of channels that the library cannot do.
    """
    check(name)
    library, _, short = name.partition(":")
    if width != 1:
        raise RecipeError(f"width is {width:g}, but {name!r} has a width of its own; take width 1 or another network")
    if library == "torchvision":
        if in_channels != 3:
            raise RecipeError(
                f"in_channels is {in_channels}, but networks of torchvision see 3; take images of 3 channels, or a "
                "network of timm, e.g. 'timm:resnet18'"
            )
        settings = _WITHOUT_AUXILIARY.get(short, {})
        network: nn.Module = _library(library).get_model(short, weights=None, num_classes=num_classes, **settings)
        return network
    try:
        network = _library(library).create_model(short, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RecipeError(f"timm cannot make {short!r} of these settings ({error}); take another network") from error
    return network


def _names(library: str) -> list[str]:
    module = _library(library)
    # Of torchvision's own kinds of networks only those that classify lie directly in this module.
    found: Any = module.list_models(module=module) if library == "torchvision" else module.list_models()
    return list(found)


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module("torchvision.models" if name == "torchvision" else name)
    except ImportError as error:
        raise RecipeError(f"{name} is not installed; 'pip install {name}', or take a network of svdistill") from error
    except RuntimeError as error:  # made for another torch
        raise RecipeError(f"{name} does not fit the torch that is installed ({error}); install it anew") from error
