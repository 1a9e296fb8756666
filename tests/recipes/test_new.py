"""Recipes from a few answers."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from svdistill import nets, recipes
from svdistill.cli import app
from svdistill.errors import DataError, OptionError, RecipeError
from svdistill.recipes.new import Answers, is_folder, write

FEW = Answers("digits", "resnet8", "resnet20", "svd-recommended", labels=50, image_size=16, log=("mlflow", "wandb"))


def photos(folder: Path, *, each: int = 1) -> Path:
    """Make a tree of two classes, of files that nothing has to decode."""
    for part, count in (("train", each), ("val", 1)):
        for kind in ("cat", "dog"):
            (folder / part / kind).mkdir(parents=True)
            for number in range(count):
                (folder / part / kind / f"{number}.png").touch()
    return folder


def trained(file: Path, *, channels: int = 1) -> Path:
    """Save a network that has learnt nothing."""
    settings: dict[str, Any] = {"name": "resnet20", "num_classes": 10, "in_channels": channels, "width": 0.25}
    nets.save(nets.create(**settings), file, **settings)
    return file


def test_few_labels_and_a_teacher_that_is_trained_first(tmp_path: Path) -> None:
    """The student has a part of its teacher's labels, all its images, and its training."""
    files = write(tmp_path / "mine.yaml", FEW)
    assert [file.name for file in files] == ["mine.yaml", "mine-teacher.yaml"]
    student, teacher = recipes.lineage(recipes.load(files[0]))
    assert (student.model.name, teacher.model.name) == ("resnet8", "resnet20")
    assert (student.data.train_size, teacher.data.train_size) == (50, None)
    assert student.data.unlabelled is not None
    assert student.data.image_size == teacher.data.image_size == 16
    assert (student.train.batch_size, teacher.train.batch_size) == (25, 64)
    assert (student.train.epochs, teacher.train.epochs) == (225, 60)  # steps enough, of 2 an epoch
    assert student.train.log == teacher.train.log == ("mlflow", "wandb")
    assert student.to_dict()["loss"] == recipes.load("digits/svd", method="svd-recommended").to_dict()["loss"] | {
        "weight": 4.0
    }
    assert student.name == "mine"


@pytest.mark.parametrize("name", ["photos", "it's # a: folder"])
def test_folder_alone(tmp_path: Path, name: str) -> None:
    """A folder of images, whatever its name; alone there is no teacher."""
    photos(tmp_path / name)
    (file,) = write(tmp_path / "a.yaml", Answers(str(tmp_path / name), "resnet8", None, "alone", image_size=32))
    recipe = recipes.load(file)
    assert (recipe.data.name, recipe.data.root) == ("image-folder", str(tmp_path / name))
    assert recipe.teacher is None
    assert recipe.loss is None or not recipe.loss


def test_trained_teacher(tmp_path: Path) -> None:
    """A file is taken as the teacher, and no recipe is written for it."""
    trained(tmp_path / "big.safetensors")
    answers = Answers("digits", "resnet8", str(tmp_path / "big.safetensors"), "soft-target", labels=500)
    (file,) = write(tmp_path / "b.yaml", answers)
    recipe = recipes.load(file)
    assert recipe.teacher is not None
    assert recipe.teacher.checkpoint == str(tmp_path / "big.safetensors")
    assert recipe.data.train_size == 500
    assert recipe.data.channels is None


@pytest.mark.parametrize(("channels", "said"), [(1, 1), (3, None)])
def test_a_folder_has_the_channels_of_a_trained_teacher(tmp_path: Path, channels: int, said: int | None) -> None:
    """Its images are taken in colour unless the teacher's were grey."""
    teacher = trained(tmp_path / "big.safetensors", channels=channels)
    root = photos(tmp_path / "photos", each=3)
    answers = Answers(str(root), "resnet8", str(teacher), "soft-target", labels=4, image_size=32)
    (file,) = write(tmp_path / "b.yaml", answers)
    assert recipes.load(file).data.channels == said


@pytest.mark.parametrize(
    ("method", "labels", "expected"),
    [
        ("svd", 7, r"10 \(one a class\) to 999; leave --labels out for all 1000"),
        ("svd", 1000, r"10 \(one a class\) to 999;"),
        ("alone", 1001, r"10 \(one a class\) to 1000;"),
        ("svd", 5000, "to 999;"),
    ],
)
def test_too_few_or_too_many_labels(tmp_path: Path, method: str, labels: int, expected: str) -> None:
    """A recipe that no training would take is not written; of a teacher's images some are left without labels."""
    answers = Answers("digits", "resnet8", None if method == "alone" else "resnet20", method, labels=labels)
    with pytest.raises(
        OptionError, match=rf"^--labels: {labels} labelled images were asked for, expected .*{expected}"
    ):
        write(tmp_path / "mine.yaml", answers)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "mine.yaml", Answers("digits", "resnet8", None, "alone", labels=1000))


@pytest.mark.parametrize(
    ("alone", "labels", "said"),
    [
        (True, 1, r"expected 2 \(one a class\) to 6"),
        (True, 7, r"expected 2 \(one a class\) to 6"),
        (True, 6, None),
        (False, 6, "no image is left beside a subset of all 6"),
        (False, 5, None),
    ],
)
def test_labels_of_a_folder(tmp_path: Path, alone: bool, labels: int, said: str | None) -> None:
    """As many as there are files, none of which is decoded."""
    root, method = photos(tmp_path / "photos", each=3), "alone" if alone else "svd"
    answers = Answers(str(root), "resnet8", None if alone else "resnet20", method, labels=labels, image_size=32)
    if said is None:
        write(tmp_path / "mine.yaml", answers)
        return
    with pytest.raises(DataError, match=f"^--labels: .*{said}"):
        write(tmp_path / "mine.yaml", answers)
    assert list(tmp_path.iterdir()) == [root]


def test_a_folder_without_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that holds no train/CLASS is refused, and so is the word for any folder."""
    monkeypatch.chdir(tmp_path)
    for data, said in (
        (".", r"has no folder train; expected train/CLASS/… and val/CLASS/…"),
        ("image-folder", r"image-folder says nothing of which images; give the folder itself"),
    ):
        with pytest.raises((OptionError, DataError), match=f"^--data: .*{said}"):
            write(Path("mine.yaml"), Answers(data, "resnet8", "resnet20", "svd", image_size=32))
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_blanks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command that is printed, or stands in the recipe, can be copied into a shell."""
    monkeypatch.chdir(tmp_path)
    name = "my recipe, 1.yaml"
    assert app.run(["new", name, "--data", "digits"]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if "svdistill" in line]
    written = Path(name).read_text(encoding="utf-8").splitlines()[:2]
    for line in (*printed, *written):
        assert shlex.split(line[line.index("svdistill") :])[-1] == name
    assert len(printed) == 2


def test_code_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused without leave; with it, both recipes train without the option being given again."""
    (tmp_path / "ownnet.py").write_text(
        "from torch import nn\n"
        "def tiny(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "mine.yaml"
    command = ["new", str(file), "--data", "digits", "--student", "ownnet:tiny", "--teacher", "ownnet:tiny"]
    assert app.run(command) == 2
    assert not file.exists()
    assert app.run([*command, "--allow-code"]) == 0
    for written in (file, tmp_path / "mine-teacher.yaml"):
        assert recipes.load(written).allow_code


def test_wrong_answers_write_nothing(tmp_path: Path) -> None:
    """What is wrong is one line, and neither file is written; what is there stays."""
    for changed, match in (
        ({"method": "svdd"}, "did you mean 'svd'"),
        ({"student": "resnet9"}, "model.name: no network is called 'resnet9'"),
        ({"data": "digit"}, "data.name: no 'digit'; did you mean 'digits'"),
        ({"teacher": None}, "--teacher: 'svd-recommended' needs one"),
        ({"method": "alone"}, "--teacher: 'alone' trains without one"),
        ({"teacher": "no.safetensors"}, "--teacher: no saved network at no.safetensors"),
        ({"log": ("mflow",)}, "train.log: no tracker 'mflow'; did you mean 'mlflow'"),
    ):
        with pytest.raises((OptionError, RecipeError), match=match):
            write(tmp_path / "mine.yaml", Answers(**{**vars(FEW), **changed}))
    with pytest.raises(OptionError, match=r"ends in \.yaml"):
        write(tmp_path / "mine.txt", FEW)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine-teacher.yaml").write_text("mine")
    with pytest.raises(OptionError, match=r"there is a file .*mine-teacher\.yaml already"):
        write(tmp_path / "mine.yaml", FEW)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


def test_a_teacher_that_cannot_be_read(tmp_path: Path) -> None:
    """What is no network of ours is found now, not when training begins."""
    file = tmp_path / "big.safetensors"
    file.write_text("no network")
    with pytest.raises(OptionError, match=r"^--teacher: .*big\.safetensors is damaged or not a safetensors file"):
        write(tmp_path / "mine.yaml", Answers("digits", "resnet8", str(file), "svd"))
    assert list(tmp_path.iterdir()) == [file]


def test_no_terminal_to_ask_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --data it is one line and status 2."""
    assert app.run(["new", str(tmp_path / "mine.yaml")]) == 2
    assert capsys.readouterr().err.startswith("error: --data: ")


def test_a_folder_that_is_called_as_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name means the data set; a path means the folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits" / "train").mkdir(parents=True)
    assert [is_folder(name) for name in ("digits", "./digits", "other")] == [False, True, False]
    write(tmp_path / "mine.yaml", FEW)
    assert recipes.load(tmp_path / "mine.yaml").data.name == "digits"
