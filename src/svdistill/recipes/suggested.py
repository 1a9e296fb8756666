"""Taps of a recipe that names none, of networks that have none of their own: as both networks suggest."""

from pathlib import Path

import torch
from torch import nn

from svdistill.nets import Suggestion, suggest
from svdistill.nets.pairs import pair_up
from svdistill.nets.suggest import named as look_at
from svdistill.recipes import build, outside, weights
from svdistill.recipes.images import Images, noise
from svdistill.recipes.naming import named
from svdistill.recipes.schema import FoundTaps, Recipe


def with_taps(
    recipe: Recipe, images: Images, *, teacher_recipe: Recipe | None, teacher_images: Images | None
) -> Recipe:
    """Return a recipe that knows its taps, where a loss compares maps and a network's are neither named nor its own.

    Both networks are built for it; torch's random numbers are left as they were.

    Args:
        recipe: the student's.
        images: the student's.
        teacher_recipe: its teacher's recipe; None where there is none.
        teacher_images: the teacher's images.

    Returns:
        The recipe, with the same settings and the same digest.

    Raises:
        RecipeError: a network has no place to tap, or too few for the taps that are named of the other.
    """
    if recipe.teacher is None or not build.reads_maps(build.losses(recipe)):
        return recipe
    ours, theirs = build.known_taps(recipe), build.known_teacher_taps(recipe, teacher_recipe)
    if ours is not None and theirs is not None:
        return recipe
    with torch.random.fork_rng(devices=[]):
        student, teacher = build.model(recipe, images), _teacher(recipe, images, teacher_recipe, teacher_images)
    with named("model.taps"):
        one = _look(student, images, ours, fixed=recipe.model.taps is not None)
    with named("teacher.taps"):
        other = _look(teacher, images, theirs, fixed=recipe.teacher.taps is not None)
        one, other = pair_up(one, other)
    drops = (0 if ours else one.drop_tokens, 0 if theirs else other.drop_tokens)
    return recipe.finding(FoundTaps(one.names, other.names, *drops))


def _look(network: nn.Module, images: Images, names: tuple[str, ...] | None, *, fixed: bool) -> Suggestion:
    return suggest(network, noise(images)) if names is None else look_at(network, noise(images), names, fixed=fixed)


def _teacher(recipe: Recipe, images: Images, teacher_recipe: Recipe | None, teacher_images: Images | None) -> nn.Module:
    assert recipe.teacher is not None
    if recipe.teacher.model is not None:
        return outside.ready(outside.make(recipe, images), images)
    if teacher_recipe is not None and teacher_images is not None:
        with named("teacher.recipe"):
            return build.untrained_teacher(teacher_recipe, teacher_images, images)
    with named("teacher.checkpoint"):
        return weights.load_teacher(Path(str(recipe.teacher.checkpoint)), images, allow_code=recipe.allow_code)
