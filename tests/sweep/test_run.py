"""Comparisons: what runs they consist of, what is refused, and that they go on after a kill."""

import json
from pathlib import Path

import pytest

from svdistill import jobs, recipes, sweep
from svdistill.errors import DataError, RecipeError
from svdistill.sweep import Comparison

OWN = ["model.width=0.1", "data.image_size=16", "data.train_size=20", "train.batch_size=10", "train.epochs=1"]
TINY = [*OWN, *(f"teacher.overrides.{setting}" for setting in OWN), "train.device=cpu"]


def plan(runs: Path, *overrides: str, **options: object) -> Comparison:
    """Plan a comparison of very small networks."""
    options = {"methods": ["alone", "svd"], "seeds": [0], **options}
    return sweep.plan("digits/svd", overrides=[*TINY, *overrides], runs=runs, **options)  # type: ignore[arg-type]


def titles(comparison: Comparison) -> list[str]:
    """What is trained, in order."""
    return [member.title for member in comparison.members]


def test_teachers_first_then_seed_by_seed(tmp_path: Path) -> None:
    """The one teacher is there once; all methods of a seed come before the next seed."""
    planned = plan(tmp_path, methods=["alone", "fsp", "svd"], seeds=[3, 1])
    assert titles(planned) == ["digits/teacher seed 0"] + [
        f"{method} seed {seed}" for seed in (3, 1) for method in ("alone", "fsp", "svd")
    ]
    assert len({member.key for member in planned.members}) == 7
    assert [member.recipe.seed for member in planned.members] == [0, 3, 3, 3, 1, 1, 1]
    assert list(tmp_path.iterdir()) == []


def test_an_axis_of_the_loss_leaves_other_methods_alone(tmp_path: Path) -> None:
    """A rank varies where there is one; elsewhere there is one run."""
    planned = plan(tmp_path, "loss.rank=[1,2]", methods=["alone", "fsp", "svd", "svd-soft-target"])
    assert planned.axes == {"loss.rank": (1, 2)}
    assert titles(planned)[1:] == [
        "alone seed 0",
        "fsp seed 0",
        "svd rank=1 seed 0",
        "svd-soft-target rank=1 seed 0",
        "svd rank=2 seed 0",
        "svd-soft-target rank=2 seed 0",
    ]
    ranks = [[loss.rank for loss in member.recipe.loss if loss.name == "svd"] for member in planned.members[1:]]
    assert ranks == [[], [], [1], [1], [2], [2]]


def test_a_setting_of_one_loss_spares_the_others(tmp_path: Path) -> None:
    """Also without varying, a setting of a loss reaches those that have it, by its own name or the loss's."""
    for setting in ("loss.beta=4", "loss.svd.beta=4"):
        planned = plan(tmp_path, setting, methods=["alone", "fsp", "svd"])
        assert [[getattr(loss, "beta", None) for loss in member.recipe.loss] for member in planned.members[1:]] == [
            [],
            [None],
            [4.0],
        ]


def test_axes_multiply_and_teachers_follow(tmp_path: Path) -> None:
    """Two axes give their product; a setting of the teacher gives each of its values a teacher, and none to alone."""
    planned = plan(tmp_path, "optimizer.lr=[0.1,0.2]", "teacher.overrides.optimizer.lr=[0.3,0.4]")
    teacher, lr = "teacher.overrides.optimizer.lr", "optimizer.lr"
    assert [(member.method, dict(member.axes)) for member in planned.members] == [
        ("teacher", {teacher: 0.3}),
        ("teacher", {teacher: 0.4}),
        ("alone", {lr: 0.1}),
        ("svd", {lr: 0.1, teacher: 0.3}),
        ("svd", {lr: 0.1, teacher: 0.4}),
        ("alone", {lr: 0.2}),
        ("svd", {lr: 0.2, teacher: 0.3}),
        ("svd", {lr: 0.2, teacher: 0.4}),
    ]


def test_a_list_setting_is_no_axis(tmp_path: Path) -> None:
    """A setting that takes a list keeps it; a list of lists varies it."""
    assert plan(tmp_path, "train.milestones=[0.5,0.75]").axes == {}
    assert plan(tmp_path, "train.milestones=[[0.5],[0.25,0.75]]").axes == {"train.milestones": ([0.5], [0.25, 0.75])}


def test_settings_of_the_transfer_spare_the_student_alone(tmp_path: Path) -> None:
    """Two stages and unlabelled images mean nothing to a student alone."""
    planned = plan(tmp_path, "train.first_stage=0.5", "data.unlabelled={name: rest, batch_size: 5}")
    alone, helped = planned.members[1].recipe, planned.members[2].recipe
    assert (alone.train.first_stage, alone.data.unlabelled) == (0, None)
    assert helped.train.first_stage == 0.5
    assert helped.data.unlabelled is not None


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
        (["modle.width=[1,2]"], {}, "modle: unknown key; did you mean 'model'"),
        (
            ["loss.rnk=2"],
            {"methods": ["alone", "fsp", "svd"]},
            "loss.rnk: unknown key for loss 'svd'; did you mean 'rank'",
        ),
        (["loss.rnk=[1,2]"], {}, "loss.rnk: unknown key for loss 'svd'; did you mean 'rank'"),
        (["loss.rank=[1,0]"], {}, "loss.rank: expected at least 1, got 0"),
        (["loss.rank=[]"], {}, "loss.rank: expected at least one value between the brackets"),
        (["loss.rank=2"], {"methods": ["alone", "fsp"]}, "loss.rank: means nothing to alone, fsp; leave it out or"),
        (["loss.rank=2"], {"methods": ["alone"]}, "loss.rank: means nothing to alone"),
        (["seed=3"], {}, "seed: the seeds are given beside the settings"),
        (["loss.name=fsp"], {}, "loss.name: the methods are given beside the settings"),
        (["teacher.recpe=x"], {"methods": ["alone"]}, "teacher.recpe: unknown key; did you mean 'recipe'"),
        (["data.image_size=[16,8]"], {"methods": ["attention"]}, "data.image_size"),
        (["data.name=[digits,digit]"], {}, "data.name: no 'digit'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    tmp_path: Path, overrides: list[str], options: dict[str, object], match: str
) -> None:
    """One line names the key or the method, and nothing is written."""
    with pytest.raises(RecipeError, match=match) as caught:
        plan(tmp_path, *overrides, **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_finished_runs_are_found_and_broken_ones_told(tmp_path: Path) -> None:
    """What is there is found; a damaged summary is a failure; other images of the same name are refused."""
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
    assert broken.state == "failed"
    assert "summary.json is damaged" in str(broken.error)

    noted = json.loads((alone.run.path / "data.json").read_text())
    (alone.run.path / "data.json").write_text(json.dumps({**noted, "labels": "other"}))
    with pytest.raises(DataError, match="was made with other images"):
        plan(tmp_path)


def test_a_teacher_that_is_gone_is_not_made_again_for_nothing(tmp_path: Path) -> None:
    """With all students there, the teacher is not needed; with one missing it is."""
    planned = plan(tmp_path, methods=["soft-target"])
    jobs.train(planned.members[1].recipe, runs=tmp_path)
    planned.members[0].run.path.rename(tmp_path / "gone")
    assert [member.state for member in plan(tmp_path, methods=["soft-target"]).members] == ["unneeded", "finished"]
    states = [member.state for member in plan(tmp_path, methods=["soft-target", "svd"]).members]
    assert states == ["new", "finished", "new"]


def test_compare_trains_everything(tmp_path: Path) -> None:
    """From Python: one call, the teacher first, and each run has its summary."""
    done = sweep.compare("digits/svd", overrides=TINY, methods=["alone", "svd"], seeds=[1], runs=tmp_path)
    assert [member.state for member in done.members] == ["finished"] * 3
    assert done.failed == []
    assert [member.summary["method"] for member in done.members if member.summary] == ["alone", "alone", "svd"]
    assert all(recipes.identity(member.recipe) == member.run.path.name for member in done.members)
