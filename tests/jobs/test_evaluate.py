"""Measuring a trained network."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.pictures import tree

from svdistill import data, jobs, nets
from svdistill.errors import CheckpointError, DataError, OptionError, RecipeError, SvdistillWarning
from svdistill.jobs import Run
from svdistill.jobs.student import Student, student_file

TINY = ["model.width=0.1", "data.train_size=20", "train.batch_size=10", "train.epochs=1", "train.device=cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a finished run of a very small network."""
    return jobs.train("digits/student", overrides=TINY, runs=tmp_path_factory.mktemp("runs"))


def test_agrees_with_the_run(run: Run) -> None:
    """Folder and file give the accuracy that the run has recorded, and the classes add up to it."""
    for path in (run.path, run.student_file):
        result = jobs.evaluate(path, device="cpu")
        assert result["accuracy"] == pytest.approx(run.summary["accuracy"], abs=1e-9)
        assert sum(row["images"] for row in result["classes"]) == result["images"] == 797
        assert sum(row["right"] for row in result["classes"]) == round(result["accuracy"] * 797)


def test_an_average_is_what_is_saved(run: Run, tmp_path: Path) -> None:
    """Its accuracy is the run's; that of the weights themselves is the one without an average."""
    averaged = jobs.train("digits/student", overrides=[*TINY, "train.ema=0.5"], runs=tmp_path)
    assert jobs.evaluate(averaged.path, device="cpu")["accuracy"] == pytest.approx(averaged.summary["accuracy"])
    assert averaged.summary["raw_accuracy"] == run.summary["accuracy"]
    assert averaged.student_file.read_bytes() != run.student_file.read_bytes()
    assert "raw_accuracy" not in run.summary


def test_file_away_from_its_run(run: Run, tmp_path: Path) -> None:
    """The file alone says all that is needed."""
    file = tmp_path / "mine.safetensors"
    file.write_bytes(run.student_file.read_bytes())
    assert jobs.evaluate(file, device="cpu")["accuracy"] == pytest.approx(run.summary["accuracy"], abs=1e-9)


def test_a_network_that_gives_nan_has_no_accuracy(run: Run, tmp_path: Path) -> None:
    """It would be that of the first class, which the largest of several NaN is taken for."""
    network, spec = nets.load(run.student_file), nets.spec(run.student_file)
    with torch.no_grad():
        next(network.parameters())[0] = torch.nan
    settings = {key: spec[key] for key in ("name", "num_classes", "in_channels", "width")}
    extra = {key: spec[key] for key in ("data", "image_size", "classes", "mean", "std")}
    nets.save(network, tmp_path / "nan.safetensors", **settings, extra=extra)
    with pytest.raises(CheckpointError, match=r"nan\.safetensors gives values that are not finite"):
        jobs.evaluate(tmp_path / "nan.safetensors", device="cpu")


def test_the_only_run_in_a_folder(run: Run) -> None:
    """A folder with a single run in it will do."""
    assert student_file(run.path.parent) == run.student_file


def test_wrong_paths(run: Run, tmp_path: Path) -> None:
    """Nothing there, no run, an unfinished run and a damaged file are told apart."""
    with pytest.raises(DataError, match="there is no run and no file"):
        jobs.evaluate(tmp_path / "nothing")
    with pytest.raises(DataError, match="is not the folder of a run"):
        jobs.evaluate(tmp_path)
    (tmp_path / "recipe.yaml").write_text("seed: 0")
    with pytest.raises(DataError, match="has not finished"):
        jobs.evaluate(tmp_path)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(run.student_file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        jobs.evaluate(cut)


def test_wrong_data(run: Run) -> None:
    """An unknown data set is answered by the nearest."""
    with pytest.raises(OptionError, match="did you mean 'digits'"):
        jobs.evaluate(run.path, name="digit")


def test_file_without_statistics(tmp_path: Path) -> None:
    """A network that does not say how its images are standardized is refused."""
    file = tmp_path / "bare.safetensors"
    settings = {"name": "vgg-student", "num_classes": 10, "in_channels": 1, "width": 0.1}
    nets.save(nets.create(**settings), file, **settings)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="does not say how its images are standardized"):
        jobs.evaluate(file, name="digits")


def test_data_that_does_not_fit(tmp_path: Path) -> None:
    """A network of other classes than the data set is refused."""
    file = tmp_path / "seven.safetensors"
    settings = {"name": "vgg-student", "num_classes": 7, "in_channels": 1, "width": 0.1}
    extra = {"mean": "[0.5]", "std": "[0.5]", "image_size": "8"}
    nets.save(nets.create(**settings), file, **settings, extra=extra)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="does not say what it was trained on"):
        jobs.evaluate(file)
    with pytest.raises(DataError, match="name a data set that fits"):
        jobs.evaluate(file, name="digits")


def test_of_a_run_that_held_images_out(tmp_path: Path) -> None:
    """The run's accuracy is of those and is called so; evaluating is on the test images all the same."""
    overrides = ["model.width=0.1", "data.held_out=0.05", "train.batch_size=50", "train.epochs=1", "train.device=cpu"]
    run = jobs.train("digits/teacher", overrides=overrides, runs=tmp_path)
    assert run.summary["measured_on"] == "held-out"
    assert run.summary["train_images"] == 950
    assert round(50 * run.summary["accuracy"], 6) == round(50 * run.summary["accuracy"])
    assert jobs.evaluate(run.path, device="cpu")["images"] == 797
    settings = ["teacher.recipe=null", f"teacher.checkpoint={run.student_file}", "data.held_out=0.1"]
    with pytest.raises(RecipeError, match=r"^data\.held_out: 0\.1 of the images .* trained with 0\.05 held out; give"):
        jobs.train("digits/svd", overrides=[*settings, "train.device=cpu"], runs=tmp_path)
    outside = f"{{model: {{name: vgg-bn-teacher, width: 0.1, checkpoint: {run.student_file}}}}}"
    for other in (f"model.checkpoint={run.student_file}", f"teacher={outside}"):
        with pytest.raises(RecipeError, match=r"^data\.held_out: 0\.1 of the images .* trained with 0\.05 held out; "):
            jobs.train("digits/svd", overrides=[other, "data.held_out=0.1", "train.device=cpu"], runs=tmp_path)


def test_of_a_teacher_that_tells_turns_apart(tmp_path: Path) -> None:
    """It is measured on turned test images of its own classes, and helps by its maps but not by its outputs."""
    base = ["data.classes=['3','5']", "train.epochs=1", "train.device=cpu", "model.width=0.1", "train.batch_size=20"]
    run = jobs.train("digits/turned", overrides=base, runs=tmp_path)
    result = jobs.evaluate(run.student_file, device="cpu")
    assert [row["name"] for row in result["classes"]] == ["0°", "90°", "180°", "270°"]
    assert result["accuracy"] == pytest.approx(run.summary["accuracy"], abs=1e-9)
    student = [*base, "data.train_size=20", "teacher.recipe=digits/turned"]
    student += [f"teacher.overrides.{one}" for one in base if not one.startswith("data")]
    assert jobs.train("digits/svd", overrides=student, runs=tmp_path).summary["accuracy"] >= 0
    with pytest.raises(RecipeError, match=r"^teacher: it tells 4 classes apart and the student 2"):
        jobs.train("digits/soft-target", overrides=student, runs=tmp_path)


def test_classes_of_another_data_set(tmp_path: Path) -> None:
    """The same in another order are numbered as the network's; others are warned of."""
    settings: dict[str, Any] = {"name": "vgg-student", "num_classes": 10, "in_channels": 1, "width": 0.1}
    told = {"mean": "[0.3]", "std": "[0.3]", "image_size": "8"}
    numbers = list(map(str, range(10)))
    named = {"reversed": numbers[::-1], "other": ["nought", *numbers[1:]]}
    network, files = nets.create(**settings), {key: tmp_path / f"{key}.safetensors" for key in named}
    for key, classes in named.items():
        nets.save(network, files[key], **settings, extra={**told, "classes": json.dumps(classes)})
    own = data.load_test("digits")
    found = Student.load(files["reversed"]).test_images("digits")
    assert found.classes == tuple(numbers[::-1])
    assert torch.equal(found.labels, 9 - own.labels)
    with pytest.warns(SvdistillWarning, match="compared by their number: '0' stands there for 'nought'"):
        jobs.evaluate(files["other"], name="digits", device="cpu")


def test_a_folder_with_more_classes(tmp_path: Path) -> None:
    """A run's own may have some that were not chosen; of another one the images that are left out are counted."""
    for name in ("own", "other"):
        tree(tmp_path / name, classes=("ape", "cat", "dog", "zebra"))
    images = ["data.name=image-folder", f"data.root={tmp_path / 'own'}", "data.image_size=8", "data.classes=[dog, cat]"]
    settings = [*TINY, *images, "data.train_size=null", "train.batch_size=4"]
    run = jobs.train("digits/student", overrides=settings, runs=tmp_path / "runs")
    (tmp_path / "link").symlink_to("own")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for root in (None, tmp_path / "own", tmp_path / "link"):
            assert jobs.evaluate(run.path, root=root, device="cpu")["images"] == 4
    told = r"left out of .*other/val: 4 images whose class is not among the 2 known ones \('ape', 'zebra'\); what"
    with pytest.warns(SvdistillWarning, match=told):
        assert jobs.evaluate(run.path, root=tmp_path / "other", device="cpu")["images"] == 4
