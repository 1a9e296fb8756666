"""Training from a recipe: runs are made once, found again, resumed, and never half-written."""

import fcntl
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from svdistill import jobs, nets, recipes
from svdistill.errors import CheckpointError, DataError, RecipeError, ShapeError, SvdistillWarning, TrainingError
from svdistill.jobs import NoCallbacks, Run
from svdistill.training import NoProgress

TINY = ["model.width=0.1", "data.image_size=8", "data.train_size=20", "train.batch_size=10", "train.epochs=2"]
TINY += ["model.taps=[block1,block2]"]  # further down 8×8 pixels leave a single position
TEACHER = [f"teacher.overrides.{setting}" for setting in TINY]
DEVICE = "train.device=cpu"


def train(name: str, *overrides: str, runs: Path, **options: Any) -> Run:
    """Train a very small network of a digits recipe."""
    helped = name in ("digits/svd", "digits/soft-target")
    return jobs.train(name, overrides=[*TINY, *(TEACHER if helped else []), DEVICE, *overrides], runs=runs, **options)


class Diary(NoCallbacks):
    """A callbacks that writes down what it is told, and can pull the plug in the middle of a run."""

    def __init__(self, *, stop_after_epochs: int | None = None) -> None:
        self.entries: list[tuple[str, str]] = []
        self._stop = stop_after_epochs

    def training(self, recipe: recipes.Recipe, run: Run) -> NoProgress:
        """Note it, and hand out a progress that may interrupt."""
        self.entries.append(("training", recipe.name))
        stop = self._stop

        class Plug(NoProgress):
            def epoch(self, metrics: Mapping[str, Any]) -> None:
                if metrics["epoch"] == stop:
                    raise KeyboardInterrupt

        return Plug()

    def found(self, recipe: recipes.Recipe, run: Run) -> None:
        """Note it."""
        self.entries.append(("found", recipe.name))

    def left_out(self, recipe: recipes.Recipe, taps: Mapping[str, Sequence[str]]) -> None:
        """Note it."""
        self.entries += [(f"{name} leaves out", ", ".join(which)) for name, which in taps.items()]

    def moved(self, old: Path, new: Path) -> None:
        """Note it."""
        self.entries.append(("moved", new.name))


def test_run_folder(tmp_path: Path) -> None:
    """A run holds the recipe, one line an epoch, a summary, and a network that loads with one call."""
    run = train("digits/student", "seed=3", runs=tmp_path)
    assert run.path.parent == tmp_path / "digits" / "student"
    assert run.path.name.startswith("3-")
    assert run.finished
    assert [line["epoch"] for line in run.metrics] == [1, 2]
    assert run.recipe.data.train_size == 20
    summary = run.summary
    assert summary["accuracy"] == run.metrics[-1]["accuracy"]
    assert summary["best_accuracy"] == max(line["accuracy"] for line in run.metrics)
    assert (summary["train_images"], summary["epochs"], summary["seed"]) == (20, 2, 3)
    student = run.student()
    assert summary["parameters"] == sum(p.numel() for p in student.parameters())
    assert student(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    spec = nets.spec(run.student_file)
    assert (spec["data"], json.loads(spec["image_size"]), len(json.loads(spec["classes"]))) == ("digits", 8, 10)


def test_finished_run_is_found(tmp_path: Path) -> None:
    """A second call trains nothing, also where only knobs of the machine differ."""
    first = train("digits/student", runs=tmp_path)
    diary = Diary()
    again = train("digits/student", "train.checkpoint_minutes=1", runs=tmp_path, callbacks=diary)
    assert (again.path, diary.entries) == (first.path, [("found", "digits/student")])


def test_teacher_is_trained_once(tmp_path: Path) -> None:
    """The teacher comes first, and students of another seed and method share it."""
    diary = Diary()
    first = train("digits/svd", runs=tmp_path, callbacks=diary)
    train("digits/svd", "seed=1", runs=tmp_path, callbacks=diary)
    train("digits/soft-target", runs=tmp_path, callbacks=diary)
    trained, found = ("training", "digits/teacher"), ("found", "digits/teacher")
    svd, soft = ("training", "digits/svd"), ("training", "digits/soft-target")
    assert diary.entries == [trained, svd, found, svd, found, soft]
    assert first.teacher is not None
    assert first.teacher.summary["recipe"] == "digits/teacher"
    assert first.teacher.teacher is None
    assert len([p for p in (tmp_path / "digits" / "teacher").iterdir() if p.is_dir()]) == 1


def test_what_a_loss_leaves_out_is_told_before_training(tmp_path: Path) -> None:
    """Once, of the run whose loss it is; of none that compares all its taps."""
    names = ["[block1,block2,block4,classifier.relu1]", "[block1,block2,block4,classifier.relu2]"]
    taps = [f"model.taps={names[0]}", f"teacher.taps={names[1]}"]
    diary = Diary()
    train("digits/svd", *taps, "loss=fsp", runs=tmp_path, callbacks=diary)
    assert [entry for entry, _ in diary.entries] == ["training", "fsp leaves out", "training"]
    assert diary.entries[1][1] == "block4, classifier.relu1"
    diary = Diary()
    train("digits/svd", *taps, runs=tmp_path, callbacks=diary)
    assert [entry for entry, _ in diary.entries] == ["found", "training"]


def test_transfer_health_is_recorded(tmp_path: Path) -> None:
    """A run of KD-SVD tells how its transfer task is."""
    line = train("digits/svd", runs=tmp_path).metrics[-1]
    for key in (
        "transfer",
        "ratio",
        "clipped",
        "dropped",
        "alignment",
        "energy_student",
        "energy_teacher",
        "set_aside",
    ):
        assert line[key] is not None, key
    assert 0 < line["alignment"] <= 1 + 1e-6


def test_same_seed_same_weights(tmp_path: Path) -> None:
    """The seed fixes every bit on a CPU."""
    one = train("digits/svd", runs=tmp_path / "one").student().state_dict()
    other = train("digits/svd", runs=tmp_path / "other").student().state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_ways_to_save_time_and_memory_change_rounding_only(tmp_path: Path) -> None:
    """Channels-last and recomputed activations: the same run, the same weights to rounding, files like any other."""
    plain = train("digits/svd", runs=tmp_path / "plain")
    knobs = ["train.channels_last=true", "train.recompute=true"]
    other = train("digits/svd", *knobs, runs=tmp_path / "other")
    assert other.path.name == plain.path.name
    assert other.recipe.train.channels_last
    weights = plain.student().state_dict()
    for name, value in other.student().state_dict().items():
        assert value.is_contiguous()
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-4)


def test_a_network_without_blocks_cannot_recompute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is written, with the key."""
    line = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    monkeypatch.setattr("svdistill.recipes.build.model", lambda *_: line)
    with pytest.raises(RecipeError, match=r"^train\.recompute: Sequential has no blocks"):
        train("digits/student", "train.recompute=true", runs=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_run_continues(tmp_path: Path) -> None:
    """A run that is interrupted after an epoch ends with the weights of one that was not."""
    with pytest.raises(KeyboardInterrupt):
        train("digits/student", runs=tmp_path / "cut", callbacks=Diary(stop_after_epochs=1))
    (cut,) = (path for path in (tmp_path / "cut" / "digits" / "student").iterdir() if path.is_dir())
    assert not Run(cut).finished
    with pytest.raises(DataError, match="has not finished"):
        Run(cut).student()
    resumed = train("digits/student", runs=tmp_path / "cut")
    assert resumed.path == cut
    whole = train("digits/student", runs=tmp_path / "whole").student().state_dict()
    assert all(torch.equal(value, whole[key]) for key, value in resumed.student().state_dict().items())
    assert [line["epoch"] for line in resumed.metrics] == [1, 2]


def test_fresh_keeps_the_earlier_run(tmp_path: Path) -> None:
    """A fresh run renames the earlier one, and the teacher stays."""
    train("digits/svd", runs=tmp_path)
    diary = Diary()
    run = train("digits/svd", runs=tmp_path, fresh=True, callbacks=diary)
    moved = diary.entries[0]
    assert moved[0] == "moved"
    assert Run(run.path.with_name(moved[1])).finished
    assert diary.entries[1:] == [("found", "digits/teacher"), ("training", "digits/svd")]


def test_two_processes(tmp_path: Path) -> None:
    """A run that another process is training is refused in one line, and left alone."""
    run = Run(tmp_path / recipes.load("digits/student").name / "x")
    settings = recipes.load("digits/student", [*TINY, DEVICE])
    run = Run(tmp_path / settings.name / recipes.identity(settings))
    run.path.parent.mkdir(parents=True)
    with run.path.with_name(f".{run.path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="is being trained by another process"):
            train("digits/student", runs=tmp_path)
    assert not run.path.exists()
    assert train("digits/student", runs=tmp_path).finished


@pytest.mark.parametrize(
    ("name", "overrides", "kind", "match"),
    [
        ("digits/student", ["data.augment.flip=true"], RecipeError, r"^data\.augment\.flip: a mirror image"),
        ("digits/student", ["data.name=digit"], RecipeError, r"^data\.name: no 'digit'; did you mean 'digits'\?"),
        ("digits/student", ["data.train_size=5000"], DataError, r"^data\.train_size: "),
        ("digits/student", ["data.root=/nowhere"], DataError, r"^data\.root: "),
        ("digits/student", ["model.name=vgg-bn-studnet"], RecipeError, r"^model\.name: .* 'vgg-bn-student'"),
        ("digits/student", ["model.taps=[blok1]"], RecipeError, r"^model\.taps: .*block1"),
        ("digits/student", ["train.device=cuda:99"], RecipeError, r"^train\.device: "),
        ("digits/student", ["data.train_size=null", "train.batch_size=1001"], RecipeError, r"^train\.batch_size: 1001"),
        (
            "digits/svd",
            ["model.taps=[block1]"],
            RecipeError,
            r"^model\.taps: the student has 1 taps .* teacher 2",
        ),
        ("digits/svd", ["model.taps=[block1]", "teacher.taps=[block1]"], RecipeError, "expected at least 2"),
        ("digits/svd", ["teacher.taps=[blok1,block2]"], RecipeError, r"^teacher\.taps: .*block1"),
        (
            "digits/svd",
            ["data.image_size=16"],
            RecipeError,
            r"^data\.image_size: .*teacher\.overrides\.data\.image_size",
        ),
        ("digits/svd", ["teacher.checkpoint=/nowhere.safetensors"], CheckpointError, r"^teacher\.checkpoint: "),
        (
            "digits/svd",
            ["loss=fsp", "model.taps=[block1,block4]", "teacher.taps=[block1,block4]"],
            RecipeError,
            r"^model\.taps: fsp leaves out 'block4', a single position with nothing to compare, and needs at least 2 ",
        ),
        ("digits/svd", ["loss=soft-target", "model.taps=[blok1]"], RecipeError, r"^model\.taps: .*block1"),
        ("digits/svd", ["loss={name: fitnet, hint: 2}"], RecipeError, r"^loss: hint is tap 2 of 2"),
        ("digits/svd", ["loss=[svd,soft-target]", "loss.weight=1"], RecipeError, r"^loss: a sum of svd, soft-target"),
        ("digits/svd", ["data.unlabelled={size: 5}"], RecipeError, r"^data\.unlabelled: 10 images a step are more"),
        ("digits/svd", ["data.unlabelled={name: digit}"], RecipeError, r"^data\.unlabelled\.name: .*'digits'"),
    ],
)
def test_wrong_before_work(tmp_path: Path, name: str, overrides: list[str], kind: type[Exception], match: str) -> None:
    """What is wrong is found before the first file is written, not even the teacher's."""
    if any(override.startswith("teacher.checkpoint") for override in overrides):
        settings = [*TINY, *overrides]
    else:
        settings = [*TINY, *(TEACHER if name == "digits/svd" else []), DEVICE, *overrides]
    with pytest.raises(kind, match=match) as caught:
        jobs.train(name, overrides=settings, runs=tmp_path / "runs")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2  # type: ignore[attr-defined]
    assert not (tmp_path / "runs").exists()


def test_teacher_from_a_file(tmp_path: Path) -> None:
    """A student learns from a teacher's file, and its metrics say so."""
    teacher = train("digits/teacher", runs=tmp_path)
    run = jobs.train(
        "digits/svd", overrides=[*TINY, DEVICE, f"teacher.checkpoint={teacher.student_file}"], runs=tmp_path
    )
    assert run.metrics[-1]["transfer"] is not None


def test_soft_targets_need_the_same_classes(tmp_path: Path) -> None:
    """Soft targets compare classes one by one, so that a teacher of others is refused."""
    model = nets.create("vgg-bn-teacher", num_classes=7, in_channels=1, width=0.1)
    file = tmp_path / "teacher.safetensors"
    nets.save(model, file, name="vgg-bn-teacher", num_classes=7, in_channels=1, width=0.1)
    with pytest.raises(RecipeError, match="7 classes apart and the student 10"):
        jobs.train("digits/soft-target", overrides=[*TINY, f"teacher.checkpoint={file}"], runs=tmp_path)
    own = [*TINY, DEVICE, f"teacher.checkpoint={file}", "teacher.taps=[block1,block2]"]
    with pytest.warns(SvdistillWarning, match=r"teacher\.safetensors does not name the mean and deviation"):
        assert jobs.train("digits/svd", overrides=own, runs=tmp_path).finished


def test_teacher_of_other_channels(tmp_path: Path) -> None:
    """A teacher for colour images is refused for grey ones."""
    model = nets.create("vgg-bn-teacher", num_classes=10, in_channels=3, width=0.1)
    file = tmp_path / "teacher.safetensors"
    nets.save(model, file, name="vgg-bn-teacher", num_classes=10, in_channels=3, width=0.1)
    with pytest.raises((RecipeError, ShapeError), match="channels"):
        jobs.train("digits/svd", overrides=[*TINY, f"teacher.checkpoint={file}"], runs=tmp_path / "runs")


def test_grey_images_and_a_teacher_of_colour_by_its_recipe(tmp_path: Path) -> None:
    """It sees them in all three channels, as a teacher from a file does; the reverse is refused before any training."""
    short = [*TINY, *TEACHER, "teacher.overrides.data.channels=3"]
    assert jobs.train("digits/svd", overrides=short, runs=tmp_path / "runs").finished
    grey = [*TINY, *TEACHER, "data.channels=3", "teacher.overrides.data.channels=1"]
    with pytest.raises(
        CheckpointError, match=r"teacher\.recipe: the teacher expects images of 1 channels, but the data"
    ):
        jobs.train("digits/svd", overrides=grey, runs=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_loss_that_is_not_finite(tmp_path: Path) -> None:
    """A run that blows up ends with status 1, and calling it again does not look finished."""
    with pytest.raises(TrainingError, match="not finite") as caught:
        train("digits/student", "optimizer.lr=1e9", runs=tmp_path)
    assert caught.value.exit_status == 1
    (folder,) = (path for path in (tmp_path / "digits" / "student").iterdir() if path.is_dir())
    assert not Run(folder).finished


def test_runs_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file where the folder of runs should be is one line."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(DataError, match=r"cannot write to the folder of runs, .* choose another with --runs"):
        train("digits/student", runs=tmp_path / "runs")


def test_interrupted_run_refuses_another_teacher(tmp_path: Path) -> None:
    """A run does not resume with a teacher that was trained again since."""
    teacher = train("digits/teacher", runs=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train("digits/svd", runs=tmp_path, callbacks=Diary(stop_after_epochs=1))
    weights = teacher.student()
    with torch.no_grad():
        next(weights.parameters()).mul_(2)
    spec = nets.spec(teacher.student_file)
    known = {key: spec.pop(key) for key in ("name", "num_classes", "in_channels", "width")}
    nets.save(weights, teacher.student_file, **known, extra=spec)
    summary = teacher.summary
    teacher.record.reopen()
    teacher.record.finish(summary)  # as that training would
    with pytest.raises(DataError, match="begun with another teacher"):
        train("digits/svd", runs=tmp_path)


def test_validated_recipe_takes_no_overrides(tmp_path: Path) -> None:
    """Overrides that could not take effect are refused."""
    with pytest.raises(RecipeError, match="overrides"):
        jobs.train(recipes.load("digits/student"), overrides=["seed=5"], runs=tmp_path)


def test_one_image_at_a_time(tmp_path: Path) -> None:
    """Batch norm over one number is refused before a folder is made."""
    with pytest.raises(RecipeError, match="take at least 2"):
        train("digits/student", "train.batch_size=1", runs=tmp_path)
    assert not any(path.is_dir() for path in tmp_path.rglob("0-*"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs whose teacher is trained once."""
    runs: Path = tmp_path_factory.mktemp("runs")
    train("digits/teacher", runs=runs)
    return runs


def method_of(name: str) -> str:
    """Return what a run's summary calls a method."""
    spelt = {
        "attention-crd": "attention",
        "fitnet-crd": "fitnet",
        "fitnet": "fitnet+soft-target-two-stage",
        "svd-own-vectors": "svd-own-norm-two-stage",
        "svd-recommended": "svd-k8-teacher-basis-own-norm-two-stage",
        "fitnet-hint": "fitnet-two-stage",
        "svd-soft-target": "svd-k8-teacher-basis-own-norm+soft-target-two-stage",
        "svd-soft-target-standardized": "svd-k8-teacher-basis-own-norm+soft-target-standardized-two-stage",
        "svd-dkd": "svd-k8-teacher-basis-own-norm+dkd-two-stage",
    }
    return spelt.get(name, name)


# Those of two stages in whose second a loss takes part.
HELPED_TO_THE_END = (
    "fitnet",
    "svd-own-vectors",
    "svd-recommended",
    "svd-soft-target",
    "svd-soft-target-standardized",
    "svd-dkd",
)


@pytest.mark.parametrize("method", recipes.methods())
def test_every_method_trains(shared: Path, method: str) -> None:
    """From one recipe, with one teacher, to a student of the same architecture; numbers are finite."""
    overrides = [*TINY, *TEACHER, DEVICE, "train.epochs=1"]
    overrides += ["loss.hint=1"] if method == "fitnet-crd" else []  # there are two taps, and it takes the third
    run = jobs.train("digits/svd", overrides=overrides, method=method, runs=shared)
    assert run.path.parent == shared / "digits" / method
    assert run.summary["method"] == method_of(method)
    assert run.recipe == recipes.load("digits/svd", overrides, method=method)
    assert run.student()(torch.zeros(1, 1, 8, 8)).isfinite().all()
    for line in run.metrics:
        assert None not in line.values()
        second = line.get("stage") == 2
        assert ("transfer" in line) == (method != "alone" and (not second or method in HELPED_TO_THE_END))
    assert len(list((shared / "digits" / "teacher").glob("0-*"))) == 1


def test_the_right_class_beside_the_features(shared: Path) -> None:
    """A sum of KD-SVD and DKD, with images that have no label, from which DKD learns nothing."""
    run = train("digits/svd", "loss=[svd,dkd]", "data.unlabelled={batch_size: 7, size: 20}", runs=shared)
    assert run.summary["method"] == "svd+dkd"
    assert all(line["transfer"] > 0 for line in run.metrics)
    assert run.student()(torch.zeros(1, 1, 8, 8)).isfinite().all()


def test_two_stages(shared: Path) -> None:
    """The transfer task, then the main task with its whole schedule; both are in the metrics and count as epochs."""
    run = train("digits/svd", "train.first_stage=0.5", "train.epochs=4", "train.milestones=[0.5]", runs=shared)
    metrics = run.metrics
    assert [line["stage"] for line in metrics] == [1, 1, 2, 2, 2, 2]
    assert [line["lr"] for line in metrics] == pytest.approx([0.02] * 4 + [0.002] * 2)
    assert ["transfer" in line for line in metrics] == [True, True, False, False, False, False]
    assert (run.summary["epochs"], run.summary["method"]) == (6, "svd-two-stage")
    counted = train(
        "digits/svd", "train.first_stage=0.5", "train.epochs=6", "train.first_stage_counts=true", runs=shared
    )
    assert [line["stage"] for line in counted.metrics] == [1, 1, 2, 2, 2, 2]


HELPED = (
    "loss=[{name: svd, stage: both},{name: fitnet, stage: first},{name: soft-target, stage: second}]",
    "model.width=0.2",
    "train.first_stage=2",
    "data.unlabelled={batch_size: 7, size: 20}",
    "train.evaluate_every=3",
)


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_interrupted_run_with_everything_continues(shared: Path, tmp_path: Path, epochs: int) -> None:
    """In and between both stages, with adapters, a regressor and images without labels, bit for bit."""
    whole = train("digits/svd", *HELPED, runs=shared)
    teacher = shared / "digits" / "teacher"
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "teacher").symlink_to(teacher)
    with pytest.raises(KeyboardInterrupt):
        train("digits/svd", *HELPED, runs=tmp_path, callbacks=Diary(stop_after_epochs=epochs))
    parts = train("digits/svd", *HELPED, runs=tmp_path)
    states = [torch.load(run.record.last, weights_only=True)["model"] for run in (whole, parts)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    lines = [
        [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in run.metrics]
        for run in (whole, parts)
    ]
    assert lines[0] == lines[1]
    assert [line["epoch"] for line in lines[0] if "accuracy" in line] == [3, 4]


def test_helpers_stay_behind(shared: Path) -> None:
    """The student's file is the student alone; the summary says what was adapted; accuracy is of the last epoch."""
    run = train("digits/svd", *HELPED, runs=shared)
    plain = nets.create("vgg-bn-student", num_classes=10, in_channels=1, width=0.2)
    assert run.student().state_dict().keys() == plain.state_dict().keys()
    assert run.summary["parameters"] == sum(p.numel() for p in plain.parameters())
    assert run.summary["adapters"] == [
        {"tap": "block1", "width": 13, "teacher_width": 6},
        {"tap": "block2", "width": 26, "teacher_width": 13},
    ]
    assert run.summary["accuracy"] == run.metrics[-1]["accuracy"]
    assert run.summary["best_epoch"] in (3, 4)
    assert run.summary["train_images"] == 20
    assert run.record.diagnostics.exists()


def test_images_without_labels_change_the_student_but_not_its_labels(shared: Path) -> None:
    """The same labelled images come; an accuracy is one of twenty."""
    plain, more = (train("digits/svd", *extra, runs=shared) for extra in ([], ["data.unlabelled={batch_size: 13}"]))
    assert plain.path != more.path
    for line in more.metrics:
        assert 20 * line["train_accuracy"] == pytest.approx(round(20 * line["train_accuracy"]))
        assert line["set_aside"] == 0
    assert more.metrics[0]["transfer"] > 1.5 * plain.metrics[0]["transfer"]  # a sum over 23 images, not 10


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A folder of images that are no digits: three classes of bars, 12 pixels high."""
    generator = np.random.default_rng(0)
    for part, number in (("train", 8), ("val", 3)):
        for place, name in enumerate(("high", "low", "wide")):
            folder = tmp_path / "shapes" / part / name
            folder.mkdir(parents=True)
            for i in range(number):
                pixels = generator.integers(0, 90, (12, 12), dtype=np.uint8)
                pixels[4 * place : 4 * place + 3] = 250
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "shapes"


def test_teacher_of_another_data_set(shared: Path, shapes: Path, tmp_path: Path) -> None:
    """A teacher of ten digits of 8 × 8 helps with three other classes of 12 × 12, through what its taps give."""
    file = train("digits/teacher", runs=shared).student_file
    own = ["data.name=image-folder", f"data.root={shapes}", "data.image_size=12", "data.channels=1"]
    own += ["data.train_size=null", f"teacher.checkpoint={file}"]
    run = jobs.train("digits/svd", overrides=[*TINY, DEVICE, *own], runs=tmp_path / "runs")
    assert run.metrics[-1]["transfer"] > 0
    assert run.metrics[-1]["set_aside"] == 0
    assert run.student()(torch.zeros(1, 1, 12, 12)).shape == (1, 3)
    spec = nets.spec(run.student_file)
    assert (json.loads(spec["classes"]), json.loads(spec["taps"])) == (["high", "low", "wide"], ["block1", "block2"])
    with pytest.raises(RecipeError, match=r"^teacher: it tells 10 classes apart and the student 3"):
        jobs.train("digits/svd", overrides=[*TINY, DEVICE, *own, "loss=[svd,soft-target]"], runs=tmp_path / "runs")


def test_teacher_of_another_data_set_by_its_recipe(shared: Path, shapes: Path) -> None:
    """It is trained on its own images first, or found; these are not the student's."""
    own = [
        "data.name=image-folder",
        f"data.root={shapes}",
        "data.image_size=12",
        "data.channels=1",
        "data.train_size=null",
    ]
    diary = Diary()
    overrides = [*TINY, *TEACHER, DEVICE, *own, "loss=[attention,{name: relational, weight: 0.1}]"]
    run = jobs.train("digits/svd", overrides=overrides, runs=shared, callbacks=diary)
    assert diary.entries == [("found", "digits/teacher"), ("training", "digits/svd")]
    assert run.summary["train_images"] == 24
