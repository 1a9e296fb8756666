"""The settings of a run as its record has them, by dotted key."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from svdistill.choices import BASES, PRESETS, stage_lengths
from svdistill.methods import BASELINE, OWN

# The settings, by dotted key, of a first stage of the transfer task alone: the method's own, which others are without.
OF_STAGES = ("train.first_stage", "train.first_stage_counts", "train.first_stage_norm")


def flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a recipe by dotted key, those of each of several losses under its name.

    A list becomes a tuple, as do lists in it; a mapping in one, as a network of one's own may be made with, a text.

    Args:
        recipe: nested settings, as a run's ``recipe.yaml`` holds them.
    """
    found: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, item in value.items():
                add(f"{prefix}.{key}" if prefix else str(key), item)
        elif _is_sum(prefix, value):
            for item in value:
                add(f"{prefix}.{item.get('name', '?')}" if len(value) > 1 else prefix, item)
        else:
            found[prefix] = None if value == {} else _frozen(value)

    add("", recipe)
    return found


def _is_sum(key: str, value: Any) -> bool:
    """Whether a setting is a sum of losses, the recipe's or in the overrides of its teacher's."""
    of_losses = key == "loss" or key.endswith("overrides.loss")
    return of_losses and isinstance(value, list) and value != [] and all(isinstance(item, Mapping) for item in value)


def _frozen(value: Any) -> Any:
    """Return a value that can be told apart in a set."""
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_frozen(item)}" for key, item in value.items()) + "}"
    return value


def changed(recipe: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which a recipe differs from another.

    Args:
        recipe: nested settings.
        base: those to compare with.

    Returns:
        By dotted key the other's value and its own; None where one of them lacks the key.
    """
    return {key: (before, now) for key, (before, now) in differing([base, recipe]).items()}


def differing(recipes: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Return the settings in which some recipes differ, but for their names and descriptions.

    Args:
        recipes: nested settings of each.

    Returns:
        By dotted key the value that each has, None where it lacks the key.
    """
    settings = [flat(recipe) for recipe in recipes]
    keys = [key for key in dict.fromkeys(key for one in settings for key in one) if key not in ("name", "description")]
    rows = {key: tuple(one.get(key) for one in settings) for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def method_of(recipe: Mapping[str, Any]) -> str:
    """Return the name of what a recipe helps its student with: ``alone``, ``svd-k2``, ``svd+soft-target``."""
    parts = ["-".join([str(loss.get("name", "?")), *_variant(loss)]) for loss in losses_of(recipe)]
    train = recipe.get("train")
    stages = "-two-stage" if isinstance(train, Mapping) and train.get("first_stage") else ""
    return ("+".join(parts) or BASELINE) + stages


def _variant(loss: Mapping[str, Any]) -> list[str]:
    """Return what a method's name says of a loss after the loss's own: what is not usual, and its preset."""
    name = loss.get("preset")
    usual = {"rank": 1, "basis": "own"} | PRESETS.get(str(name), {})
    rank, basis = loss.get("rank"), loss.get("basis")
    parts = [f"k{rank}"] if isinstance(rank, int) and rank != usual["rank"] else []
    parts += [f"{basis}-basis"] if basis in BASES and basis != usual["basis"] else []
    parts += [str(name)] if name else []
    parts += ["own-norm"] if loss.get("name") == OWN and loss.get("clip") == "own_norm" else []
    return [*parts, *(["standardized"] if loss.get("standardize") is True else [])]


def epochs_of(recipe: Mapping[str, Any]) -> int | None:
    """Return how many epochs a run has, those of a first stage among them; None where its recipe does not say."""
    train = recipe.get("train")
    if not isinstance(train, Mapping):
        return None
    epochs, first = train.get("epochs"), train.get("first_stage") or 0
    if not isinstance(epochs, int) or not isinstance(first, int | float) or not 0 <= first < math.inf:
        return None
    first_epochs, main_epochs = stage_lengths(epochs, first, counts=train.get("first_stage_counts") is True)
    return first_epochs + main_epochs


def own_vectors_first(recipe: Mapping[str, Any]) -> int:
    """Return how many of the student's own singular vectors a first stage compares; 0 where it compares none.

    Args:
        recipe: all settings of a run, nested.
    """
    train = recipe.get("train")
    if not isinstance(train, Mapping) or not train.get("first_stage"):
        return 0
    own = [one for one in losses_of(recipe) if one.get("name") == OWN and one.get("basis") == "own"]
    ranks = [one.get("rank") for one in own if one.get("stage") != "second"]
    return max((rank for rank in ranks if isinstance(rank, int)), default=0)


def rules_of(recipe: Mapping[str, Any]) -> set[str]:
    """Return the rules by which the gradients of a recipe's losses are bounded."""
    return {str(loss.get("clip", "none")) for loss in losses_of(recipe)}


def losses_of(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the settings of each of a recipe's losses; none where it has no teacher."""
    loss = recipe.get("loss")
    losses = loss if isinstance(loss, list) else [loss]
    return [one for one in losses if isinstance(one, Mapping)]
