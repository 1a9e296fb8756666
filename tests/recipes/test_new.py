"""Recipes from a few answers."""

from pathlib import Path
from typing import Any

import pytest

from svdistill import nets, recipes
from svdistill.cli import app
from svdistill.errors import OptionError, RecipeError
from svdistill.recipes.new import Answers, is_folder, write

FEW = Answers("digits", "resnet8", "resnet20", "svd-recommended", labels=50, image_size=16, log=("mlflow", "wandb"))


def test_few_labels_and_a_teacher_that_is_trained_first(tmp_path: Path) -> None:
    """The student has a part of its teacher's labels, all its images, and its training."""
    files = write(tmp_path / "mine.yaml", FEW)
    assert [file.name for file in files] == ["mine.yaml", "mine-teacher.yaml"]
    student, teacher = recipes.lineage(recipes.load(files[0]))
    assert (student.model.name, teacher.model.name) == ("resnet8", "resnet20")
    assert (student.data.train_size, teacher.data.train_size) == (50, None)
    assert student.data.unlabelled is not None
    assert student.data.image_size == teacher.data.image_size == 16
    assert (student.train.batch_size, teacher.train.batch_size) == (50, 64)
    assert student.train.log == teacher.train.log == ("mlflow", "wandb")
    assert student.to_dict()["loss"] == recipes.load("digits/svd", method="svd-recommended").to_dict()["loss"] | {
        "weight": 4.0
    }
    assert student.name == "mine"


@pytest.mark.parametrize("name", ["photos", "it's # a: folder"])
def test_folder_alone(tmp_path: Path, name: str) -> None:
    """A folder of images, whatever its name; alone there is no teacher."""
    (tmp_path / name).mkdir()
    (file,) = write(tmp_path / "a.yaml", Answers(str(tmp_path / name), "resnet8", None, "alone", image_size=32))
    recipe = recipes.load(file)
    assert (recipe.data.name, recipe.data.root) == ("image-folder", str(tmp_path / name))
    assert recipe.teacher is None
    assert recipe.loss is None or not recipe.loss


def test_trained_teacher(tmp_path: Path) -> None:
    """A file is taken as the teacher, and no recipe is written for it."""
    settings: dict[str, Any] = {"name": "resnet20", "num_classes": 10, "in_channels": 1, "width": 0.25}
    nets.save(nets.create(**settings), tmp_path / "big.safetensors", **settings)
    answers = Answers("digits", "resnet8", str(tmp_path / "big.safetensors"), "soft-target", labels=500)
    (file,) = write(tmp_path / "b.yaml", answers)
    recipe = recipes.load(file)
    assert recipe.teacher is not None
    assert recipe.teacher.checkpoint == str(tmp_path / "big.safetensors")
    assert recipe.data.train_size == 500


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
