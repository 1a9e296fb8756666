"""Networks of other libraries and of the user's own code, by name."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from torch import nn

from svdistill.errors import OptionError
from svdistill.nets.libraries.own import OwnCode, is_own
from svdistill.nets.libraries.protocol import Configuration, Library, Wanted
from svdistill.nets.libraries.timm import Timm
from svdistill.nets.libraries.torchvision import Torchvision
from svdistill.nets.libraries.transformers import Transformers

LIBRARIES: Mapping[str, Library] = {"timm": Timm(), "torchvision": Torchvision(), "transformers": Transformers()}
_OWN = OwnCode()


def is_foreign(name: str) -> bool:
    """Tell whether a name means a network from outside: ``timm:NAME``, ``package.module:callable`` and the like."""
    return is_of_library(name) or is_own(name)


def is_of_library(name: str) -> bool:
    """Tell whether a name means a network of another library."""
    library, colon, _ = name.partition(":")
    return bool(colon) and library in LIBRARIES


def is_code(name: str) -> bool:
    """Tell whether a name means code of the user's own, which runs only where that is allowed."""
    return not is_of_library(name) and is_own(name)


def check(name: str, *, allow_code: bool = False) -> None:
    """Check that there is a network of this name.

    Args:
        name: ``LIBRARY:NAME`` or ``package.module:callable``.
        allow_code: whether code of the user's own may run; it runs here, since its module is imported.

    Raises:
        OptionError: a library is not installed, the name is unknown, or code may not run or cannot be imported.
    """
    library, short = _find(name, allow_code=allow_code)
    library.check(short)


def create(
    name: str,
    *,
    num_classes: int | None,
    in_channels: int,
    arguments: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    allow_code: bool = False,
) -> nn.Module:
    """Make a network from outside; nothing is downloaded without ``pretrained``.

    Args:
        name: ``LIBRARY:NAME``, as those libraries call it, or ``package.module:callable``.
        num_classes: number of logits; 0 = the features that a classifier would read; None = as the network has it.
        in_channels: number of image channels; 3 for torchvision.
        arguments: further keyword arguments of what makes it.
        pretrained: with the library's weights, from its cache or its hub.
        allow_code: whether code of the user's own may run.

    Returns:
        The network, in train mode.

    Raises:
        OptionError: see ``check``; or it cannot be made of these, or its weights cannot be had.
    """
    library, short = _find(name, allow_code=allow_code)
    if pretrained and is_code(name):
        raise OptionError(
            f"pretrained: {name!r} is code of your own, which has no library; give a file by 'checkpoint'"
        )
    return library.create(Wanted(short, num_classes, in_channels, arguments or {}, pretrained))


def configuration(
    name: str, *, in_channels: int = 3, arguments: Mapping[str, Any] | None = None, num_classes: int | None = None
) -> Configuration:
    """Return what the configuration of a network from outside says: classes, image size, mean and deviation.

    Args:
        name: as for ``create``.
        in_channels: as for ``create``.
        arguments: as for ``create``.
        num_classes: as for ``create``.

    Returns:
        What is said; nothing of code of the user's own, none of which runs.

    Raises:
        OptionError: see ``check``.
    """
    if is_code(name):
        return Configuration()
    library, short = _find(name, allow_code=False)
    return library.configuration(Wanted(short, num_classes, in_channels, arguments or {}))


def portable(
    name: str, network: nn.Module, *, num_classes: int, in_channels: int, arguments: Mapping[str, Any]
) -> tuple[str, Mapping[str, Any]]:
    """Return the name and arguments by which a file describes a network, so that it can be built from these alone.

    Args:
        name: as for ``create``.
        network: what that made.
        num_classes: as for ``create``.
        in_channels: as for ``create``.
        arguments: as for ``create``.
    """
    if not is_of_library(name):
        return name, arguments
    library, short = _find(name, allow_code=False)
    found, told = library.portable(Wanted(short, num_classes, in_channels, arguments), network)
    return f"{name.partition(':')[0]}:{found}", told


def _find(name: str, *, allow_code: bool) -> tuple[Library, str]:
    first, _, short = name.partition(":")
    if is_of_library(name):
        return LIBRARIES[first], short
    if not allow_code:
        meant = get_close_matches(
            first, LIBRARIES, n=1, cutoff=0.75
        )  # a library's name, misspelt, looks like a module's
        raise OptionError(
            f"{name!r} is code, which runs only where you allow it: --allow-code on the command line, allow_code: true "
            "in your own recipe file, allow_code=True in Python"
            + (f"; or did you mean '{meant[0]}:{short}'?" if meant else "")
        )
    return _OWN, name
