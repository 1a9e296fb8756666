"""What the shipped methods are called and described as. Reads YAML alone, so that whoever lists them needs no torch."""

from collections.abc import Iterator, Mapping
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

BASELINE = "alone"  # what the others are compared with: the student by itself
OWN = "svd"  # what this package is about


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: what the command line and recipes call it.
        description: one line for the list of methods.
        label: its name in tables and figures, which is that of its loss; None for a variant, whose settings tell it
            from others of the same loss.
        order: its position in the standard comparison, from 1; None where it is not part of it.
        losses: the names of its losses, which are summed; none for the student by itself.
    """

    name: str
    description: str
    label: str | None
    order: int | None
    losses: tuple[str, ...] = ()


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


def is_sum(name: str) -> bool:
    """Tell whether a run's method is a sum of several losses that no method with a label consists of.

    Args:
        name: as a run has it, for instance ``svd+soft-target`` or ``fitnet+soft-target-two-stage``.
    """
    losses = tuple(name.removesuffix("-two-stage").split("+"))
    return len(losses) > 1 and all(losses != method.losses for method in shipped().values() if method.label is not None)


def _read(path: Path) -> Method:
    plain: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    description, label, order = plain.get("description"), plain.get("label"), plain.get("order")
    if not isinstance(description, str) or not isinstance(label, str | None) or not isinstance(order, int | None):
        raise RecipeError(
            f"{path}: expected a description, and where given a label that is text and an order that is a whole "
            f"number; got {description!r}, {label!r} and {order!r}"
        )
    return Method(path.stem, description, label, order, tuple(_losses(plain.get("loss"))))


def _losses(setting: Any) -> Iterator[str]:
    """Yield the names in a setting ``loss``: a name, the settings of a loss, or a list of either."""
    for loss in setting if isinstance(setting, list) else [] if setting is None else [setting]:
        yield str(loss.get("name") if isinstance(loss, Mapping) else loss)
