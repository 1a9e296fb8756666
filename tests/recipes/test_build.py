"""Settings become objects: losses, stages, taps, optimizer, and a step with all of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.recipes.small import SMALL, loaded, twelve_images

from svdistill import losses, nets, recipes, training
from svdistill.recipes import build, weights
from svdistill.recipes.images import batches, load_images, noise
from svdistill.recipes.losses import LOSSES


def test_settings_reach_the_losses() -> None:
    """Each loss is made with what the recipe says, in its order and under its name."""
    settings = (
        "{name: svd, rank: 3, beta: 2, extra: 0, scaled: false, reduction: mean, gradient: paper}",
        "{name: soft-target, temperature: 2, standardize: true}",
        "{name: fitnet, hint: 1}",
        "{name: fsp}",
        "{name: attention, power: 3}",
        "{name: relational, distance: 1, angle: 0}",
        "{name: dkd, alpha: 2, beta: 3, temperature: 5}",
        "{name: dist, beta: 3, gamma: 4, temperature: 5}",
        "{name: similarity}",
        "{name: pkt}",
    )
    made = build.losses(loaded(f"loss=[{','.join(settings)}]"))
    assert list(made) == list(LOSSES)
    expected = (
        losses.SVDLoss(3, 2.0, extra=0, scaled=False, reduction="mean", gradient="paper"),
        losses.SoftTargetLoss(2.0, standardize=True),
        losses.FitNetLoss(1),
        losses.FSPLoss(),
        losses.AttentionLoss(3.0),
        losses.RelationalLoss(1.0, 0.0),
        losses.DKDLoss(2.0, 3.0, 5.0),
        losses.DISTLoss(3.0, 4.0, 5.0),
        losses.SimilarityLoss(),
        losses.PKTLoss(),
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
    cosine = ("train.schedule=cosine", "train.milestones=[1]", "train.warm_up=0.25", "train.epochs=8")
    first, second = build.stages(loaded(*cosine, "train.first_stage=2"))
    assert [first.rate(epoch) for epoch in range(2)] == [1, 1]
    assert (second.schedule, second.warm_up, second.epochs) == ("cosine", 2, 8)
    counted = ("train.epochs=9", "train.first_stage=0.5", "train.first_stage_counts=true", "train.milestones=[0.5]")
    first, second = build.stages(loaded(*counted))
    assert (first.epochs, second.epochs, second.milestones) == (3, 6, (3,))
    (first, _) = build.stages(loaded("train.first_stage=3", "train.first_stage_norm=null"))
    assert (first.epochs, first.objective.max_norm) == (3, None)


def test_bounds_of_the_recommended_method() -> None:
    """Of the whole gradient in the first stage, of the transfer gradient alone in the second."""
    first, second = build.stages(recipes.load("digits/svd-recommended"))
    assert (first.objective.main, first.objective.max_norm, first.objective.weights) == (0, 3, {"svd": 4})
    assert (second.objective.main, second.objective.max_norm, second.objective.weights) == (1, None, {"svd": 4})
    assert (second.objective.clip, second.objective.bound) == ("own_norm", 0.3)
    assert (first.epochs, second.epochs) == (75, 150)
    (stage,) = build.stages(loaded("loss={name: fsp, clip: own_norm, bound: 0.2}"))
    assert (stage.objective.clip, stage.objective.bound) == ("own_norm", 0.2)


def test_losses_of_two_stages() -> None:
    """Each takes part where its ``stage`` says; only those of the second weigh the main task there."""
    hint, both, last = "{name: fitnet, weight: 3, main_weight: 0.2}", "{name: svd, stage: both}", "soft-target"
    recipe = loaded(f"loss=[{hint},{both},{last}]", "loss.soft-target.stage=second", "train.first_stage=2")
    first, second = build.stages(recipe)
    assert first.objective.weights == {"fitnet": 3, "svd": 5}
    assert second.objective.weights == {"svd": 5, "soft-target": 0.9}
    assert second.objective.main == pytest.approx(0.1)
    assert (second.objective.clip, second.objective.beside) == ("per_variable", {"soft-target"})


def test_a_linear_probe() -> None:
    """The output layer alone learns of the main task, at its own rate; no loss of maps takes part there."""
    recipe = recipes.load("digits/svd-recommended", ["train.linear_probe.lr=0.005", "optimizer.lr=0.02"])
    assert build.output_layer(recipe, build.model(recipe, twelve_images()), twelve_images()) == "classifier.output"
    first, second = build.stages(recipe, output_layer="classifier.output")
    assert (first.learns, first.objective.weights, first.rate(0)) == (None, {"svd": 4}, 1)
    assert (second.learns, second.objective.weights, second.rate(0)) == ("classifier.output", {}, 0.25)
    soft = "loss=[{name: svd, stage: both},{name: soft-target, stage: second}]"
    _, second = build.stages(loaded(soft, "train.first_stage=2", "train.linear_probe=true"))
    assert (second.objective.weights, second.rate(0)) == ({"soft-target": 0.9}, 1)


def test_a_weight_rises_within_its_stage() -> None:
    """In epochs, or in a fraction of the stage's, rounded up; DKD's does so unless told otherwise."""
    (stage,) = build.stages(loaded("loss=[svd,dkd]", "train.epochs=240"))
    assert stage.objective.warm_up == {"dkd": 20}
    (stage,) = build.stages(loaded("loss=[{name: svd, warm_up: 3},{name: dkd, warm_up: 0}]", "train.epochs=3"))
    assert stage.objective.warm_up == {"svd": 3}
    staged = "loss=[{name: svd, stage: both, warm_up: 0.5},{name: dkd, stage: second}]"
    first, second = build.stages(loaded(staged, "train.epochs=30", "train.first_stage=5"))
    assert (first.objective.warm_up, second.objective.warm_up) == ({"svd": 3}, {"svd": 15, "dkd": 3})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A teacher's file that says its taps."""
    path = tmp_path / "teacher.safetensors"
    torch.manual_seed(0)
    network = nets.create("vgg-bn-teacher", num_classes=10, in_channels=1, width=0.1)
    recipe = recipes.teacher_of(loaded("teacher.overrides.model.taps=[block2,block3]"))
    assert recipe is not None
    weights.save(network, path, recipe=recipe, images=twelve_images())
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
    assert "taps" not in weights.metadata(loaded("model.taps=null"), twelve_images())
    assert json.loads(weights.metadata(loaded("model.taps=[block2]"), twelve_images())["taps"]) == ["block2"]


def test_tokens_to_drop() -> None:
    """Each network's own number; the teacher's is its recipe's unless the student's recipe says another."""
    recipe = loaded("model.drop_tokens=1", "teacher.overrides.model.drop_tokens=2")
    assert build.drop_tokens(recipe, recipes.teacher_of(recipe)) == (1, 2)
    said = loaded("teacher.drop_tokens=0", "teacher.overrides.model.drop_tokens=2")
    assert build.drop_tokens(said, recipes.teacher_of(said)) == (0, 0)
    assert build.drop_tokens(loaded("model.drop_tokens=1", "teacher.drop_tokens=3"), None) == (1, 3)
    assert build.drop_tokens(recipes.load("digits/student"), None) == (0, 0)


def test_a_file_says_which_tokens_to_drop(tmp_path: Path) -> None:
    """With the taps that it names, so that a teacher given by its file is tapped as one given by its recipe."""
    told = weights.metadata(loaded("model.taps=[block2,block3]", "model.drop_tokens=2"), twelve_images())
    settings: dict[str, Any] = {"name": "vgg-bn-teacher", "num_classes": 10, "in_channels": 1, "width": 0.1}
    path = tmp_path / "tokens.safetensors"
    nets.save(nets.create(**settings), path, **settings, extra=told)
    for said, drop in (([], 2), (["teacher.drop_tokens=1"], 1), (["teacher.taps=[block1]"], 0)):
        assert build.drop_tokens(recipes.load("digits/svd", [f"teacher.checkpoint={path}", *said]), None) == (0, drop)
    assert "drop_tokens" not in weights.metadata(loaded("model.taps=[block2]"), twelve_images())


def test_all_that_learns_is_in_the_optimizer() -> None:
    """Adapters and regressor beside the student, with decay on weights alone."""
    recipe = loaded("loss=[svd,fitnet]", "model.width=0.2", "optimizer.weight_decay=0.01")
    student = build.model(recipe, twelve_images())
    helper = build.model(recipes.teacher_of(recipe), twelve_images())  # type: ignore[arg-type]
    whole = build.distiller(recipe, student, helper, teacher_recipe=recipes.teacher_of(recipe))
    assert len(whole.prepare(noise(twelve_images()))) == 5
    optimizer = build.optimizer(recipe, whole)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in whole.parameters()}
    assert len(held) > len(list(student.parameters()))
    assert not held & {id(p) for p in helper.parameters()}


def test_a_step_with_everything() -> None:
    """A sum of all losses on unequal widths, with images without labels: finite, and the teacher stays as it was."""
    text = "loss=[svd,{name: fitnet},{name: attention, weight: 10},relational,{name: fsp, weight: 1e-4},soft-target]"
    recipe = recipes.load("digits/svd", [*SMALL, "data.train_size=40", text, "model.width=0.2", "data.unlabelled={}"])
    images, parent = load_images(recipe), recipes.teacher_of(recipe)
    assert parent is not None
    torch.manual_seed(0)
    student, helper = build.model(recipe, images), build.model(parent, images)
    before = [p.clone() for p in helper.parameters()]
    whole = build.distiller(recipe, student, helper, teacher_recipe=parent)
    whole.prepare(noise(images))
    whole.train()
    engine = training.launch(device="cpu", seed=0)
    optimizer = build.optimizer(recipe, whole)
    (stage,) = build.stages(recipe)
    for pixels, labels, *_ in batches(recipe, images).epoch():
        result = training.step(engine, whole, optimizer, pixels, labels, epoch=0, objective=stage.objective)
        assert result.main.isfinite()
        assert result.transfer is not None
        assert result.transfer.isfinite()
    assert all(p.isfinite().all() for p in whole.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, helper.parameters(), strict=True))
