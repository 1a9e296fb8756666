"""Settings become objects: losses, stages, taps, batches with and without labels, and what does not fit is a line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from svdistill import data, losses, nets, recipes, training
from svdistill.errors import RecipeError, ShapeError
from svdistill.recipes import Recipe, build

SMALL = ["model.width=0.1", "train.batch_size=4", "data.train_size=null", "teacher.overrides.model.width=0.1"]


def loaded(*overrides: str, name: str = "digits/svd") -> Recipe:
    """Load a recipe of very small networks."""
    return recipes.load(name, [*SMALL, *overrides])


def noise(size: int = 16, *, classes: int = 10, seed: int = 0) -> build.Images:
    """Twelve images of noise."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (12, 1, size, size), generator=generator, dtype=torch.uint8)
    images = data.ImageSet(pixels, torch.arange(12) % classes, tuple(map(str, range(classes))))
    return build.Images(images, images, *data.channel_statistics(images))


def checked(recipe: Recipe, size: int = 16, *, processes: int = 1) -> tuple[Any, ...]:
    """Check a recipe against images of noise."""
    parent = recipes.teacher_of(recipe)
    theirs = None if parent is None else noise(size)
    return build.check(recipe, noise(size), teacher_recipe=parent, teacher_images=theirs, processes=processes)


# Losses and stages


def test_settings_reach_the_losses() -> None:
    """Each loss is made with what the recipe says, in its order and under its name."""
    settings = (
        "{name: svd, rank: 3, beta: 2, extra: 0, scaled: false, basis: teacher, reduction: mean, gradient: paper}",
        "{name: soft-target, temperature: 2}",
        "{name: fitnet, hint: 1}",
        "{name: fsp}",
        "{name: attention, power: 3}",
        "{name: relational, distance: 1, angle: 0}",
    )
    made = build.losses(loaded(f"loss=[{','.join(settings)}]"))
    assert list(made) == ["svd", "soft-target", "fitnet", "fsp", "attention", "relational"]
    expected = (
        losses.SVDLoss(3, 2.0, extra=0, scaled=False, basis="teacher", reduction="mean", gradient="paper"),
        losses.SoftTargetLoss(2.0),
        losses.FitNetLoss(1),
        losses.FSPLoss(),
        losses.AttentionLoss(3.0),
        losses.RelationalLoss(1.0, 0.0),
    )
    assert [repr(loss) for loss in made.values()] == [repr(loss) for loss in expected]


@pytest.mark.parametrize("preset", recipes.PRESETS)
def test_presets_are_those_of_the_losses(preset: str) -> None:
    """A preset in a recipe gives the loss with these options; its rule of clipping is the step's."""
    recipe = recipes.load("digits/soft-target", [f"loss={{name: svd, preset: {preset}}}"])
    options = {key: value for key, value in recipes.PRESETS[preset].items() if key != "clip"}
    assert repr(build.losses(recipe)["svd"]) == repr(losses.SVDLoss(**options))


def test_one_stage() -> None:
    """All losses with their weights; those without a bound stand beside the main task; main weights are multiplied."""
    sum_of_three = (
        "loss=[{name: svd, weight: 5, main_weight: 0.5},{name: soft-target, weight: 2, main_weight: 0.4},attention]"
    )
    (stage,) = build.stages(loaded(sum_of_three, "train.epochs=8", "train.milestones=[0.5]", "train.gamma=0.3"))
    assert (stage.epochs, stage.milestones, stage.gamma) == (8, (4,), 0.3)
    objective = stage.objective
    assert objective.main == pytest.approx(0.2)
    assert objective.weights == {"svd": 5, "soft-target": 2, "attention": 1}
    assert objective.clip == "per_variable"
    assert objective.beside == {"soft-target", "attention"}
    assert objective.max_norm is None


@pytest.mark.parametrize(
    ("loss", "clip", "beside"),
    [
        ("loss=[fsp,attention]", "none", set()),
        ("loss={name: fsp, clip: global}", "global", set()),
        ("loss=[{name: fsp, clip: poster},{name: attention, clip: poster},relational]", "poster", {"relational"}),
    ],
)
def test_rules_of_clipping(loss: str, clip: str, beside: set[str]) -> None:
    """Where nothing is bounded, all is one weighted sum, and nothing stands beside it."""
    (stage,) = build.stages(loaded(loss))
    assert (stage.objective.clip, set(stage.objective.beside)) == (clip, beside)


def test_a_student_alone_has_one_stage_without_losses() -> None:
    """The main task as it is."""
    (stage,) = build.stages(recipes.load("digits/student", ["train.epochs=3"]))
    assert (stage.objective.main, stage.objective.names, stage.epochs) == (1, (), 3)


def test_two_stages() -> None:
    """First the transfer task at one learning rate, as long as said; then the whole schedule of the main task."""
    recipe = loaded("loss.main_weight=0.5", "train.epochs=8", "train.first_stage=0.5", "train.milestones=[0.5]")
    first, second = build.stages(recipe)
    assert (first.epochs, tuple(first.milestones)) == (4, ())
    assert (first.objective.main, first.objective.weights, first.objective.max_norm) == (0, {"svd": 5}, 1.0)
    assert (second.epochs, second.milestones) == (8, (4,))
    assert (second.objective.main, second.objective.weights, second.objective.max_norm) == (1, {}, None)
    (first, _) = build.stages(loaded("train.first_stage=3", "train.first_stage_norm=null"))
    assert (first.epochs, first.objective.max_norm) == (3, None)


def test_losses_of_two_stages() -> None:
    """Each takes part where its ``stage`` says; only those of the second weigh the main task there."""
    hint, both, last = "{name: fitnet, weight: 3, main_weight: 0.2}", "{name: svd, stage: both}", "soft-target"
    recipe = loaded(f"loss=[{hint},{both},{last}]", "loss.soft-target.stage=second", "train.first_stage=2")
    first, second = build.stages(recipe)
    assert first.objective.weights == {"fitnet": 3, "svd": 5}
    assert second.objective.weights == {"svd": 5, "soft-target": 0.9}
    assert second.objective.main == pytest.approx(0.1)
    assert (second.objective.clip, second.objective.beside) == ("per_variable", {"soft-target"})


# Taps and tokens


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A teacher's file that says its taps."""
    path = tmp_path / "teacher.safetensors"
    torch.manual_seed(0)
    network = nets.create("vgg-bn-teacher", num_classes=10, in_channels=1, width=0.1)
    build.save(
        network, path, recipe=recipes.teacher_of(loaded("teacher.overrides.model.taps=[block2,block3]")), images=noise()
    )
    return path


def test_taps_are_the_nearest_that_are_named(file: Path) -> None:
    """The teacher's own in the student's recipe, else its recipe's or its file's, else its network's."""
    recipe = loaded("teacher.overrides.model.taps=[block3,block4]")
    assert build.teacher_taps(recipe, recipes.teacher_of(recipe)) == ("block3", "block4")
    named = loaded("teacher.taps=[block1]")
    assert build.teacher_taps(named, recipes.teacher_of(named)) == ("block1",)
    default = loaded("teacher.overrides.model.taps=null", "model.taps=null")
    assert build.teacher_taps(default, recipes.teacher_of(default)) == nets.default_taps("vgg-bn-teacher")
    assert build.taps(default) == nets.default_taps("vgg-bn-student")
    plain = recipes.load("digits/svd", [f"teacher.checkpoint={file}"])
    assert build.teacher_taps(plain, None) == ("block2", "block3")
    assert build.teacher_taps(
        recipes.load("digits/svd", [f"teacher.checkpoint={file}", "teacher.taps=[block1]"]), None
    ) == ("block1",)


def test_a_file_without_taps_has_those_of_its_network(tmp_path: Path) -> None:
    """As one of an earlier version, or of a recipe that names none."""
    path = tmp_path / "plain.safetensors"
    network = nets.create("vgg-bn-teacher", num_classes=10, in_channels=1, width=0.1)
    nets.save(network, path, name="vgg-bn-teacher", num_classes=10, in_channels=1, width=0.1)
    recipe = recipes.load("digits/svd", [f"teacher.checkpoint={path}"])
    assert build.teacher_taps(recipe, None) == nets.default_taps("vgg-bn-teacher")
    assert "taps" not in build.metadata(loaded("model.taps=null"), noise())
    assert json.loads(build.metadata(loaded("model.taps=[block2]"), noise())["taps"]) == ["block2"]


def test_tokens_to_drop() -> None:
    """Each network's own number; the teacher's is its recipe's unless the student's recipe says another."""
    recipe = loaded("model.drop_tokens=1", "teacher.overrides.model.drop_tokens=2")
    assert build.drop_tokens(recipe, recipes.teacher_of(recipe)) == (1, 2)
    said = loaded("teacher.drop_tokens=0", "teacher.overrides.model.drop_tokens=2")
    assert build.drop_tokens(said, recipes.teacher_of(said)) == (0, 0)
    assert build.drop_tokens(loaded("model.drop_tokens=1", "teacher.drop_tokens=3"), None) == (1, 3)
    assert build.drop_tokens(recipes.load("digits/student"), None) == (0, 0)


def test_only_losses_that_read_maps_need_taps_that_pair_up() -> None:
    """Soft targets compare logits; one loss of maps beside them is enough to need the taps."""
    unlike = ["model.taps=[block1,block2]", "teacher.taps=[block1,block2,block3]"]
    assert checked(loaded("loss=soft-target", *unlike)) == ()
    recipe = loaded("loss=soft-target", *unlike)
    student, helper = (
        nets.create(f"vgg-bn-{n}", num_classes=10, in_channels=1, width=0.1) for n in ("student", "teacher")
    )
    whole = build.distiller(recipe, student, helper, teacher_recipe=recipes.teacher_of(recipe))
    assert whole(build.noise(noise())).transfer is not None
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


@pytest.mark.parametrize("loss", ["svd", "fsp", "attention", "[relational,attention]"])
def test_a_single_position_on_both_sides_is_refused(loss: str) -> None:
    """In one line that names both taps and says what to do."""
    taps = "[block2,block4]"
    recipe = loaded(f"loss={loss}", f"model.taps={taps}", f"teacher.taps={taps}")
    with pytest.raises(
        RecipeError, match=r"^model\.taps: 'block4' of the student and 'block4' of the teacher have a single"
    ) as caught:
        checked(recipe)
    assert "larger data.image_size" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert checked(recipe, size=32) == ()


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
        (["loss={name: fitnet, hint: 3}"], r"^loss: hint is tap 3 of 3; choose 0 to 2"),
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
        ("block1", 13, 6), ("block2", 26, 13), ("block3", 51, 26)
    ]  # fmt: skip
    assert checked(loaded("loss=attention", "model.width=0.2")) == ()


def test_all_that_learns_is_in_the_optimizer() -> None:
    """Adapters and regressor beside the student, with decay on weights alone."""
    recipe = loaded("loss=[svd,fitnet]", "model.width=0.2", "optimizer.weight_decay=0.01")
    student = build.model(recipe, noise())
    helper = build.model(recipes.teacher_of(recipe), noise())  # type: ignore[arg-type]
    whole = build.distiller(recipe, student, helper, teacher_recipe=recipes.teacher_of(recipe))
    assert len(whole.prepare(build.noise(noise()))) == 3
    optimizer = build.optimizer(recipe, whole)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in whole.parameters()}
    assert len(held) > len(list(student.parameters()))
    assert not held & {id(p) for p in helper.parameters()}


# Images without labels


def test_the_rest_are_the_images_that_train_size_leaves_out() -> None:
    """Together they are all training images; none has a label."""
    recipe = recipes.load("digits/svd", ["data.unlabelled={}", "data.train_size=50", "data.image_size=null"])
    images, whole = build.images(recipe), build.images(recipes.load("digits/teacher", ["data.image_size=null"]))
    assert images.unlabelled is not None
    assert (len(images.train), len(images.unlabelled), len(whole.train)) == (50, 950, 1000)
    assert images.unlabelled.labels.unique().tolist() == [-1]

    def sorted_rows(*sets: Any) -> torch.Tensor:
        rows = torch.cat([part.images.flatten(1) for part in sets]).long()
        keys = (rows * torch.arange(1, rows.shape[1] + 1) ** 3).sum(1)
        return keys.sort().values

    assert torch.equal(sorted_rows(images.train, images.unlabelled), sorted_rows(whole.train))
    assert torch.equal(images.mean, whole.mean)


def test_batches_of_both_kinds() -> None:
    """As many without labels as said, else as many as with; their warps are others."""
    for given, expected in ((None, 25), (7, 7)):
        text = "{}" if given is None else f"{{batch_size: {given}}}"
        recipe = recipes.load("digits/svd", [f"data.unlabelled={text}"])
        images = build.images(recipe)
        stream = build.batches(recipe, images)
        assert isinstance(stream, data.Mixed)
        pixels, labels, *_ = next(stream.epoch())
        assert (len(pixels), (labels >= 0).sum(), (labels == -1).sum()) == (25 + expected, 25, expected)
    plain = build.batches(recipes.load("digits/svd"), images)
    assert isinstance(plain, data.Batches)
    # The labelled ones come as they would without the others.
    assert torch.equal(next(plain.epoch())[0], next(build.batches(recipe, images).epoch())[0][:25])


def test_only_so_many_without_labels() -> None:
    """Chosen by the seed; a step cannot take more than there are."""
    recipe = recipes.load("digits/svd", ["data.unlabelled={size: 30, batch_size: 10}"])
    first, other = (
        build.images(recipe),
        build.images(recipes.load("digits/svd", ["data.unlabelled={size: 30}", "seed=1"])),
    )
    assert first.unlabelled is not None
    assert other.unlabelled is not None
    assert len(first.unlabelled) == 30
    assert not torch.equal(
        next(first.unlabelled.batches([torch.arange(30)])), next(other.unlabelled.batches([torch.arange(30)]))
    )
    with pytest.raises(RecipeError, match=r"^data\.unlabelled: 25 images a step are more than the 5 there are"):
        build.images(recipes.load("digits/svd", ["data.unlabelled={size: 5}"]))


def test_images_without_labels_of_another_data_set() -> None:
    """They are brought to the size and the channels of the labelled ones."""
    recipe = recipes.load(
        "digits/svd", ["data.unlabelled={name: digits}", "data.classes=['3','1']", "data.train_size=40"]
    )
    images = build.images(recipe)
    assert images.unlabelled is not None
    assert images.train.classes == ("3", "1")
    assert len(images.unlabelled) == 1000
    assert images.unlabelled.shape == images.shape == (1, 16, 16)
    with pytest.raises(RecipeError, match=r"^data\.unlabelled\.name: no 'digit'; did you mean 'digits'"):
        build.images(recipes.load("digits/svd", ["data.unlabelled={name: digit}"]))


def test_images_move_together() -> None:
    """Those without labels too."""
    images = build.images(recipes.load("digits/svd", ["data.unlabelled={}"]))
    assert images.to("cpu").unlabelled is not None
    assert len(images.to("cpu").unlabelled or ()) == len(images.unlabelled or ())


# Teachers of other data


def test_a_teacher_sees_images_as_it_was_trained(tmp_path: Path) -> None:
    """What is standardized for the student is converted to the teacher's own mean and deviation."""
    theirs, ours = noise(seed=1), noise(seed=2)
    theirs = build.Images(theirs.train, theirs.test, torch.tensor([0.2]), torch.tensor([0.4]))
    recipe = recipes.teacher_of(loaded())
    assert recipe is not None
    torch.manual_seed(0)
    network = build.model(recipe, theirs).eval()
    build.save(network, tmp_path / "t.safetensors", recipe=recipe, images=theirs)
    helper = build.teacher(tmp_path / "t.safetensors", ours)
    raw = ours.train.images.float() / 255  # type: ignore[attr-defined]
    torch.testing.assert_close(helper((raw - ours.mean) / ours.std), network((raw - 0.2) / 0.4), rtol=1e-4, atol=1e-5)
    same = build.teacher(tmp_path / "t.safetensors", theirs)
    assert torch.equal(same(raw), network(raw))


@pytest.mark.parametrize("by_file", [False, True])
def test_soft_targets_need_the_same_classes_in_the_same_order(tmp_path: Path, by_file: bool) -> None:
    """As many classes are not enough; losses of maps do not care."""
    order = ["data.classes=['1','0','2','3']", "data.train_size=40", "train.batch_size=4"]
    theirs = ["teacher.overrides.data.classes=['0','1','2','3']"]
    recipe = loaded(*order, *theirs)
    parent = recipes.teacher_of(recipe)
    assert parent is not None
    images, teacher_images = build.images(recipe), build.images(parent)
    options: dict[str, Any] = {"teacher_recipe": parent, "teacher_images": teacher_images}
    if by_file:
        path = tmp_path / "teacher.safetensors"
        build.save(build.model(parent, teacher_images), path, recipe=parent, images=teacher_images)
        theirs, options = [f"teacher.checkpoint={path}"], {}
        order = [*SMALL[:3], *order]
    make = recipes.load if by_file else lambda _, given: loaded(*given)
    assert build.check(make("digits/svd", [*order, *theirs]), images, **options) == ()
    with pytest.raises(
        RecipeError, match=r"^teacher: its class '0' stands where the student's '1' does, but soft targets"
    ):
        build.check(make("digits/svd", [*order, *theirs, "loss=[svd,soft-target]"]), images, **options)
    same = build.check(make("digits/svd", [*order, *theirs, "loss=soft-target"]), teacher_images, **options)
    assert same == ()


def test_a_step_with_everything() -> None:
    """A sum of all losses on unequal widths, with images without labels: finite, and the teacher stays as it was."""
    text = "loss=[svd,{name: fitnet},{name: attention, weight: 10},relational,{name: fsp, weight: 1e-4},soft-target]"
    recipe = recipes.load("digits/svd", [*SMALL, "data.train_size=40", text, "model.width=0.2", "data.unlabelled={}"])
    images, parent = build.images(recipe), recipes.teacher_of(recipe)
    assert parent is not None
    torch.manual_seed(0)
    student, helper = build.model(recipe, images), build.model(parent, images)
    before = [p.clone() for p in helper.parameters()]
    whole = build.distiller(recipe, student, helper, teacher_recipe=parent)
    whole.prepare(build.noise(images))
    whole.train()
    engine = training.launch(device="cpu", seed=0)
    optimizer = build.optimizer(recipe, whole)
    (stage,) = build.stages(recipe)
    for pixels, labels, *_ in build.batches(recipe, images).epoch():
        result = training.step(engine, whole, optimizer, pixels, labels, epoch=0, objective=stage.objective)
        assert result.main.isfinite()
        assert result.transfer is not None
        assert result.transfer.isfinite()
    assert all(p.isfinite().all() for p in whole.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, helper.parameters(), strict=True))


# Parts of a batch


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
        build.check_parts(loaded(*overrides), processes=processes)


def test_a_batch_that_can_be_divided_passes() -> None:
    """Over processes and parts."""
    build.check_parts(loaded("train.batch_size=24", "train.accumulate=3"), processes=4)


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
