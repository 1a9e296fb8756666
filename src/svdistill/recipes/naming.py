"""Names in a recipe that its schema does not know: data sets and networks."""

from collections.abc import Iterator
from contextlib import contextmanager

from svdistill import data, nets
from svdistill.errors import OptionError, RecipeError, SvdistillError, nearest
from svdistill.recipes.schema import Recipe


@contextmanager
def named(key: str) -> Iterator[None]:
    """Put the key in front of the message of an error that the settings under it cause.

    What is an `OptionError` without a recipe becomes a `RecipeError`.

    Args:
        key: dotted, as in a recipe.
    """
    try:
        yield
    except OptionError as error:
        raise RecipeError(f"{key}: {error}") from error
    except SvdistillError as error:
        raise type(error)(f"{key}: {error}") from error


def check_names(*recipes: Recipe) -> None:
    """Check the names of data sets and networks.

    Args:
        recipes: a recipe and its teachers'.

    Raises:
        RecipeError: an unknown name, with the nearest right ones.
    """
    for recipe in recipes:
        other = recipe.data.unlabelled
        for key, name, known in (
            ("data.name", recipe.data.name, data.names()),
            ("data.unlabelled.name", "rest" if other is None else other.name, ("rest", *data.names())),
        ):
            if name not in known:
                raise RecipeError(f"{key}: no {name!r}{nearest(name, known)}")
        with named("model.name"):
            nets.zoo.check_name(recipe.model.name)
