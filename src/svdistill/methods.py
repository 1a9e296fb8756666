"""What the shipped methods are called and described as. Reads YAML alone, so that whoever lists them needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from svdistill.errors import RecipeError

FOLDER = Path(str(files("svdistill"))) / "recipes" / "methods"
# What a method's file says about the method; the rest are settings that it lays over a recipe.
KEYS = ("label", "order")


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: what the command line and recipes call it.
        description: one line for the list of methods.
        label: its name in tables and figures, which is that of its loss; None for a variant, whose settings tell it
            from others of the same loss.
        order: its position in the standard comparison, from 1; None where it is not part of it.
    """

    name: str
    description: str
    label: str | None
    order: int | None


@cache
def shipped() -> Mapping[str, Method]:
    """Return the methods that come with svdistill by name, in alphabetical order.

    Raises:
        RecipeError: a method's file lacks its description, or its label or order is of the wrong type.
    """
    found = {path.stem: path for path in FOLDER.glob("*.yaml")}
    return MappingProxyType({name: _read(found[name]) for name in sorted(found)})


def compared() -> tuple[str, ...]:
    """Return the names of the methods of the standard comparison, in its order."""
    ordered = [(method.order, name) for name, method in shipped().items() if method.order is not None]
    return tuple(name for _, name in sorted(ordered))


def _read(path: Path) -> Method:
    plain: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    description, label, order = plain.get("description"), plain.get("label"), plain.get("order")
    if not isinstance(description, str) or not isinstance(label, str | None) or not isinstance(order, int | None):
        raise RecipeError(
            f"{path}: expected a description, and where given a label that is text and an order that is a whole "
            f"number; got {description!r}, {label!r} and {order!r}"
        )
    return Method(path.stem, description, label, order)
