"""Runs that choose their best epoch by a part of the training images, and look at the test images once."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.jobs.test_train import Diary, train

from svdistill import jobs, recipes
from svdistill.data import ImageSet
from svdistill.jobs import NoCallbacks, Run
from svdistill.recipes import Recipe
from svdistill.recipes.images import Images, load_images
from svdistill.report import collect, page, tables
from svdistill.training import NoProgress

SETTINGS = ("data.train_size=40", "data.validation=0.25", "train.epochs=4", "train.ema=0.5")


@dataclass(frozen=True, eq=False)
class Watched(ImageSet):
    """Images that note when they are handed out."""

    events: ClassVar[list[str]] = []

    def batches(self, indices: Any) -> Any:
        """Note it, and hand them out."""
        self.events.append("test images")
        return super().batches(indices)


class Epochs(NoCallbacks):
    """Notes in the same list when an epoch is over."""

    def training(self, recipe: Recipe, run: Run) -> NoProgress:
        """Return what does."""

        class Noting(NoProgress):
            def epoch(self, metrics: Any) -> None:
                Watched.events.append("epoch")

        return Noting()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose test images note when they are handed out."""

    def load(recipe: Recipe, **options: Any) -> Images:
        images = load_images(recipe, **options)
        assert isinstance(images.test, ImageSet)
        return replace(images, test=Watched(images.test.images, images.test.labels, images.test.classes))

    runs = tmp_path_factory.mktemp("runs")
    train("digits/teacher", runs=runs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[jobs.train.__module__], "load_images", load)
        return train("digits/svd", *SETTINGS, runs=runs, callbacks=Epochs())


def test_the_test_images_are_looked_at_after_the_last_epoch(run: Run) -> None:
    """Neither an evaluation nor a look at the teacher sees them before."""
    assert Watched.events[:4] == ["epoch"] * 4
    assert set(Watched.events[4:]) == {"test images"}


def test_what_a_run_came_to(run: Run) -> None:
    """The epoch that was best by validation, the first of several; its accuracy is that of the file."""
    lines, summary = run.metrics, run.summary
    assert all("accuracy" not in line and "raw_validation_accuracy" in line for line in lines)
    values = [line["validation_accuracy"] for line in lines]
    assert (summary["validation_accuracy"], summary["best_epoch"]) == (max(values), values.index(max(values)) + 1)
    assert summary["train_images"] == 30
    assert summary["accuracy"] == summary["best_accuracy"]
    assert jobs.evaluate(run.path, device="cpu")["accuracy"] == pytest.approx(summary["accuracy"])
    assert json.loads(run.record.data.read_text())["pixels"].keys() == {"train", "test", "validation", "statistics"}


def test_it_is_shown_with_its_name(run: Run) -> None:
    """In the table at the end, and in a report, whose curves are of the validation images."""
    assert tables.measured(run.metrics[-1]) == ("validation accuracy", run.metrics[-1]["validation_accuracy"])
    assert tables.measured({"epoch": 1}) is None
    html = page.render(collect.collect([run.path]))
    assert "Validation accuracy while training" in html
    assert "With data.validation a run has one accuracy" in html


def test_an_interrupted_run_ends_with_the_same(run: Run, tmp_path: Path) -> None:
    """The same weights, and the same accuracy measured at the end."""
    with pytest.raises(KeyboardInterrupt):
        train("digits/svd", *SETTINGS, runs=tmp_path, callbacks=Diary(stop_after_epochs=3))
    again = train("digits/svd", *SETTINGS, runs=tmp_path)
    assert again.student_file.read_bytes() == run.student_file.read_bytes()
    assert again.summary | {"seconds": 0} == run.summary | {"seconds": 0}


def test_the_teacher_keeps_its_images() -> None:
    """One teacher serves students with and without validation, unless it is to have the student's images."""
    with_it, without = (recipes.load("digits/svd", overrides) for overrides in (["data.validation=0.2"], []))
    assert recipes.teacher_of(with_it) == recipes.teacher_of(without)
    assert recipes.identity(with_it) != recipes.identity(without)
    same = recipes.load("digits/svd", ["data.validation=0.2", "teacher.same_images=true"])
    assert recipes.teacher_of(same).data.validation == 0.2
