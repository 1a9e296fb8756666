"""What svdistill asks of a library of networks."""

import importlib
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from torch import nn

from svdistill.errors import OptionError, first_cause, nearest, one_line


class Wanted(NamedTuple):
    """A network that is asked for.

    Attributes:
        name: as the library calls it.
        num_classes: number of logits; 0 = the features that a classifier would read; None = as the library has it.
        in_channels: number of image channels.
        arguments: further keyword arguments of what makes it.
        pretrained: whether it comes with the library's weights.
    """

    name: str
    num_classes: int | None
    in_channels: int = 3
    arguments: Mapping[str, Any] = {}
    pretrained: bool = False


class Configuration(NamedTuple):
    """What a network's own configuration says of the images that its weights were trained on.

    Attributes:
        num_classes: number of logits, 0 for a network without a classifier; None where nothing is said, as for all.
        size: height and width in pixels.
        mean: of each channel of images in [0, 1].
        std: their standard deviation.
    """

    num_classes: int | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class Library(Protocol):
    """Where networks come from; whoever fulfils it subclasses it."""

    def check(self, name: str) -> None:
        """Make sure that there is a network of this name.

        Raises:
            OptionError: the library is not installed, or the name is unknown to it.
        """
        return None

    def create(self, wanted: Wanted) -> nn.Module:
        """Make a network, in train mode; without ``pretrained`` its weights come from torch's global generator.

        Raises:
            OptionError: it cannot be made of these arguments, or its weights cannot be had.
        """
        raise NotImplementedError

    def configuration(self, wanted: Wanted) -> Configuration:
        """Return what the network's own configuration says; without weights nothing but the number of classes counts.

        Raises:
            OptionError: the configuration cannot be had.
        """
        return Configuration()

    def portable(self, wanted: Wanted, network: nn.Module) -> tuple[str, Mapping[str, Any]]:
        """Return a name and arguments that build the same network without a look at anything outside the library."""
        return wanted.name, wanted.arguments


def library(module: str) -> ModuleType:
    """Import a library, or say in one line how to get it.

    Args:
        module: what to import; its first part is the library's name.

    Raises:
        OptionError: it is not installed, or does not fit the torch that is.
    """
    name = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise OptionError(f"{name} is not installed; 'pip install {name}', or take a network of svdistill") from error
    except RuntimeError as error:  # made for another torch
        raise OptionError(f"{name} does not fit the torch that is installed ({error}); reinstall it") from error


def refuse_arguments(arguments: Mapping[str, Any], refused: Collection[str]) -> None:
    """Refuse arguments that are settings of their own, or that would load what nobody has looked at.

    Raises:
        OptionError: one is among them.
    """
    if taken := sorted(refused & arguments.keys()):
        raise OptionError(
            f"arguments.{taken[0]}: not for arguments; the number of classes and of channels are the images', weights "
            "come by pretrained or checkpoint"
        )


def cannot_make(who: str, arguments: Mapping[str, Any], error: Exception, known: Collection[str] = ()) -> OptionError:
    """Return the error for a network that its library or code does not make of these arguments.

    Args:
        who: the network.
        arguments: what was given.
        error: what was raised.
        known: names of arguments that there are, where that is known.
    """
    wrong = next((key for key in arguments if known and key not in known and repr(key) in str(error)), None)
    if wrong is not None:
        return OptionError(f"arguments.{wrong}: unknown to {who}{nearest(wrong, known)}")
    if isinstance(error, ImportError):  # of something that the network needs beside its library
        return OptionError(
            f"{who} cannot be imported ({first_cause(error)}); install what is missing, or what fits this torch"
        )
    given = f" of {', '.join(arguments)}" if arguments else ""
    reason = one_line(error).rstrip(".") or type(error).__name__
    return OptionError(f"{who} cannot be made{given} ({type(error).__name__}: {reason}); change model.arguments")


def no_weights(who: str, error: Exception) -> OptionError:
    """Return the error for weights of a library that cannot be had."""
    reason = one_line(error).rstrip(".") or type(error).__name__
    return OptionError(
        f"the pretrained weights of {who} cannot be had ({reason}); look at the connection, or give a file by "
        "'checkpoint'"
    )
