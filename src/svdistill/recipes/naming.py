"""Names in a recipe that its schema does not know: data sets and networks."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from svdistill import data, nets
from svdistill.errors import OptionError, RecipeError, SvdistillError, nearest
from svdistill.recipes.schema import Recipe

# Where a message begins with a setting below the key, which it follows after a dot.
_OF_A_NETWORK = re.compile(r"(arguments(\.\w+)?|checkpoint|pretrained): ")


@contextmanager
def named(key: str) -> Iterator[None]:
    """Put the key in front of the message of an error that the settings under it cause.

    What is an `OptionError` without a recipe becomes a `RecipeError`.

    Args:
        key: dotted, as in a recipe.
    """
    try:
        yield
    except SvdistillError as error:
        text = str(error)
        kind = RecipeError if isinstance(error, OptionError) else type(error)
        raise kind(f"{key}{'.' if _OF_A_NETWORK.match(text) else ': '}{text}") from error


def check_names(*recipes: Recipe, code: bool = True) -> None:
    """Check the names of data sets and networks.

    Args:
        recipes: a recipe and its teachers'.
        code: whether to look at networks that are code of somebody's own, too: what is allowed to run is imported.

    Raises:
        RecipeError: an unknown name, with the nearest right ones, or code that may not run.
    """
    for recipe in recipes:
        other = recipe.data.unlabelled
        for key, name, known in (
            ("data.name", recipe.data.name, data.names()),
            ("data.unlabelled.name", "rest" if other is None else other.name, ("rest", *data.names())),
        ):
            if name not in known:
                raise RecipeError(f"{key}: no {name!r}{nearest(name, known)}")
        outside = None if recipe.teacher is None else recipe.teacher.model
        networks = {
            "model.name": recipe.model.name,
            **({} if outside is None else {"teacher.model.name": outside.name}),
        }
        for key, name in networks.items():
            if code or not nets.foreign.is_code(name):
                with named(key):
                    nets.zoo.check_name(name, allow_code=recipe.allow_code)
