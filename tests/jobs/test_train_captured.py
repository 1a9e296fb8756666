"""Whole runs on buffers, as they are captured on a GPU, against runs step by step: the same to the bit on a CPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from svdistill import jobs
from svdistill.errors import RecipeError
from svdistill.jobs import NoCallbacks
from svdistill.training import NoProgress

TINY = ["model.width=0.1", "data.image_size=16", "data.train_size=20", "train.batch_size=10", "train.epochs=2"]
TINY += ["train.device=cpu", *(f"teacher.overrides.{key}" for key in TINY)]
UNLABELLED = ["data.unlabelled.name=rest", "data.unlabelled.size=16", "data.unlabelled.batch_size=6"]
WAYS = {
    "stored views, unlabelled": ["teacher.views=2", *UNLABELLED],
    "stored vectors": ["teacher.views=2", "loss.basis=teacher", "loss.rank=6"],
    "two stages": ["train.first_stage=1", *UNLABELLED],
    "parts, adamw": ["train.accumulate=2", "optimizer.name=adamw", "optimizer.lr=0.001"],
    "bfloat16, channels-last": ["train.precision=bf16-mixed", "train.channels_last=true"],
}


class Plug(NoProgress):
    """Pulls the plug in the middle of the second epoch."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self, *, loss: float, images: int) -> None:
        """Count, and end the run as Ctrl-C does."""
        self.steps += 1
        if self.steps == 3:
            raise KeyboardInterrupt


class Stops(NoCallbacks):
    """Hands out a plug for the student's run."""

    def training(self, recipe: Any, run: Any) -> NoProgress:
        """Return it."""
        return Plug() if recipe.name == "digits/svd" else NoProgress()


def figures(lines: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what depends on the clock."""
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_the_same_to_the_bit(way: str, tmp_path: Path) -> None:
    """Weights and figures, also of a run that is interrupted in the middle of an epoch and resumed the other way."""
    runs = {}
    for capture, other in (("off", "off"), ("on", "on"), ("off", "on"), ("on", "off")):
        settings, folder = [*TINY, *WAYS[way]], tmp_path / f"{capture}-{other}"
        if capture != other:
            often = "train.checkpoint_minutes=1e-9"
            with pytest.raises(KeyboardInterrupt):
                jobs.train("digits/svd", overrides=[*settings, often, f"train.capture={capture}"], runs=folder,
                           callbacks=Stops())  # fmt: skip
        run = jobs.train("digits/svd", overrides=[*settings, f"train.capture={other}"], runs=folder)
        runs[folder.name] = (run.student_file.read_bytes(), figures(run.metrics), run.path.name)
    expected = runs.pop("off-off")
    for name, found in runs.items():
        assert found == expected, name


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        (["loss.rank=8"], "svd: rank 8 with 1 extra vectors needs a decomposition by cuSOLVER"),
        (["loss.rank=9", "loss.basis=teacher"], "svd: rank 9 needs a decomposition by cuSOLVER"),
        (["train.recompute=true"], "activations that are recomputed restore random numbers"),
    ],
)
def test_what_cannot_be_captured_is_refused_before_work(setting: list[str], why: str, tmp_path: Path) -> None:
    """In one line that names the key, with nothing written."""
    with pytest.raises(RecipeError, match=rf"train\.capture: the step cannot be captured: {why}.*train\.capture=auto"):
        jobs.train("digits/svd", overrides=[*TINY, "train.capture=on", *setting], runs=tmp_path)
    assert not list(tmp_path.iterdir())
