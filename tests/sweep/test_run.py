"""A comparison from one end to the other."""

from pathlib import Path

from tests.sweep.small import TINY

from svdistill import recipes, sweep


def test_compare_trains_everything(tmp_path: Path) -> None:
    """From Python: one call, the teacher first, and each run has its summary."""
    done = sweep.compare("digits/svd", overrides=TINY, methods=["alone", "svd"], seeds=[1], runs=tmp_path)
    assert [member.state for member in done.members] == ["finished"] * 3
    assert done.failed == []
    assert [member.summary["method"] for member in done.members if member.summary] == ["alone", "alone", "svd"]
    assert all(recipes.identity(member.recipe) == member.run.path.name for member in done.members)
