"""Trained networks on disk, read back as teachers."""

from pathlib import Path

import pytest
import torch
from tests.recipes.small import loaded, twelve_images

from svdistill import recipes
from svdistill.errors import CheckpointError
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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", '"cat"'),
        ("classes", "[1, 2]"),
        ("classes", "[" * 5_000 + "]" * 5_000),
        ("taps", '{"block1": 1}'),
        ("mean", '["a"]'),
        ("std", "[true]"),
        ("image_size", "[32]"),
        ("held_out", "{"),
    ],
)
def test_a_description_of_another_kind(tmp_path: Path, key: str, value: str) -> None:
    """Whatever stands beside the weights, reading it ends in one line that names the key."""
    with pytest.raises(CheckpointError, match=rf"damaged description \({key}"):
        weights.told(tmp_path, {key: value}, key)


def test_a_description(tmp_path: Path) -> None:
    """Lists come back as tuples, numbers as they are, and what is not said as None."""
    spec = {"classes": '["a", "b"]', "mean": "[0.5, 1]", "image_size": "32"}
    told = [weights.told(tmp_path, spec, key) for key in ("classes", "mean", "image_size", "taps")]
    assert told == [("a", "b"), (0.5, 1), 32, None]
