"""Which settings vary, and which mean something to which method."""

from pathlib import Path

import pytest
from tests.sweep.small import TINY, plan, titles

from svdistill import sweep
from svdistill.errors import RecipeError


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
    varied = plan(tmp_path, "train.milestones=[[0.5],[0.25,0.75]]", "train.epochs=4")
    assert varied.axes == {"train.milestones": ([0.5], [0.25, 0.75])}


def test_a_list_without_which_the_others_are_refused(tmp_path: Path) -> None:
    """Fewer epochs than the recipe's milestones stand beside lower milestones, whatever else varies."""
    own = tmp_path / "own.yaml"
    own.write_text("extends: digits/svd\ndescription: long\ntrain: {epochs: 200, milestones: [100, 150]}\n")
    fewer = [*TINY, "train.epochs=8", "train.milestones=[4,6]"]
    planned = sweep.plan(own, overrides=[*fewer, "train.batch_size=[5,10]"], methods=["alone", "svd"], runs=tmp_path)
    assert planned.axes == {"train.batch_size": (5, 10)}
    assert {member.recipe.train.milestones for member in planned.members[1:]} == {(4, 6)}
    with pytest.raises(RecipeError, match=r"train\.milestones: 150 is not below the 8"):
        sweep.plan(own, overrides=fewer[:-1], methods=["alone"], runs=tmp_path)


def test_lists_that_belong_together_are_no_axes(tmp_path: Path) -> None:
    """A mean is accepted only with a deviation; beside them another setting may vary."""
    planned = plan(tmp_path, "model.mean=[0.3]", "optimizer.lr=[0.1,0.2]", "model.std=[0.4]")
    assert planned.axes == {"optimizer.lr": (0.1, 0.2)}
    assert {(member.recipe.model.mean, member.recipe.model.std) for member in planned.members[1:]} == {((0.3,), (0.4,))}


def test_settings_of_the_transfer_spare_the_student_alone(tmp_path: Path) -> None:
    """Two stages and unlabelled images mean nothing to a student alone."""
    planned = plan(tmp_path, "train.first_stage=0.5", "data.unlabelled={name: rest, batch_size: 5}")
    bounds = plan(tmp_path, "train.first_stage=0.5", "train.first_stage_norm=[1,3]")
    assert titles(bounds)[1:] == ["alone seed 0", "svd first_stage_norm=1 seed 0", "svd first_stage_norm=3 seed 0"]
    alone, helped = planned.members[1].recipe, planned.members[2].recipe
    assert (alone.train.first_stage, alone.data.unlabelled) == (0, None)
    assert helped.train.first_stage == 0.5
    assert helped.data.unlabelled is not None


def test_a_first_stage_that_counts_spares_methods_without_one(tmp_path: Path) -> None:
    """They are the runs that they are without it; the other is as long as they are."""
    methods = ("alone", "fsp", "svd-recommended")
    plain, counted = (
        plan(tmp_path, "train.epochs=30", *more, methods=methods) for more in ((), ("train.first_stage_counts=true",))
    )
    same = [one.key == other.key for one, other in zip(plain.members[1:], counted.members[1:], strict=True)]
    assert same == [True, True, False]
    train = counted.members[3].recipe.train
    assert (train.first_stage_epochs, train.main_epochs) == (10, 20)


@pytest.mark.parametrize(
    ("overrides", "options", "match"),
    [
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
        (["train.capture=[on,off]"], {}, "train.capture: runs are not told apart by it"),
        (
            ["teacher.overrides.train.capture=[on,off]"],
            {"methods": ["svd"]},
            "teacher.overrides.train.capture: runs are not told apart by it",
        ),
        (
            ["data.unlabelled=[{name: image-folder, root: a},{name: image-folder, root: b}]"],
            {},
            "data.unlabelled.root: runs are not told apart by it",
        ),
        (["train.gamma=[0.2,0.5]"], {}, r"train.gamma: 0.2 and 0.5 come to the same run, .*; give one value"),
        (
            ["train.first_stage_counts=[true,false]"],
            {"methods": ["alone", "svd"]},
            "train.first_stage_counts: true and",
        ),
        (
            ["loss.bound=[1,2]", "loss.clip=own_norm", "train.first_stage=1"],
            {"methods": ["svd"]},
            "loss.bound: 1 and 2 come to the same run",
        ),
    ],
)
def test_wrong_settings(tmp_path: Path, overrides: list[str], options: dict[str, object], match: str) -> None:
    """One line names the key, and nothing is written."""
    with pytest.raises(RecipeError, match=match) as caught:
        plan(tmp_path, *overrides, **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_matters_to_one_method_or_beside_one_value_may_vary(tmp_path: Path) -> None:
    """A factor of milestones where some runs have milestones, and the length of stages where a method has two."""
    gamma = plan(tmp_path, "train.gamma=[0.2,0.5]", "train.milestones=[[],[0.5]]", "train.epochs=4", methods=["alone"])
    assert len({member.run.path for member in gamma.members if member.method == "alone"}) == 3
    options = {"methods": ["alone", "svd-two-stage"], "seeds": [0]}
    counts = plan(tmp_path, "train.first_stage_counts=[true,false]", "train.epochs=4", **options)
    paths = [[member.run.path for member in counts.members if member.method == name] for name in counts.methods]
    assert [len(set(one)) for one in paths] == [1, 2]
