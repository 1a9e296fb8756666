"""Comparisons of very small networks."""

from pathlib import Path

from svdistill import sweep
from svdistill.sweep import Comparison

OWN = ["model.width=0.1", "data.image_size=16", "data.train_size=20", "train.batch_size=10", "train.epochs=1"]
TINY = [*OWN, *(f"teacher.overrides.{setting}" for setting in OWN), "train.device=cpu"]


def plan(runs: Path, *overrides: str, **options: object) -> Comparison:
    """Plan a comparison of very small networks."""
    options = {"methods": ["alone", "svd"], "seeds": [0], **options}
    return sweep.plan("digits/svd", overrides=[*TINY, *overrides], runs=runs, **options)  # type: ignore[arg-type]


def titles(comparison: Comparison) -> list[str]:
    """What is trained, in order."""
    return [member.title for member in comparison.members]
