"""A run with networks from outside: trained, found again, measured, and never run without leave."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.nets.own_code import Small

import svdistill
from svdistill import jobs
from svdistill.cli.app import run as cli
from svdistill.errors import DataError, OptionError, RecipeError, SvdistillWarning
from svdistill.jobs import Run

OWN = "tests.nets.own_code:Small"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose student is code, as is its teacher, the weights of which a script has saved."""
    folder = tmp_path_factory.mktemp("outside")
    torch.manual_seed(2)
    torch.save({"model": Small(10, 1, named=True).state_dict()}, folder / "teacher.pt")
    told: dict[str, Any] = {"mean": [0.5], "std": [0.25], "image_size": 12, "arguments": {"named": True}}
    settings = {
        "data": {"name": "digits", "train_size": 20},
        "model": {"name": OWN, "arguments": {"width": 2}, "taps": ["first", "second"]},
        "teacher": {"model": {"name": OWN, "checkpoint": "teacher.pt", **told}, "taps": ["first", "second"]},
        "loss": "svd",
        "optimizer": {"name": "sgd", "lr": 0.1},
        "train": {"epochs": 1, "batch_size": 10, "device": "cpu"},
    }
    (folder / "mine.yaml").write_text(json.dumps(settings))
    return folder / "mine.yaml"


@pytest.fixture(scope="module")
def run(recipe: Path) -> Run:
    """Train it."""
    return jobs.train(recipe, overrides=["allow_code=true"], runs=recipe.parent / "runs")


def test_without_leave_nothing_runs(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, before work starts; no folder is made."""
    runs = recipe.parent / "none"
    assert cli(["train", str(recipe), "--runs", str(runs)]) == 2
    assert "is code, which runs only where you allow it: --allow-code" in " ".join(capsys.readouterr().err.split())
    assert not runs.exists()


def test_a_run(run: Run, recipe: Path) -> None:
    """It is found again, gives no leave itself, and keeps its teacher beside the runs."""
    assert "allow_code" not in run.record.recipe()
    assert not run.recipe.allow_code
    assert run.has_its_recipe
    (teacher,) = (recipe.parent / "runs" / "teachers").iterdir()
    assert svdistill.nets.spec(teacher)["arguments"] == {"named": True}
    again = jobs.train(recipe, overrides=["allow_code=true"], runs=recipe.parent / "runs")
    assert again.path == run.path
    with pytest.raises(RecipeError, match="is code, which runs only where"):
        jobs.train(run.recipe, runs=recipe.parent / "runs")


def test_its_student(run: Run) -> None:
    """It is loaded and measured where its code may run."""
    with pytest.raises(OptionError, match="code which runs only where you allow it"):
        run.student()
    assert isinstance(run.student(allow_code=True), Small)
    with pytest.raises(OptionError, match="code which runs only where you allow it"):
        jobs.evaluate(run.path)
    assert jobs.evaluate(run.path, allow_code=True)["accuracy"] == run.summary["accuracy"]


def _begin_with_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change what the code makes: a head twice as large."""
    before = Small.__init__

    @functools.wraps(before)
    def other(self: Small, *args: Any, **kwargs: Any) -> None:
        before(self, *args, **kwargs)
        self.head.weight.data.mul_(2)

    monkeypatch.setattr(Small, "__init__", other)


def test_a_run_that_resumes_with_other_weights(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What code makes may be another thing tomorrow."""
    runs, settings = recipe.parent / "moved", ["allow_code=true", "teacher=null", "loss=null", "train.epochs=2"]
    begun = jobs.train(recipe, overrides=settings, runs=runs)
    begun.record.reopen()
    _begin_with_other_weights(monkeypatch)
    with pytest.raises(DataError, match=r"was begun with other weights: its code has changed, .* train it afresh"):
        jobs.train(recipe, overrides=settings, runs=runs)
    monkeypatch.undo()
    assert jobs.train(recipe, overrides=settings, runs=runs).path == begun.path


def test_a_run_of_which_nothing_is_left_may_begin_with_other_weights(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an error in the first step, which is mended in the code; what it begins with is noted anew."""
    runs, settings = recipe.parent / "afresh", ["allow_code=true", "teacher=null", "loss=null"]
    begun = jobs.train(recipe, overrides=settings, runs=runs)
    begun.record.reopen()
    shutil.rmtree(begun.record.checkpoints)
    _begin_with_other_weights(monkeypatch)
    run = jobs.train(recipe, overrides=settings, runs=runs)
    assert run.finished
    run.record.reopen()
    monkeypatch.undo()
    with pytest.raises(DataError, match="was begun with other weights"):
        jobs.train(recipe, overrides=settings, runs=runs)


def test_a_run_whose_code_changes(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not resumed with another network of the same weights; where it has ended, the change is told."""
    source = tmp_path / "moving.py"
    source.write_text("from tests.nets.own_code import Small\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = ["allow_code=true", "teacher=null", "loss=null", "model.name=moving:Small"]
    run = jobs.train(recipe, overrides=settings, runs=tmp_path / "runs")
    source.write_text("from tests.nets.own_code import Small\n\nSIGN = -1\n")
    with pytest.warns(SvdistillWarning, match=r"made with other code: .*moving\.py has changed"):
        assert jobs.train(recipe, overrides=settings, runs=tmp_path / "runs").path == run.path
    run.record.reopen()
    with pytest.raises(DataError, match=r"was begun with other code: .*moving\.py, .* put it back, or train it afresh"):
        jobs.train(recipe, overrides=settings, runs=tmp_path / "runs")
    shutil.rmtree(run.record.checkpoints)  # as after an error in the first step, which is mended in the code
    assert jobs.train(recipe, overrides=settings, runs=tmp_path / "runs").finished


def test_a_run_with_its_best_checkpoint_alone_whose_code_changes(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is resumed from that one, and so only with the same code."""
    source = tmp_path / "turning.py"
    source.write_text("from tests.nets.own_code import Small\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = ["allow_code=true", "teacher=null", "loss=null", "model.name=turning:Small", "train.epochs=2"]
    run = jobs.train(recipe, overrides=settings, runs=tmp_path / "runs")
    run.record.reopen()
    for path in (run.record.last, run.record.previous):
        path.unlink(missing_ok=True)
    assert run.record.resumable == [run.record.best]
    source.write_text("from tests.nets.own_code import Small\n\nSIGN = -1\n")
    with pytest.raises(DataError, match="was begun with other code"):
        jobs.train(recipe, overrides=settings, runs=tmp_path / "runs")


def test_a_stored_teacher(recipe: Path) -> None:
    """What is stored of it gives the same training as the teacher itself."""
    settings, runs = ["allow_code=true", "teacher.views=1"], recipe.parent / "stored"
    live = jobs.train(recipe, overrides=[*settings, "teacher.live=true"], runs=runs)
    stored = jobs.train(recipe, overrides=settings, runs=runs)
    assert stored.metrics[-1]["loss"] == pytest.approx(live.metrics[-1]["loss"], rel=1e-4)
    assert any((runs / "knowledge").iterdir())


def test_a_stored_teacher_whose_code_changes(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was stored of it serves as long as the file of its code is the same."""
    source = tmp_path / "changing.py"
    source.write_text("from tests.nets.own_code import Small\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = json.loads(recipe.read_text())
    settings["teacher"]["model"] |= {"name": "changing:Small", "checkpoint": str(recipe.parent / "teacher.pt")}
    (tmp_path / "mine.yaml").write_text(json.dumps(settings))

    def taken() -> int:
        own = ["allow_code=true", "teacher.views=1"]
        return jobs.cache(tmp_path / "mine.yaml", overrides=own, runs=tmp_path / "runs").taken

    first, again = taken(), taken()
    source.write_text("from tests.nets.own_code import Small\n\nSIGN = -1\n")
    assert (first, again, taken()) == (20, 0, 20)


def test_a_copy_of_its_weights(run: Run, tmp_path: Path) -> None:
    """It is compared with leave to run its code, which the copy itself does not give."""
    done = jobs.export(run.path, to="safetensors", output=tmp_path / "copy.safetensors", allow_code=True)
    assert done.networks[-1].agreement == 1.0
    assert done.files[0].read_bytes() == run.student_file.read_bytes()
    with pytest.raises(OptionError, match="--allow-code"):
        jobs.Student.load(done.files[0])
