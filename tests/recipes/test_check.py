"""What does not fit together is found before work starts, and is one line."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.recipes.small import SMALL, checked, loaded, twelve_images

from svdistill import losses, nets, recipes
from svdistill.errors import RecipeError, ShapeError, SvdistillWarning
from svdistill.recipes import build, weights
from svdistill.recipes.check import check, check_parts
from svdistill.recipes.images import load_images, noise
from svdistill.recipes.losses import LOSSES

MAP_LOSSES = [name for name, kind in LOSSES.items() if kind.compares_taps]


def test_only_losses_that_read_maps_need_taps_that_pair_up() -> None:
    """Soft targets compare logits; one loss of maps beside them is enough to need the taps."""
    unlike = ["model.taps=[block1,block2]", "teacher.taps=[block1,block2,block3]"]
    assert checked(loaded("loss=soft-target", *unlike)) == ()
    recipe = loaded("loss=soft-target", *unlike)
    student, helper = (
        nets.create(f"vgg-bn-{n}", num_classes=10, in_channels=1, width=0.1) for n in ("student", "teacher")
    )
    whole = build.distiller(recipe, student, helper, teacher_recipe=recipes.teacher_of(recipe))
    assert whole(noise(twelve_images())).transfer is not None
    with pytest.raises(
        RecipeError, match=r"^model\.taps: the student has 2 taps and the teacher 3; .* the same number$"
    ):
        checked(loaded("loss=[soft-target,attention]", *unlike))


@pytest.mark.parametrize(
    ("loss", "override", "match"),
    [
        ("soft-target", "model.taps=[blok1]", r"^model\.taps: .* 'blok1'; did you mean 'block1'"),
        ("soft-target", "teacher.taps=[blok1]", r"^teacher\.taps: .* 'blok1'; did you mean 'block1'"),
        ("svd", "model.taps=[blok1,block2,block3]", r"^model\.taps: .* 'blok1'; did you mean 'block1'"),
        ("svd", "teacher.taps=[blok1,block2,block3]", r"^teacher\.taps: .* 'blok1'; did you mean 'block1'"),
    ],
)
def test_misspelt_taps_are_found_before_work(loss: str, override: str, match: str) -> None:
    """Also those that the loss does not compare."""
    with pytest.raises(RecipeError, match=match) as caught:
        checked(loaded(f"loss={loss}", override))
    assert "\n" not in str(caught.value)


def test_a_linear_probe_needs_an_output_layer() -> None:
    """Of a network that gives its features beside the logits it cannot be told which layer that is."""
    alone = ["loss=null", "teacher=null", "allow_code=true", "model.name=tests.nets.own_code:Small", "model.width=1"]
    probed = loaded(*alone, "train.linear_probe=true")
    assert checked(probed) == ()
    told = r"^train\.linear_probe: tests\.nets\.own_code:Small has no linear layer that gives its logits; take "
    with pytest.raises(RecipeError, match=told):
        checked(loaded(*alone, "model.arguments={named: true}", "train.linear_probe=true"))


def test_an_average_of_more_steps_than_there_are_is_refused() -> None:
    """Twelve images three at a time, twice: eight steps."""
    student = ["loss=null", "teacher=null", "train.batch_size=3", "train.epochs=2"]
    assert checked(loaded(*student, "train.ema=0.875")) == ()
    with pytest.raises(
        RecipeError, match=r"^train\.ema: 0\.9 averages about 10 steps, but there are 8; take a smaller"
    ):
        checked(loaded(*student, "train.ema=0.9"))


@pytest.mark.parametrize(
    ("loss", "taps"),
    [("fsp", "[block2,block4]"), ("attention", "[block4]"), ("[relational,attention]", "[block4]")],
)
def test_too_few_taps_with_positions_are_refused(loss: str, taps: str) -> None:
    """In one line that names what is left out and says what to do."""
    recipe = loaded(f"loss={loss}", f"model.taps={taps}", f"teacher.taps={taps}")
    with pytest.raises(
        RecipeError,
        match=r"^model\.taps: (fsp|attention) leaves out 'block4', a single position .* needs at least [12] ",
    ) as caught:
        checked(recipe)
    assert "larger data.image_size" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert checked(recipe, size=32) == ()


@pytest.mark.parametrize("loss", [*MAP_LOSSES, "{name: svd, basis: teacher}"])
def test_default_taps_suit_every_loss(loss: str) -> None:
    """Those in which a loss finds nothing to compare are left out, and the distiller says so."""
    recipe, parent = loaded(f"loss={loss}"), recipes.teacher_of(loaded())
    assert parent is not None
    assert checked(recipe) == ()
    student, teacher = build.model(recipe, twelve_images()), build.model(parent, twelve_images())
    whole = build.distiller(recipe, student, teacher, teacher_recipe=parent)
    whole.prepare(noise(twelve_images()))
    left_out = {loss: ("block4", "classifier.relu1")} if loss in ("fsp", "attention") else {}
    assert whole.left_out == left_out
    transfer = whole(noise(twelve_images())).transfer
    assert transfer is not None
    assert transfer.isfinite()


@pytest.mark.parametrize("own", ["classifier.output", "classifier"])
def test_logits_as_a_tap_are_warned_of(own: str) -> None:
    """By what they give, not by name, in one line for each network; the features before them are not."""
    features = ["model.taps=[block3,classifier.relu1]", "teacher.taps=[block3,classifier.relu2]"]
    assert checked(loaded(*features)) == ()
    logits = loaded(f"model.taps=[block3,{own}]", "teacher.taps=[block3,classifier.output]")
    with pytest.warns(SvdistillWarning) as caught:
        checked(logits)
    assert [str(one.message) for one in caught] == [
        f"tap {tap!r} of the {who} gives the logits, which wreck training as a tap; take the last hidden features, "
        "what the output layer reads, after their activation"
        for tap, who in ((own, "student"), ("classifier.output", "teacher"))
    ]


@pytest.mark.parametrize("loss", ["fitnet", "relational"])
def test_a_single_position_is_enough_for_others(loss: str) -> None:
    """A hint is regressed and images are related there as well."""
    assert checked(loaded(f"loss={loss}", "model.taps=[block4]", "teacher.taps=[block4]")) == ()


@pytest.mark.parametrize(("own", "theirs"), [("block3", "block4"), ("block4", "block3")])
def test_a_single_position_on_one_side_can_be_compared(own: str, theirs: str) -> None:
    """The other side has the positions; the widths differ, so that an adapter is made."""
    adapted = checked(loaded(f"model.taps=[block2,{own}]", f"teacher.taps=[block2,{theirs}]"))
    assert [a.tap for a in adapted] == [own]


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["loss={name: fitnet, hint: 5}"], r"^loss: hint is tap 5 of 5; choose 0 to 4"),
        (
            ["model.taps=[block1]", "teacher.taps=[block1]"],
            r"^model\.taps: svd relates neighbouring taps, .*\['block1'\]",
        ),
        (["loss=fsp", "model.taps=[block1]", "teacher.taps=[block1]"], r"^model\.taps: fsp relates neighbouring"),
    ],
)
def test_what_a_loss_cannot_compare(overrides: list[str], match: str) -> None:
    """Found before work."""
    with pytest.raises((RecipeError, ShapeError), match=match) as caught:
        checked(loaded(*overrides))
    assert "\n" not in str(caught.value)


def test_unequal_widths_are_told() -> None:
    """The check says which taps adapters will lift, for the losses that need it."""
    assert [tuple(a) for a in checked(loaded("model.width=0.2"))] == [
        ("block1", 13, 6), ("block2", 26, 13), ("block3", 51, 26), ("block4", 102, 51),
        ("classifier.relu1", 205, 102),
    ]  # fmt: skip
    assert checked(loaded("loss=attention", "model.width=0.2")) == ()


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        ("[svd,dkd]", r"^loss: DKD needs at least 3 classes, got 2: "),
        (
            "{name: soft-target, standardize: true}",
            r"^loss: logits can be standardized for at least 3 classes, got 2: ",
        ),
    ],
)
def test_two_classes_are_too_few_for_some(loss: str, match: str) -> None:
    """With two their loss would be that of soft targets, or teach nothing: one line, before work starts."""
    two = ["data.classes=['0','1']", "teacher.overrides.data.classes=['0','1']", "data.train_size=20"]
    recipe = loaded(f"loss={loss}", *two)
    parent, images = recipes.teacher_of(recipe), twelve_images(classes=2)
    with pytest.raises(ShapeError, match=match) as caught:
        check(recipe, images, teacher_recipe=parent, teacher_images=images)
    assert "\n" not in str(caught.value)
    for other in ("dist", "similarity", "pkt", "soft-target"):
        assert check(loaded(f"loss={other}", *two), images, teacher_recipe=parent, teacher_images=images) == ()


@pytest.mark.parametrize("by_file", [False, True])
def test_soft_targets_need_the_same_classes_in_the_same_order(tmp_path: Path, by_file: bool) -> None:
    """As many classes are not enough; losses of maps do not care."""
    order = ["data.classes=['1','0','2','3']", "data.train_size=40", "train.batch_size=4"]
    theirs = ["teacher.overrides.data.classes=['0','1','2','3']"]
    recipe = loaded(*order, *theirs)
    parent = recipes.teacher_of(recipe)
    assert parent is not None
    images, teacher_images = load_images(recipe), load_images(parent)
    options: dict[str, Any] = {"teacher_recipe": parent, "teacher_images": teacher_images}
    if by_file:
        path = tmp_path / "teacher.safetensors"
        weights.save(build.model(parent, teacher_images), path, recipe=parent, images=teacher_images)
        theirs, options = [f"teacher.checkpoint={path}"], {}
        order = [*SMALL[:3], *order]
    make = recipes.load if by_file else lambda _, given: loaded(*given)
    assert check(make("digits/svd", [*order, *theirs]), images, **options) == ()
    with pytest.raises(
        RecipeError, match=r"^teacher: its class '0' stands where the student's '1' does, but soft-target compares them"
    ):
        check(make("digits/svd", [*order, *theirs, "loss=[svd,soft-target]"]), images, **options)
    same = check(make("digits/svd", [*order, *theirs, "loss=soft-target"]), teacher_images, **options)
    assert same == ()


@pytest.mark.parametrize(
    ("loss", "extra", "told"),
    [
        ("soft-target", {}, ["its classes", "the mean and deviation of its images"]),
        ("soft-target", {"classes": json.dumps([str(i) for i in range(10)])}, ["the mean and deviation of its images"]),
        ("svd", {"mean": "[0.5]"}, ["the mean and deviation of its images"]),
        ("soft-target", {"mean": "[0.5]", "std": "[0.2]"}, ["its classes"]),
        ("svd", {"mean": "[0.5]", "std": "[0.2]"}, []),
    ],
)
def test_what_a_teachers_file_does_not_say_is_told(tmp_path: Path, loss: str, extra: Any, told: list[str]) -> None:
    """Only what the losses need, and what is done without it."""
    path, size = tmp_path / "own.safetensors", {"num_classes": 10, "in_channels": 1, "width": 0.1}
    nets.save(nets.create("vgg-bn-teacher", **size), path, name="vgg-bn-teacher", **size, extra=extra)
    recipe = recipes.load("digits/svd", [*SMALL[:3], f"teacher.checkpoint={path}", f"loss={loss}"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check(recipe, twelve_images())
    messages = [str(one.message) for one in caught if one.category is SvdistillWarning]
    assert len(messages) == bool(told)
    for message in messages:
        assert message.startswith(f"teacher.checkpoint: {path} does not name {told[0]}, ")
        assert all(one in message for one in told)
        assert message.count("are taken") == len(told)


def test_layouts_of_a_recipe() -> None:
    """One word for all taps or a list, of the student and of the teacher, whose own recipe may say it too."""
    plain, same = loaded(), ["model.layout=channels_first", "teacher.layout=[channels_first]"]
    assert plain.model.layout is None
    recipe = loaded("model.taps=[block1]", "teacher.taps=[block1]", "loss=attention", *same)
    assert build.layouts(recipe, recipes.teacher_of(recipe)) == ("channels_first", ("channels_first",))
    assert checked(recipe) == checked(loaded("model.taps=[block1]", "teacher.taps=[block1]", "loss=attention"))
    given = loaded("teacher.overrides.model.layout=channels_last")
    assert build.layouts(given, recipes.teacher_of(given)) == (None, "channels_last")
    assert (
        len({one.digest(teacher="t") for one in (plain, loaded(same[0]), loaded("teacher.layout=channels_last"))}) == 3
    )
    with pytest.raises(RecipeError, match=r"^teacher\.taps: .*2 layouts came for 5 taps"):
        checked(loaded("teacher.layout=[channels_first,channels_first]"))
    with pytest.raises(RecipeError, match=r"^model\.layout: expected channels_first or channels_last, or a list"):
        loaded("model.layout=nhwc")


@pytest.mark.parametrize(
    ("overrides", "processes", "message"),
    [
        (["train.batch_size=10"], 4, "train.batch_size: 10 images cannot be divided evenly over 4 processes; .*=8$"),
        (["train.batch_size=2"], 8, "take train.batch_size=8$"),
        (
            ["train.batch_size=10", "train.accumulate=3"],
            2,
            "over 2 processes and train.accumulate=3; take train.batch_size=12$",
        ),
        (["train.batch_size=10", "train.accumulate=4"], 1, "over train.accumulate=4; take train.batch_size=8$"),
        (
            ["train.batch_size=8", "data.train_size=40", "data.unlabelled={batch_size: 6}"],
            4,
            "data.unlabelled.batch_size: 6 images .*; take data.unlabelled.batch_size=8$",
        ),
    ],
)
def test_a_batch_that_cannot_be_divided_is_refused(overrides: list[str], processes: int, message: str) -> None:
    """With the nearest that can."""
    with pytest.raises(RecipeError, match=message):
        check_parts(loaded(*overrides), processes=processes)


def test_a_batch_that_can_be_divided_passes() -> None:
    """Over processes and parts."""
    check_parts(loaded("train.batch_size=24", "train.accumulate=3"), processes=4)


def test_parts_of_one_image_are_too_small_for_batch_norm() -> None:
    """As a batch of one is."""
    with pytest.raises(RecipeError, match=r"train.batch_size: batch norm cannot learn from 1 image"):
        checked(loaded("train.accumulate=4", "model.name=vgg-bn-student"), size=8)


@pytest.mark.parametrize(
    ("overrides", "processes", "together"),
    [
        (["train.batch_size=4"], 2, 2),
        (["train.batch_size=8", "train.accumulate=4"], 1, 2),
        (["train.batch_size=4", "data.train_size=10", "data.unlabelled={name: rest, batch_size: 8}"], 4, 3),
        (["train.batch_size=3"], 1, 3),
    ],
)
def test_too_few_images_to_relate_are_refused(overrides: list[str], processes: int, together: int) -> None:
    """Where a process and part has fewer than three, RKD is 0 whatever the networks are."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.rand(together, 4, 2, 2, generator=generator) for _ in range(2))
    idle = float(losses.relational_loss([ours], [theirs])) < 1e-6
    assert idle == (together < 3)
    recipe = loaded("loss=relational", *overrides)
    if idle:
        with pytest.raises(RecipeError, match=rf"^train\.batch_size: .* that is {together}; take at least 3"):
            checked(recipe, processes=processes)
    else:
        assert checked(recipe, processes=processes) == ()


@pytest.mark.parametrize(("loss", "least"), [("dist", 3), ("similarity", 2), ("pkt", 2)])
def test_so_are_too_few_for_other_losses(loss: str, least: int) -> None:
    """Two correlate perfectly, or perfectly not; one is alone."""
    with pytest.raises(RecipeError, match=rf"^train\.batch_size: {loss} .* that is {least - 1}; take at least {least}"):
        checked(loaded(f"loss={loss}", f"train.batch_size={least - 1}"))
    assert checked(loaded(f"loss={loss}", f"train.batch_size={least}")) == ()
