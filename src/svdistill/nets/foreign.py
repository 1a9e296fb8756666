"""Networks of other libraries, imported only when one is named."""

import importlib
from types import ModuleType
from typing import Any

from torch import nn

from svdistill.errors import OptionError, nearest

LIBRARIES = ("timm", "torchvision")
# Those whose output in train mode is not a tensor unless they are told to leave out their auxiliary classifiers.
_WITHOUT_AUXILIARY = {"googlenet": {"aux_logits": False}, "inception_v3": {"aux_logits": False}}


def is_foreign(name: str) -> bool:
    """Tell whether a name means a network of another library: ``timm:NAME`` or ``torchvision:NAME``."""
    return name.partition(":")[0] in LIBRARIES and ":" in name


def check(name: str) -> None:
    """Check that a library is installed and has a network of this name.

    Args:
        name: ``timm:NAME`` or ``torchvision:NAME``.

    Raises:
        OptionError: the library is not installed, or the name is unknown to it.
    """
    library, _, short = name.partition(":")
    known = _names(library)
    # timm names a set of weights after a dot; the network is what stands before it.
    if (short.partition(".")[0] if library == "timm" else short) not in known:
        raise OptionError(f"{library} has no network {short!r}{nearest(short, known)}")


def create(name: str, *, num_classes: int, in_channels: int, width: float) -> nn.Module:
    """Make a network of another library with fresh weights; nothing is downloaded.

    Args:
        name: ``timm:NAME`` or ``torchvision:NAME``, as those libraries call it.
        num_classes: number of logits.
        in_channels: number of image channels; 3 for torchvision.
        width: must be 1, since these networks cannot be scaled.

    Returns:
        The network, in train mode.

    Raises:
        OptionError: see ``check``; or the width or number of channels is one that the library does not offer.
    """
    check(name)
    library, _, short = name.partition(":")
    if width != 1:
        raise OptionError(f"width is {width:g}, but {name!r} has a width of its own; take width 1 or another network")
    if library == "torchvision":
        if in_channels != 3:
            raise OptionError(
                f"in_channels is {in_channels}, but networks of torchvision take 3; use images of 3 channels, or a "
                "network of timm, e.g. 'timm:resnet18'"
            )
        settings = _WITHOUT_AUXILIARY.get(short, {})
        network: nn.Module = _library(library).get_model(short, weights=None, num_classes=num_classes, **settings)
        return network
    try:
        network = _library(library).create_model(short, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise OptionError(f"timm cannot make {short!r} of these settings ({error}); take another network") from error
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
        raise OptionError(f"{name} is not installed; 'pip install {name}', or take a network of svdistill") from error
    except RuntimeError as error:  # made for another torch
        raise OptionError(f"{name} does not fit the torch that is installed ({error}); reinstall it") from error
