"""Settings of a run: YAML recipes, validated. ``svdistill.recipes.build`` turns them into objects."""

from svdistill.choices import PRESETS
from svdistill.methods import compared as compared_methods
from svdistill.recipes.load import identity, lineage, load, methods, names, teacher_of, validate
from svdistill.recipes.schema import Recipe

__all__ = [
    "PRESETS",
    "Recipe",
    "compared_methods",
    "identity",
    "lineage",
    "load",
    "methods",
    "names",
    "teacher_of",
    "validate",
]
