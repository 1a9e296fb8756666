"""The recipe that a run's settings began with, as far as its name tells."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from svdistill.errors import SvdistillError
from svdistill.recipes.load import load, names, validate


class Original(NamedTuple):
    """What a run's settings are compared with.

    Attributes:
        title: what it is, in words.
        settings: nested, as `Recipe.to_dict` returns them.
    """

    title: str
    settings: dict[str, Any]


def original(recipe: Mapping[str, Any]) -> Original:
    """Return what a run's settings are best compared with.

    Args:
        recipe: nested settings, as a run's ``recipe.yaml`` holds them.

    Returns:
        The shipped recipe of its name; where there is none, what the settings are by default for its data set,
        networks and losses; and where these cannot be told, nothing.
    """
    name = str(recipe.get("name"))
    try:
        if name in names():
            return Original(f"the recipe {name}", load(name).to_dict())
        return Original("the defaults", validate(_named(recipe)).to_dict())
    except SvdistillError:
        return Original("nothing", {})


def _named(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Leave of a recipe what must be named: data set, networks and losses."""
    loss, teacher = recipe.get("loss"), recipe.get("teacher")
    kept: dict[str, Any] = {"name": recipe.get("name")}
    for section in ("data", "model", "optimizer"):
        if isinstance(recipe.get(section), Mapping):
            kept[section] = {key: value for key, value in recipe[section].items() if key == "name"}
    if isinstance(teacher, Mapping):
        kept["teacher"] = {key: teacher.get(key) for key in ("recipe", "checkpoint", "model") if teacher.get(key)}
    losses = loss if isinstance(loss, list) else [] if loss is None else [loss]
    short = [{"name": one.get("name")} for one in losses if isinstance(one, Mapping)]
    kept["loss"] = short if len(short) != 1 else short[0]
    if isinstance(recipe.get("train"), Mapping):
        kept["train"] = {"epochs": recipe["train"].get("epochs")}
    return {key: value for key, value in kept.items() if value}
