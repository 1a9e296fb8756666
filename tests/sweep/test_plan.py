"""What runs a comparison consists of, which are there, and what is refused."""

import json
from pathlib import Path

import pytest
from tests.report.runs import finish_again
from tests.sweep.small import TINY, plan, titles

from svdistill import jobs, recipes, sweep
from svdistill.errors import DataError, RecipeError, SvdistillWarning
from svdistill.recipes.images import Images
from svdistill.sweep.plan import _remembering


def test_teachers_first_then_seed_by_seed(tmp_path: Path) -> None:
    """The one teacher is there once; all methods of a seed come before the next seed."""
    planned = plan(tmp_path, methods=["alone", "fsp", "svd"], seeds=[3, 1])
    assert titles(planned) == ["digits/teacher seed 0"] + [
        f"{method} seed {seed}" for seed in (3, 1) for method in ("alone", "fsp", "svd")
    ]
    assert len({member.key for member in planned.members}) == 7
    assert [member.recipe.seed for member in planned.members] == [0, 3, 3, 3, 1, 1, 1]
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_may_be_given_as_a_setting(tmp_path: Path) -> None:
    """A recipe without a teacher gets one for the methods that need it."""
    planned = sweep.plan(
        "digits/student",
        overrides=["teacher.recipe=digits/teacher", "train.device=cpu"],
        methods=["alone", "soft-target"],
        seeds=[0],
        runs=tmp_path,
    )
    assert titles(planned) == ["digits/teacher seed 0", "alone seed 0", "soft-target seed 0"]


@pytest.mark.parametrize(
    ("overrides", "options", "match"),
    [
        ([], {"methods": ["svd", "fps"]}, "no method 'fps'; did you mean 'fsp'"),
        ([], {"methods": ["svd", "svd"]}, "methods: svd is there twice"),
        ([], {"methods": []}, "methods: expected at least one"),
        ([], {"seeds": [-1]}, "seeds: expected whole numbers from 0"),
        (["data.image_size=[16,8]"], {"methods": ["attention"]}, "data.image_size"),
        (["data.name=[digits,digit]"], {}, "data.name: no 'digit'"),
        (
            ["data.augment.mixup=0.2", "train.batch_size=5"],
            {},
            "train.batch_size: 5 images cannot be divided evenly into pairs for data.augment.mixup",
        ),
        (
            ["train.accumulate=4", "train.batch_size=5"],
            {},
            "train.batch_size: 5 images cannot be divided evenly over",
        ),
        (["data.augment.cutmix=1.0", "train.batch_size=4"], {"methods": ["alone", "dkd"]}, "dkd compares with one"),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_written(
    tmp_path: Path, overrides: list[str], options: dict[str, object], match: str
) -> None:
    """One line names the key or the method, and nothing is written."""
    with pytest.raises(RecipeError, match=match) as caught:
        plan(tmp_path, *overrides, **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_finished_runs_are_found_and_broken_ones_told(tmp_path: Path) -> None:
    """What is there is found, what is damaged is to be finished again; other images of the same name are refused."""
    planned = plan(tmp_path)
    teacher, alone, _ = planned.members
    jobs.train(teacher.recipe, runs=tmp_path)
    jobs.train(alone.recipe, runs=tmp_path)
    again = plan(tmp_path)
    assert [member.state for member in again.members] == ["finished", "finished", "new"]
    assert [member.found for member in again.members] == [True, True, False]
    assert again.members[1].summary is not None
    assert again.record()["runs"][1]["summary"]["epochs"] == 1
    json.dumps(again.record(), allow_nan=False)

    (alone.run.path / "summary.json").write_text("{")
    broken = plan(tmp_path).members[1]
    assert (broken.state, broken.found) == ("begun", False)  # to be finished again from its checkpoint

    noted = json.loads((alone.run.path / "data.json").read_text())
    del noted["checksum"]
    (alone.run.path / "data.json").write_text(json.dumps({**noted, "labels": "other"}))
    with pytest.raises(DataError, match="was made with other images"):
        plan(tmp_path)


def test_images_that_a_seed_chooses_are_found_again(tmp_path: Path) -> None:
    """Where the seed chooses images without labels, each seed's run is known by its own."""
    overrides = ["data.train_size=null", "data.unlabelled={name: digits, size: 10, batch_size: 5}"]
    for member in plan(tmp_path, *overrides, seeds=[0, 1]).members:
        jobs.train(member.recipe, runs=tmp_path)
    again = plan(tmp_path, *overrides, seeds=[0, 1])
    assert {member.state for member in again.members} == {"finished"}


def test_images_are_shared_by_those_that_have_the_same() -> None:
    """Recipes share what is loaded, but for those whose network says how large the images are."""
    loaded: list[recipes.Recipe] = []

    def load(recipe: recipes.Recipe) -> Images:
        loaded.append(recipe)
        return object()  # type: ignore[return-value]

    images = _remembering(load)
    base = ["data.name=image-folder", "data.root=x", "data.train_size=null", "model.width=1"]
    for name in ("vgg-student", "vgg-stride-student", "transformers:vit", "transformers:beit", "vgg-student"):
        images(recipes.load("digits/student", [*base, f"model.name={name}"]))
    assert [recipe.model.name for recipe in loaded] == ["vgg-student", "transformers:vit", "transformers:beit"]


def test_a_teacher_that_is_gone_is_not_made_again_for_nothing(tmp_path: Path) -> None:
    """With all students there, it is not needed; with one missing it is, and the others are looked at again."""
    planned = plan(tmp_path, methods=["soft-target"])
    jobs.train(planned.members[1].recipe, runs=tmp_path)
    planned.members[0].run.path.rename(tmp_path / "gone")
    assert [member.state for member in plan(tmp_path, methods=["soft-target"]).members] == ["unneeded", "finished"]
    states = [member.state for member in plan(tmp_path, methods=["soft-target", "svd"]).members]
    assert states == ["new", "begun", "new"]


def test_students_of_two_trainings_of_a_teacher_never_share_a_table(tmp_path: Path) -> None:
    """Where the teacher is gone, what its students have written down of it is compared."""
    planned = plan(tmp_path, methods=["soft-target"], seeds=[0, 1])
    teacher, *students = planned.members
    for student in students:
        jobs.train(student.recipe, runs=tmp_path)
    teacher.run.path.rename(tmp_path / "gone")
    assert plan(tmp_path, methods=["soft-target"], seeds=[0, 1]).members[0].state == "unneeded"
    noted = json.loads((students[1].run.path / "data.json").read_text())
    del noted["checksum"]
    (students[1].run.path / "data.json").write_text(json.dumps({**noted, "teacher": "of another training"}))
    finish_again(students[1].run.path)
    with pytest.raises(DataError, match="learned from two trainings of their teacher"):
        plan(tmp_path, methods=["soft-target"], seeds=[0, 1])
    assert plan(tmp_path, methods=["soft-target"], seeds=[1]).members[-1].state == "finished"


@pytest.mark.filterwarnings("ignore::svdistill.errors.SvdistillWarning")  # of a teacher with random weights
def test_networks_without_taps_of_their_own(tmp_path: Path) -> None:
    """Their taps are suggested, as where one is trained."""
    own = "{name: tests.nets.own_code:Small, pretrained: false}"
    planned = sweep.plan(
        "digits/svd",
        overrides=[
            "allow_code=true",
            "model.name=tests.nets.own_code:Small",
            "model.width=1",
            f"teacher={{model: {own}}}",
        ],
        methods=["alone", "svd"],
        seeds=[0],
        runs=tmp_path,
    )
    assert titles(planned) == ["alone seed 0", "svd seed 0"]


def test_a_run_that_is_there_whose_code_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change is told, with what to do in a comparison."""
    source = tmp_path / "swerving.py"
    source.write_text("from tests.nets.own_code import Small\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = [*TINY, "allow_code=true", "model.name=swerving:Small", "model.width=1"]
    run = jobs.train("digits/svd", overrides=settings, method="alone", runs=tmp_path / "runs")
    source.write_text("from tests.nets.own_code import Small\n\nSIGN = -1\n")
    with pytest.warns(SvdistillWarning, match=r"^1 of the runs .* other code: .*swerving\.py has .*, move them away"):
        planned = sweep.plan("digits/svd", overrides=settings, methods=["alone"], seeds=[0], runs=tmp_path / "runs")
    assert [(member.state, member.key) for member in planned.members] == [("finished", str(run.path))]
