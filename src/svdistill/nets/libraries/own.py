"""Networks of the user's own code: ``package.module:callable``."""

import inspect
import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from torch import nn

from svdistill.errors import OptionError, nearest, one_line
from svdistill.nets.libraries.protocol import Library, Wanted, cannot_make, refuse_arguments

_FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_LIBRARIES = ("timm", "torchvision", "transformers")
_GIVEN = frozenset(("num_classes", "in_channels"))


def is_own(name: str) -> bool:
    """Whether a name has the form ``package.module:callable``."""
    return _FORM.fullmatch(name) is not None


def source_file(name: str) -> Path | None:
    """Return the file of the module that a callable of one's own is in; None for other names, and where there is none.

    Packages around the module are imported, the module itself is not.
    """
    if not is_own(name):
        return None
    _search_here()
    try:
        found = find_spec(name.partition(":")[0])
    except (ImportError, ValueError):
        return None
    file = Path(found.origin) if found is not None and found.has_location and found.origin else None
    return file if file is not None and file.is_file() else None  # one within a zip file is none


class OwnCode(Library):
    """What the user's callables return: of those called ``num_classes`` and ``in_channels`` they get what they name."""

    def check(self, name: str) -> None:
        """Make sure that the callable can be imported; its module's code runs."""
        _callable(name)

    def create(self, wanted: Wanted) -> nn.Module:
        """Call it."""
        make = _callable(wanted.name)
        arguments = dict(wanted.arguments)
        refuse_arguments(arguments, _GIVEN)
        known = _parameters(make)
        sizes = {"num_classes": wanted.num_classes, "in_channels": wanted.in_channels}
        given = {key: value for key, value in sizes.items() if key in known and value is not None}
        try:
            if known:
                inspect.signature(make).bind(**given, **arguments)
            network = make(**given, **arguments)
        except MemoryError:
            raise
        except Exception as error:  # anything can happen in the user's code
            raise cannot_make(repr(wanted.name), arguments, error, [*known.keys() - _GIVEN]) from error
        if not isinstance(network, nn.Module):
            raise OptionError(f"{wanted.name!r} returned a {type(network).__name__}, expected a torch.nn.Module")
        return network.train()


def _callable(name: str) -> Callable[..., Any]:
    module, _, inside = name.partition(":")
    folder = _search_here()
    try:
        imported = import_module(module)
    except MemoryError:
        raise
    except Exception as error:  # anything can happen in the user's code
        # A library's name, misspelt, looks like a module's.
        meant = get_close_matches(module, _LIBRARIES, n=1, cutoff=0.75)
        advice = f"did you mean '{meant[0]}:{inside}'?" if meant else f"give one that is installed, or lies in {folder}"
        raise OptionError(
            f"cannot import {module!r} of {name!r} ({type(error).__name__}: {one_line(error)}); {advice}"
        ) from error
    try:
        found = resolve_name(f"{module}:{inside}")
    except AttributeError as error:
        raise OptionError(f"{module!r} has no {inside!r}{nearest(inside, _offered(vars(imported)))}") from error
    if not callable(found):
        raise OptionError(
            f"{name!r} is a {type(found).__name__}, expected what returns a network when it is called: a class or a "
            "function"
        )
    made: Callable[..., Any] = found
    return made


def _search_here() -> str:
    """Have modules looked for in the current folder too, and return it."""
    folder = os.getcwd()
    if folder not in sys.path:  # the installed program starts without it; last, so that it hides nothing
        sys.path.append(folder)
    return folder


def _offered(names: dict[str, Any]) -> list[str]:
    return [key for key, value in names.items() if callable(value) and not key.startswith("_")]


def _parameters(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the named parameters of a callable; {} where Python cannot tell."""
    try:
        found = inspect.signature(make).parameters
    except (TypeError, ValueError):  # compiled
        return {}
    return {key: one for key, one in found.items() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
