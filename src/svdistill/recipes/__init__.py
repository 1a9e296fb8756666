"""Settings of a run: YAML recipes, validated. ``svdistill.recipes.build`` turns them into objects."""

from svdistill.recipes.load import identity, lineage, load, methods, names, teacher_of, validate
from svdistill.recipes.schema import PRESETS, Recipe

__all__ = ["PRESETS", "Recipe", "identity", "lineage", "load", "methods", "names", "teacher_of", "validate"]
