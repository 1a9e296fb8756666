"""Recipes of very small networks, and made-up images for them."""

from typing import Any

import torch

from svdistill import data, recipes
from svdistill.recipes import Recipe
from svdistill.recipes.check import check
from svdistill.recipes.images import Images

SMALL = ["model.width=0.1", "train.batch_size=4", "data.train_size=null", "teacher.overrides.model.width=0.1"]


def loaded(*overrides: str, name: str = "digits/svd") -> Recipe:
    """Load a recipe of very small networks."""
    return recipes.load(name, [*SMALL, *overrides])


def twelve_images(size: int = 16, *, classes: int = 10, seed: int = 0) -> Images:
    """Twelve images of noise."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (12, 1, size, size), generator=generator, dtype=torch.uint8)
    images = data.ImageSet(pixels, torch.arange(12) % classes, tuple(map(str, range(classes))))
    return Images(images, images, *data.channel_statistics(images))


def checked(recipe: Recipe, size: int = 16, *, processes: int = 1) -> tuple[Any, ...]:
    """Check a recipe against images of noise."""
    parent = recipes.teacher_of(recipe)
    theirs = None if parent is None else twelve_images(size)
    return check(recipe, twelve_images(size), teacher_recipe=parent, teacher_images=theirs, processes=processes)
