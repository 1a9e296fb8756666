"""The bounds of a recipe's settings and the digest that names a run."""

from collections.abc import Iterator
from pkgutil import resolve_name
from typing import Any

import pytest
from pydantic import BaseModel

from svdistill import recipes
from svdistill.errors import RecipeError
from svdistill.recipes.losses import LOSSES
from svdistill.recipes.schema import Recipe


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("optimizer.lr=0", r"^optimizer\.lr: expected more than 0, got 0$"),
        ("optimizer.lr=.nan", r"^optimizer\.lr: expected a finite number"),
        ("optimizer.momentum=1.0", r"^optimizer\.momentum: expected less than 1"),
        ("optimizer.weight_decay=-1", r"^optimizer\.weight_decay: expected at least 0"),
        ("train.epochs=0", r"^train\.epochs: expected at least 1, got 0$"),
        ("train.epochs=2.5", r"^train\.epochs: expected a whole number, got 2\.5$"),
        ("train.epochs=true", r"^train\.epochs: expected a whole number, got True$"),
        ("train.batch_size=0", r"^train\.batch_size: expected at least 1"),
        ("train.batch_size=101", r"^train\.batch_size: 101 is more than the 50 images of data\.train_size$"),
        ("train.milestones=[0.5,0.2]", r"^train\.milestones: must rise"),
        ("train={recompute: true, compile: true}", r"^train\.recompute: a compiled network decides by itself"),
        (
            "train.milestones=[600]",
            r"^train\.milestones: 600 is not below the 150 of train.epochs; take lower ones, or fractions of",
        ),
        ("train.milestones=[a]", r"^train\.milestones: each is an epoch .* got 'a'$"),
        ("train.milestones=3", r"^train\.milestones: expected a list"),
        ("train.schedule=cosin", r"^train\.schedule: no 'cosin'; expected 'steps' or 'cosine'$"),
        ("train.warm_up=150", r"^train\.warm_up: 150 epochs is not below the 150 of train.epochs; take a shorter one$"),
        ("train={warm_up: 0.9, epochs: 2}", r"^train\.warm_up: 0\.9 of the epochs, rounded up to 2 epochs, is not be"),
        ("train={warm_up: 3, milestones: [3]}", r"^train\.warm_up: 3 epochs would end after the rate falls, at 3; "),
        ("train.warm_up=-1", r"^train\.warm_up: expected epochs \(1, 2, …\), a fraction .* or 0 for none; got -1$"),
        ("train.label_smoothing=1", r"^train\.label_smoothing: expected less than 1, got 1$"),
        ("train.label_smoothing=-0.1", r"^train\.label_smoothing: expected at least 0"),
        ("train.ema=1", r"^train\.ema: expected less than 1, got 1$"),
        ("train.ema=0", r"^train\.ema: expected more than 0, got 0$"),
        ("data.validation=1", r"^data\.validation: expected less than 1, got 1$"),
        (
            "data={validation: 0.1, task: rotation}",
            r"^data\.validation: with task=rotation an image would be trained on ",
        ),
        ("train.warm_up=1.5", r"^train\.warm_up: expected epochs"),
        ("train.device=gpu", r"^train\.device: expected 'auto', 'cpu', 'cuda' or 'cuda:N', got 'gpu'$"),
        ("model.width=0", r"^model\.width: expected more than 0"),
        ("model.taps=[]", r"^model\.taps: expected at least 1 entries"),
        ("model=vgg", r"^model: expected settings of its own"),
        ("data.train_size=0", r"^data\.train_size: expected at least 1"),
        ("data.augment.shift=-1", r"^data\.augment\.shift: expected at least 0"),
        ("data.augment.flip=1", r"^data\.augment\.flip: expected true or false, got 1$"),
        ("loss.rank=65537", r"^loss\.rank: expected at most 65536, got 65537$"),
        ("loss.rank=99999999999999999999999", r"^loss\.rank: expected at most 65536, got 9{23}$"),
        ("train.epochs=1000001", r"^train\.epochs: expected at most 1e\+06"),
        ("train.batch_size=99999999999999999999999", r"^train\.batch_size: expected at most 1e\+06"),
        ("optimizer.lr=1e300", r"^optimizer\.lr: expected at most 1e\+09"),
        ("loss.weight=1e300", r"^loss\.weight: expected at most 1e\+09"),
        ("train.device=cuda:99999999999", r"^train\.device: expected 'auto'"),
        ("loss.rank=0", r"^loss\.rank: expected at least 1"),
        ("loss.beta=0", r"^loss\.beta: expected more than 0"),
        ("loss.clip=globl", r"^loss\.clip: no 'globl'; expected 'per_variable' or 'global'"),
        ("loss.name=sdv", r"^loss\.name: no 'sdv'; expected 'svd' or 'soft-target' or 'fitnet' or 'fsp'"),
        ("teacher.views=0", r"^teacher\.views: expected at least 1"),
        ("teacher.live=true", r"^teacher\.live: without 'views' the teacher runs in every step anyway"),
        ("seed=-1", r"^seed: expected at least 0"),
        ("seed=x", r"^seed: expected a whole number, got 'x'$"),
        ("loss=null", r"^teacher: a teacher without 'loss'"),
        ("teacher=null", r"^loss: a transfer loss without 'teacher'"),
        ("name=../x", r"^name: expected letters"),
    ],
)
def test_out_of_range(override: str, match: str) -> None:
    """Every wrong value is one line that begins with its dotted key."""
    with pytest.raises(RecipeError, match=match) as caught:
        recipes.load("digits/svd", [override])
    assert "\n" not in str(caught.value)


def test_teacher_has_one_source() -> None:
    """A teacher is a recipe or a checkpoint, neither both nor none."""
    plain = recipes.load("digits/svd").to_dict()
    plain["teacher"]["checkpoint"] = "a.safetensors"
    with pytest.raises(RecipeError, match=r"^teacher: give one of .*; 'recipe' and 'checkpoint' are given"):
        recipes.validate(plain)
    plain["teacher"] = {"taps": ["block1"]}
    with pytest.raises(RecipeError, match=r"none of .* is given"):
        recipes.validate(plain)
    plain["teacher"] = {"checkpoint": "a.safetensors", "overrides": {"seed": 1}}
    with pytest.raises(RecipeError, match="a checkpoint is taken as it is"):
        recipes.validate(plain)


@pytest.mark.parametrize(
    ("milestones", "epochs", "expected"),
    [
        ("[0.5,0.75]", 120, (60, 90)),
        ("[0.5,0.75]", 3, (2,)),
        ("[0.5]", 1, ()),
        ("[2,5]", 6, (2, 5)),
        ("[2,0.9]", 9, (2,)),
    ],
)
def test_milestone_epochs(milestones: str, epochs: int, expected: tuple[int, ...]) -> None:
    """Fractions follow the number of epochs, rounded up; one that falls on the end is left out."""
    recipe = recipes.load("digits/teacher", [f"train.milestones={milestones}", f"train.epochs={epochs}"])
    assert recipe.train.milestone_epochs == expected


def test_round_trip() -> None:
    """The plain form of a recipe validates to the same recipe."""
    for name in recipes.names():
        recipe = recipes.load(name)
        assert recipes.validate(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "train.device=cpu",
        "train.compile=true",
        "train.channels_last=true",
        "train.recompute=true",
        "train.checkpoint_minutes=1",
        "teacher.shard=true",
        "data.root=/x",
        "name=mine",
    ],
)
def test_digest_leaves_out(override: str) -> None:
    """The seed, names and what only says where and how fast do not change the digest."""
    assert recipes.load("digits/svd", [override]).digest() == recipes.load("digits/svd").digest()


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=0.5",
        "train.precision=bf16-mixed",
        "train.accumulate=2",
        "loss.rank=2",
        "data.augment.shift=2",
        "model.width=1.0",
    ],
)
def test_digest_covers(override: str) -> None:
    """What changes the result changes the digest."""
    assert recipes.load("digits/svd", [override]).digest() != recipes.load("digits/svd").digest()


def test_digest_covers_the_teacher() -> None:
    """Another teacher is another experiment, even under the same name."""
    recipe = recipes.load("digits/svd")
    assert recipe.digest(teacher="0-a") != recipe.digest(teacher="0-b")


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["loss=[svd,svd]"], "^loss: each may be there once, got svd, svd$"),
        (
            ["loss=[svd,{name: fsp, clip: global}]"],
            "^loss: one rule of clipping serves all, got global and per_variable$",
        ),
        (
            ["loss=[{name: svd, clip: own_norm, bound: 2},{name: fsp, clip: own_norm}]"],
            "^loss.bound: one bound serves all losses of a sum, got several; give each the same$",
        ),
        (["loss.bound=0"], r"^loss\.bound: expected more than 0, got 0$"),
        (["loss=[]"], "^teacher: a teacher without 'loss'"),
        (["loss.stage=first"], r"^loss\.stage: 'svd' names a stage, but there is one; give train\.first_stage$"),
        (["loss.stage=second", "train.first_stage=3"], r"^train\.first_stage: no loss takes part in it"),
        (
            ["loss.stage=third", "train.first_stage=3"],
            r"^loss\.stage: no 'third'; expected 'first' or 'second' or 'both'",
        ),
        (["teacher=null", "loss=null", "train.first_stage=3"], r"^train\.first_stage: no loss takes part in it"),
        (
            ["train.linear_probe=true"],
            r"^train\.linear_probe: svd compares .* the output layer does not change; give train\.first_stage too",
        ),
        (
            ["train.linear_probe=true", "loss=[svd,{name: fsp, stage: second}]", "train.first_stage=2"],
            r"^train\.linear_probe: fsp compares feature maps, .*; take loss\.stage=first, or train",
        ),
        (["train.linear_probe=3"], r"^train\.linear_probe: expected settings of its own"),
        (["train.linear_probe.lr=0"], r"^train\.linear_probe\.lr: expected more than 0, got 0$"),
        (["train.linear_probe.rate=1"], r"^train\.linear_probe\.rate: unknown key"),
        (["train.first_stage=1.5"], r"^train\.first_stage: expected epochs .* a fraction of them .*; got 1\.5$"),
        (["train.first_stage=-1"], r"^train\.first_stage: .* got -1$"),
        (["train.first_stage=true"], r"^train\.first_stage: .* got True$"),
        (["train.first_stage=half"], r"^train\.first_stage: .* got 'half'$"),
        (["train.first_stage_norm=0"], r"^train\.first_stage_norm: expected more than 0"),
        (["train.evaluate_every=0"], r"^train\.evaluate_every: expected at least 1"),
        (
            ["data.train_size=null", "data.unlabelled={}"],
            r"^data\.unlabelled: 'rest' are the images .*; give data\.train_size",
        ),
        (
            ["teacher=null", "loss=null", "data.unlabelled={}"],
            r"^data\.unlabelled: only a transfer loss learns from it",
        ),
        (
            ["data.unlabelled={root: /pictures}"],
            r"^data\.unlabelled\.root: 'rest' are images of the labelled ones' folder; give data\.unlabelled\.name=",
        ),
        (["data.unlabelled.size=0"], r"^data\.unlabelled\.size: expected at least 1"),
        (["data.unlabelled.batch_size=0"], r"^data\.unlabelled\.batch_size: expected at least 1"),
        (["data.unlabelled.sise=1"], r"^data\.unlabelled\.sise: unknown key; did you mean 'size'"),
        (["data.unlabelled=rest"], r"^data\.unlabelled: expected settings of its own"),
        (["data.classes=[]"], r"^data\.classes: expected a list of class names"),
        (["data.classes=[1]"], r"^data\.classes: expected a list of class names.*; got \[1\]: names .* need quotes"),
        (["model.drop_tokens=-1"], r"^model\.drop_tokens: expected at least 0"),
        (["teacher.drop_tokens=-1"], r"^teacher\.drop_tokens: expected at least 0"),
        (["loss.extra=-1"], r"^loss\.extra: expected at least 0"),
        (["loss={name: fitnet, hint: -1}"], r"^loss\.hint: expected at least 0"),
        (["loss=[svd,dkd]", "loss.dkd.beta=-1"], r"^loss\.beta: expected at least 0"),
        (["loss={name: dist, gamma: -1}"], r"^loss\.gamma: expected at least 0"),
        (["loss={name: soft-target, standardize: 2}"], r"^loss\.standardize: expected true or false"),
        (
            ["loss={name: dkd, warm_up: half}"],
            r"^loss\.warm_up: expected epochs \(1, 2, …\), .* got 'half'$",
        ),
        (
            ["loss={name: dkd, warm_up: 9}", "train.epochs=8"],
            r"^loss\.warm_up: 9 epochs are more than the 8 of a stage in which dkd takes part",
        ),
        (
            ["loss={name: svd, stage: both, warm_up: 3}", "train.epochs=8", "train.first_stage=2"],
            r"^loss\.warm_up: 3 epochs are more than the 2 of a stage in which svd takes part",
        ),
        (["loss={name: attention, power: 0.5}"], r"^loss\.power: expected at least 1"),
        (["loss={name: relational, angle: -1}"], r"^loss\.angle: expected at least 0"),
    ],
)
def test_what_does_not_fit_together(overrides: list[str], match: str) -> None:
    """Stages, sums of losses and images without labels: one line that begins with its key."""
    with pytest.raises(RecipeError, match=match) as caught:
        recipes.load("digits/svd", overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("first", "epochs", "expected"),
    [
        ("0", 150, 0),
        ("0.0", 150, 0),
        ("40", 150, 40),
        ("0.25", 150, 38),
        ("0.25", 8, 2),
        ("0.001", 2, 1),
        ("0.1", 30, 3),
    ],
)
def test_first_stage_epochs(first: str, epochs: int, expected: int) -> None:
    """A fraction of the epochs of the main task, rounded up; a whole number as it is; 0 is one stage."""
    recipe = recipes.load("digits/svd", [f"train.first_stage={first}", f"train.epochs={epochs}"])
    assert recipe.train.first_stage_epochs == expected
    assert recipe.method == ("svd-two-stage" if expected else "svd")


@pytest.mark.parametrize(
    ("first", "epochs", "expected"),
    [
        ("0", 30, (0, 30)),
        ("0.5", 30, (10, 20)),
        ("0.25", 30, (6, 24)),
        ("0.5", 8, (3, 5)),  # 5 and half of 5 are not more than 8
        ("0.5", 2, (1, 1)),
        ("0.001", 2, (1, 1)),
        ("0.1", 33, (3, 30)),
        ("7", 30, (7, 23)),
    ],
)
def test_a_first_stage_that_counts(first: str, epochs: int, expected: tuple[int, int]) -> None:
    """Both stages together are as long as is said, and a fraction is still one of the main task's epochs."""
    settings = [f"train.first_stage={first}", f"train.epochs={epochs}", "train.first_stage_counts=true"]
    train = recipes.load("digits/svd", settings).train
    assert (train.first_stage_epochs, train.main_epochs) == expected
    plain = recipes.load("digits/svd", settings[:2]).train
    assert plain.main_epochs == epochs


def test_what_a_first_stage_that_counts_must_leave() -> None:
    """Epochs for the main task, and its milestones and warm-up within them; without a first stage it says nothing."""
    counts = "train.first_stage_counts=true"
    for first, epochs in (("0.5", 1), ("4", 4), ("5", 4)):
        with pytest.raises(RecipeError, match=rf"^train\.first_stage: {first} leaves the main task none of {epochs}"):
            recipes.load("digits/svd", [f"train.first_stage={first}", f"train.epochs={epochs}", counts])
    for late in ("milestones=[20]", "warm_up=20"):
        with pytest.raises(RecipeError, match=r"20.* is not below the 20 epochs that the first stage leaves"):
            recipes.load("digits/svd", ["train.first_stage=0.5", "train.epochs=30", f"train.{late}", counts])
    one = recipes.load("digits/svd")
    assert recipes.load("digits/svd", [counts]).digest() == one.digest()
    two = [recipes.load("digits/svd", ["train.first_stage=0.5", *more]).digest() for more in ((), (counts,))]
    assert len({one.digest(), *two}) == 3


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("eccv2018", {"rank": 1, "extra": 1, "assignment": "argmax", "gradient": "paper", "clip": "per_variable"}),
        ("poster", {"rank": 2, "extra": 1, "assignment": "argmax", "gradient": "paper", "clip": "poster"}),
        ("kd-methods", {"rank": 1, "extra": 3, "scaled": False, "gradient": "paper", "clip": "per_variable"}),
        ("teacher-basis", {"rank": 1, "basis": "teacher", "scaled": True, "clip": "per_variable"}),
    ],
)
def test_presets(preset: str, expected: dict[str, object]) -> None:
    """Each source's settings, summed over the batch, lie below what the recipe says itself, and are written out."""
    recipe = recipes.load("digits/soft-target", [f"loss={{name: svd, preset: {preset}}}"])
    settings = recipe.to_dict()["loss"]
    assert {key: settings[key] for key in expected} == expected
    assert (settings["reduction"], settings["preset"], recipe.method) == ("sum", preset, f"svd-{preset}")
    own = recipes.load("digits/soft-target", [f"loss={{name: svd, preset: {preset}, rank: 5, clip: global}}"])
    assert (own.to_dict()["loss"]["rank"], own.to_dict()["loss"]["clip"]) == (5, "global")


def test_plain_form_of_no_loss_one_and_several() -> None:
    """As one would write it: null, settings, a list."""
    assert recipes.load("digits/student").to_dict()["loss"] is None
    assert recipes.load("digits/svd").to_dict()["loss"]["name"] == "svd"
    several = recipes.load("digits/svd", ["loss=[svd,fsp]"])
    assert [loss["name"] for loss in several.to_dict()["loss"]] == ["svd", "fsp"]
    assert recipes.validate(several.to_dict()) == several


FULL = [
    "loss=[svd,{name: fitnet, hint: 1, stage: both},{name: soft-target, stage: second}]",
    "train.first_stage=0.5",
    "train.evaluate_every=3",
    "data.unlabelled={name: fashion-mnist, root: /more, size: 50, batch_size: 7}",
    "data.classes=['1','2','3']",
    "model.drop_tokens=1",
    "teacher.drop_tokens=0",
    "teacher.taps=[block1,block2,block3]",
]


def test_round_trip_of_everything() -> None:
    """Sums, stages, images without labels, classes and tokens survive being written down."""
    recipe = recipes.load("digits/svd", FULL)
    assert recipes.validate(recipe.to_dict()) == recipe
    assert recipes.validate(recipe.to_dict()).digest(teacher="a") == recipe.digest(teacher="a")


@pytest.mark.parametrize("override", ["data.unlabelled.root=/elsewhere", "description=other", "data.root=/elsewhere"])
def test_digest_of_everything_leaves_out(override: str) -> None:
    """Where images without labels lie does not matter either."""
    assert recipes.load("digits/svd", [*FULL, override]).digest() == recipes.load("digits/svd", FULL).digest()


@pytest.mark.parametrize(
    "override",
    [
        "loss.svd.extra=2",
        "loss.fitnet.hint=2",
        "loss.soft-target.stage=both",
        "loss=[svd]",
        "train.first_stage=0.25",
        "train.label_smoothing=0.1",
        "train.ema=0.9",
        "data.validation=0.1",
        "train.first_stage_norm=null",
        "data.unlabelled={name: rest, root: null}",
        "data.unlabelled.size=51",
        "data.unlabelled.batch_size=8",
        "data.unlabelled=null",
        "data.classes=['1','3','2']",
        "model.drop_tokens=0",
        "teacher.drop_tokens=1",
        "teacher.taps=[block1,block2,block4]",
    ],
)
def test_digest_of_everything_covers(override: str) -> None:
    """Each of them changes the result."""
    more = ["loss.svd.stage=first"] if override == "loss=[svd]" else []
    assert recipes.load("digits/svd", [*FULL, override, *more]).digest() != recipes.load("digits/svd", FULL).digest()


def test_there_is_a_main_loss_to_smooth() -> None:
    """A loss of the other stage may leave it out."""
    smoothing, without = "train.label_smoothing=0.1", "loss.main_weight=0"
    with pytest.raises(RecipeError, match=r"^train\.label_smoothing: it is of the main loss, whose weight is 0; give "):
        recipes.load("digits/svd", [smoothing, without])
    assert recipes.load("digits/svd", [smoothing, without, "train.first_stage=2"]).main_weight == 1
    with pytest.raises(RecipeError, match=r"^train\.label_smoothing"):
        recipes.load("digits/svd", [smoothing, without, "train.first_stage=2", "loss.stage=both"])


@pytest.mark.parametrize(
    "settings",
    [
        ["train.epochs=50", "train.milestones=[100,150]"],
        ["train.epochs=50", "train.milestones=[30]", "train.warm_up=30"],
        ["train.epochs=50", "train.milestones=[40]", "train.first_stage=0.5", "train.first_stage_counts=true"],
        ["train.epochs=50", "train.milestones=[60]", "train.first_stage=10", "train.linear_probe=true"],
        ["train.milestones=[0.5,3]"],
    ],
)
def test_a_cosine_takes_any_milestones(settings: list[str]) -> None:
    """They mean nothing to it, wherever they lie."""
    with pytest.raises(RecipeError, match=r"^train\.(milestones|warm_up): "):
        recipes.load("digits/svd", settings)
    assert recipes.load("digits/svd", ["train.schedule=cosine", *settings]).train.milestone_epochs == ()


def test_digest_of_schedules() -> None:
    """A warm-up and a cosine are other experiments; milestones and their factor are nothing to a cosine."""
    cosine = ["train.schedule=cosine"]
    digests = [recipes.load("digits/svd", more).digest() for more in ([], cosine, [*cosine, "train.warm_up=5"])]
    assert len(set(digests)) == 3
    other = recipes.load("digits/svd", [*cosine, "train.gamma=0.5", "train.milestones=[3]", "train.epochs=150"])
    assert other.digest() == digests[1]
    assert other.train.milestone_epochs == ()
    without = "train.milestones=[]"
    assert (
        recipes.load("digits/svd", [without, "train.gamma=0.5"]).digest()
        == recipes.load("digits/svd", [without]).digest()
    )


@pytest.mark.parametrize("override", ["loss.clip=none", "loss.bound=2", "loss.main_weight=0.5"])
def test_digest_of_a_loss_of_the_first_stage_alone(override: str) -> None:
    """How it would be combined with a main gradient tells no runs apart, unless it meets one."""
    common = ["loss.clip=own_norm", "train.first_stage=2"]
    assert recipes.load("digits/svd", common).digest() == recipes.load("digits/svd", [*common, override]).digest()
    both = [*common, "loss.stage=both"]
    assert recipes.load("digits/svd", both).digest() != recipes.load("digits/svd", [*both, override]).digest()


def test_digest_does_not_see_defaults() -> None:
    """A default that is written out names no other run."""
    written = [
        "loss.beta=8",
        "train.schedule=steps",
        "train.warm_up=0",
        "train.label_smoothing=0",
        "train.ema=null",
        "data.validation=null",
        "train.evaluate_every=1",
        "model.drop_tokens=0",
        "data.unlabelled=null",
    ]
    assert recipes.load("digits/svd", written).digest() == recipes.load("digits/svd").digest()


def test_fixed_views() -> None:
    """They and a teacher that runs all the same are other experiments; views of nothing that varies are refused."""
    digests = {
        recipes.identity(recipes.load("digits/svd", overrides))
        for overrides in ([], ["teacher.views=4"], ["teacher.views=8"], ["teacher.views=4", "teacher.live=true"])
    }
    assert len(digests) == 4
    assert recipes.identity(recipes.load("digits/svd", ["teacher.views=null", "teacher.live=false"])) in digests
    still = ["data.augment={rotation: 0, shift: 0}"]
    with pytest.raises(RecipeError, match=r"^teacher\.views: data\.augment varies nothing, so that all 4 views"):
        recipes.load("digits/svd", [*still, "teacher.views=4"])
    assert recipes.load("digits/svd", [*still, "teacher.views=1"]).teacher.stored
    assert not recipes.load("digits/svd", ["teacher.views=1", "teacher.live=true"]).teacher.stored


@pytest.mark.parametrize(
    ("loss", "digest_of_shorter_taps"), [(None, "3875fb0fcf"), ("soft-target", "2aecdc2751"), ("svd", "f72b0f9b60")]
)
def test_digest_tells_a_networks_own_taps_from_what_they_were(loss: str | None, digest_of_shorter_taps: str) -> None:
    """They ended before the last features once; only where taps are compared is the result another one now."""
    settings: dict[str, Any] = {
        "name": "x",
        "data": {"name": "digits"},
        "model": {"name": "vgg-bn-student"},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "train": {"epochs": 2},
    }
    if loss is not None:
        settings |= {"loss": loss, "teacher": {"recipe": "digits/teacher"}}
    digest = recipes.validate(settings).digest(teacher=None if loss is None else "t")
    assert (digest == digest_of_shorter_taps) == (loss != "svd")


def test_which_losses_compare_taps() -> None:
    """The settings, which know no torch, say what the losses themselves say."""
    for settings in LOSSES.values():
        assert settings.compares_taps == (resolve_name(settings.makes).reads == "maps")


def test_every_number_is_bounded() -> None:
    """No setting takes a number that no machine, or no float32, can hold."""

    def settings(model: type[BaseModel]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, shape in model.model_json_schema().get("$defs", {}).items():
            yield from ((f"{name}.{key}", one) for key, one in shape.get("properties", {}).items())
        yield from model.model_json_schema()["properties"].items()

    numbers = [
        (name, form)
        for name, one in settings(Recipe)
        for form in [one, *one.get("anyOf", ())]
        if form.get("type") in ("integer", "number") and "const" not in form and "enum" not in form
    ]
    assert len(numbers) > 30
    assert [name for name, form in numbers if not form.keys() & {"maximum", "exclusiveMaximum"}] == []
