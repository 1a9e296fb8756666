"""Training on image files: streamed from disk or held in memory, the same comes out."""

from functools import partial
from pathlib import Path

import pytest
import torch
from tests.data.pictures import tree

from svdistill import data, jobs
from svdistill.data.folder import load_image_folder


@pytest.mark.filterwarnings("ignore:.*cannot be decoded")
@pytest.mark.parametrize("extra", [[], ["data.train_size=24", "data.unlabelled.batch_size=10"]])
def test_streamed_training_is_that_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: list[str]) -> None:
    """Bit for bit, with worker processes, the rest of the images beside the labelled ones, and broken images."""
    root = tree(tmp_path / "photos", train=40, test=10, size=16)
    for name in ("cat/1.png", "dog/16.png"):  # before a labelled image, and one that is labelled
        (root / "train" / name).write_bytes(b"")
    overrides = [
        "data.name=image-folder",
        f"data.root={root}",
        "data.image_size=16",
        "data.channels=1",
        "data.train_size=null",
        "model.width=0.1",
        "train.batch_size=12",
        "train.epochs=2",
        "train.device=cpu",
        *extra,
    ]
    name = "digits/student"
    if extra:
        name = "digits/svd"
        overrides += [f"teacher.overrides.{setting}" for setting in overrides[:8]]
        overrides += ["teacher.overrides.train.epochs=1"]
    once = jobs.train(name, overrides=overrides, runs=tmp_path / "memory")
    loaded = []

    def streamed(*arguments, **options):  # type: ignore[no-untyped-def]
        loaded.append(partial(load_image_folder, *arguments)(**{**options, "in_memory": 0}))
        return loaded[-1]

    monkeypatch.setattr("svdistill.data.catalogue.load_image_folder", streamed)
    again = jobs.train(name, overrides=overrides, runs=tmp_path / "streamed")
    assert all(isinstance(part, data.FileSet) for dataset in loaded for part in (dataset.train, dataset.test))
    assert again.metrics[-1]["accuracy"] == once.metrics[-1]["accuracy"]
    ours, theirs = once.student().state_dict(), again.student().state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
