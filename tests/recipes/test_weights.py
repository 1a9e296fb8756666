"""Trained networks on disk, read back as teachers."""

from pathlib import Path

import torch
from tests.recipes.small import loaded, twelve_images

from svdistill import recipes
from svdistill.recipes import build, weights
from svdistill.recipes.images import Images


def test_a_teacher_sees_images_as_it_was_trained(tmp_path: Path) -> None:
    """What is standardized for the student is converted to the teacher's own mean and deviation."""
    theirs, ours = twelve_images(seed=1), twelve_images(seed=2)
    theirs = Images(theirs.train, theirs.test, torch.tensor([0.2]), torch.tensor([0.4]))
    recipe = recipes.teacher_of(loaded())
    assert recipe is not None
    torch.manual_seed(0)
    network = build.model(recipe, theirs).eval()
    weights.save(network, tmp_path / "t.safetensors", recipe=recipe, images=theirs)
    helper = weights.load_teacher(tmp_path / "t.safetensors", ours)
    raw = ours.train.images.float() / 255  # type: ignore[attr-defined]
    torch.testing.assert_close(helper((raw - ours.mean) / ours.std), network((raw - 0.2) / 0.4), rtol=1e-4, atol=1e-5)
    same = weights.load_teacher(tmp_path / "t.safetensors", theirs)
    assert torch.equal(same(raw), network(raw))
