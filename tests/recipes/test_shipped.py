"""Every recipe that comes with svdistill is read, checked, built, and takes real steps."""

import itertools
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from svdistill import data, nets, recipes, training
from svdistill.recipes import Recipe, build
from svdistill.recipes.images import Images, batches, noise
from svdistill.recipes.naming import check_names

# Enough to tell a batch's images apart; the images are as large as the recipe says.
BATCH = 4
SMALL = ["train.batch_size=4", "train.device=cpu"]
# Their networks are as wide as the recipe says, but for those of these folders, which are large.
NARROW = ("crd", "cifar100-small")
NARROWER = ["model.width=0.125", "teacher.overrides.model.width=0.125"]

PUBLISHED = {
    "vgg-cifar100": ("vgg-teacher", "vgg-student"),
    "mobilenet-cifar100": ("mobilenet-teacher", "mobilenet-student"),
    "resnext-cifar100": ("resnext-teacher", "resnext-student"),
    "vgg-stride-cifar100": ("vgg-teacher", "vgg-stride-student"),
    "vgg-tiny-imagenet": ("vgg-teacher", "vgg-student"),
    "vgg-imagenet50": ("vgg-teacher", "vgg-student"),
}
# As published: without the last hidden features.
PUBLISHED_TAPS = {
    "vgg": ("block1", "block2", "block3", "block4"),
    "mobilenet": ("stage1", "stage2", "stage3", "stage4", "stage5"),
    "resnext": ("stem", "stage1", "stage2", "stage3"),
    "resnet8": ("stage1", "stage2", "stage3"),
}
KINDS = ("student", "fsp-two-stage", "fsp", "svd-two-stage", "svd")
# The later protocol's: a pair's recipe is called after its teacher's and its student's network.
CRD = {
    "resnet32x4": ("resnet8x4",),
    "wrn-40-2": ("wrn-16-2", "wrn-40-1"),
    "resnet56": ("resnet20",),
    "resnet110": ("resnet20", "resnet32"),
    "vgg13": ("vgg8",),
}
UNEQUAL = ("crd/wrn-40-2-wrn-40-1",)
SMALL_DATA = {"wrn": ("wrn-40-4", "wrn-16-4"), "vgg": ("vgg13", "vgg8"), "resnet": ("resnet32x4", "resnet8x4")}
BENCHMARK = ("teacher", "student", "soft-target", "fitnet", "attention", "fsp", "relational", "svd")


@cache
def made_up(name: str, image_size: int | None, batch: int) -> Images:
    """Return images of noise in the shape and with the classes of a data set."""
    described = data.describe(name)
    channels, height, width = described.shape or (3, 0, 0)
    height, width = (image_size, image_size) if image_size else (height, width)
    classes = described.classes or 50
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch, channels, height, width), generator=generator).to(torch.uint8)
    labels = torch.randint(0, classes, (batch,), generator=generator)
    images = data.ImageSet(pixels, labels, tuple(map(str, range(classes))))
    mean, std = data.channel_statistics(images)
    return Images(images, images, mean, std)


def images_for(recipe: Recipe) -> Images:
    """Return made-up images for a recipe."""
    return made_up(recipe.data.name, recipe.data.image_size, 2 * BATCH)


@cache
def teacher_for(name: str, width: float, classes: int, channels: int) -> nn.Module:
    """Return an untrained teacher; several recipes share one."""
    torch.manual_seed(1)
    return nets.create(name, num_classes=classes, in_channels=channels, width=width)


def loaded(name: str) -> Recipe:
    """Load a recipe for a small batch on the CPU."""
    given = recipes.load(name).data
    settings = [*SMALL, *(["data.train_size=null"] if given.train_size else [])]
    settings += ["data.unlabelled=null"] if given.unlabelled else []
    if name.startswith(NARROW):
        settings += NARROWER if recipes.load(name).teacher else NARROWER[:1]
    return recipes.load(name, settings)


def state(module: nn.Module) -> list[Tensor]:
    """Copy the parameters of a network."""
    return [parameter.detach().clone() for parameter in module.parameters()]


@pytest.mark.parametrize("name", recipes.names())
def test_two_steps(name: str) -> None:
    """Student, teacher, taps and losses fit, and two steps of each stage change the student and not the teacher."""
    recipe = loaded(name)
    images, parent = images_for(recipe), recipes.teacher_of(recipe)
    check_names(*recipes.lineage(recipe))
    torch.manual_seed(0)
    student = build.model(recipe, images)
    teacher = None
    if parent is not None:
        # A teacher without taps of its own in its recipe would compare maps that the student's recipe does not mean.
        assert (parent.data.name, parent.data.image_size) == (recipe.data.name, recipe.data.image_size)
        model = parent.model
        teacher = teacher_for(model.name, model.width, images.train.num_classes, images.shape[0])
    distiller = build.distiller(recipe, student, teacher, teacher_recipe=parent)
    adapted = distiller.prepare(noise(images))
    assert bool(adapted) == (name in UNEQUAL), "teacher and student of a shipped pair have equal widths"
    distiller.train()
    optimizer = build.optimizer(recipe, distiller)
    engine = training.launch(device="cpu", precision="32-true", seed=0)
    stream = iter(batches(recipe, images).epoch())
    before_teacher = [] if teacher is None else state(teacher)
    stages = build.stages(recipe)
    assert len(stages) == (2 if recipe.train.first_stage_epochs else 1)
    drawn = [next(stream) for _ in range(2)]
    for stage in stages:
        before = state(student)
        for pixels, labels, *_ in drawn:
            result = training.step(engine, distiller, optimizer, pixels, labels, epoch=0, objective=stage.objective)
            assert result.main.isfinite()
            active = bool(stage.objective.names)
            assert (result.transfer is not None) == active
            assert result.transfer is None or (result.transfer.isfinite() and result.transfer > 0)
        changed = {
            key: not torch.equal(old, new) for old, (key, new) in zip(before, student.named_parameters(), strict=True)
        }
        assert any(changed.values())
        alone = stage.objective.main == 0 and "soft-target" not in stage.objective.names
        assert any(moved for key, moved in changed.items() if key.startswith("classifier.output.")) != alone
        assert all(parameter.isfinite().all() for parameter in student.parameters())
    assert all(torch.equal(*pair) for pair in zip(before_teacher, teacher.parameters() if teacher else [], strict=True))


@pytest.mark.parametrize("name", recipes.names())
def test_said_in_a_line(name: str) -> None:
    """A recipe describes itself, bears its file's name, and fits the rules of every method's name."""
    recipe = recipes.load(name)
    assert recipe.name == name
    assert 10 < len(recipe.description) <= 100
    assert recipe.seed == 0


@pytest.mark.parametrize("name", recipes.names())
def test_taps(name: str) -> None:
    """Published recipes and their small twins keep the published taps; all others end with the last hidden features."""
    recipe = recipes.load(name)
    folder, _, last = name.partition("/")
    expected = PUBLISHED_TAPS[last.partition("-")[0]] if folder in ("eccv", "kd-methods", "small") else None
    parent = recipes.teacher_of(recipe)
    for one in (build.taps(recipe), *(() if parent is None else (build.teacher_taps(recipe, parent),))):
        assert one[-1].startswith("classifier.") if expected is None else one == expected


@pytest.mark.parametrize("pair", PUBLISHED)
def test_published_settings(pair: str) -> None:
    """The rows of the published table have its networks, schedule, rates, augmentation and losses."""
    teacher, student = PUBLISHED[pair]
    for kind in KINDS:
        recipe = recipes.load(f"eccv/{pair}-{kind}")
        knobs, augment = recipe.train, recipe.data.augment
        assert (recipe.model.name, recipe.model.width) == (student, 1)
        assert (knobs.epochs, knobs.milestone_epochs, knobs.gamma, knobs.batch_size) == (200, (100, 150), 0.1, 128)
        optimizer = recipe.optimizer
        assert optimizer.name == "sgd"
        assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.01, 0.9, 1e-4)
        assert (augment.flip, augment.rotation, augment.shift) == (True, 15, 4)
        assert recipe.method == {
            "student": "alone",
            "svd": "svd-eccv2018",
            "svd-two-stage": "svd-eccv2018-two-stage",
        }.get(kind, kind)
        parent = recipes.teacher_of(recipe)
        if kind == "student":
            assert parent is None
        else:
            assert parent is not None
            assert parent.model.name == teacher
            assert parent.optimizer == recipe.optimizer
            assert parent.train.epochs == 200


@pytest.mark.parametrize("pair", [*PUBLISHED, "small"])
def test_weight_of_fsp(pair: str) -> None:
    """FSP is divided by twice the number of entries of all Gram matrices."""
    twins = ("vgg", "vgg-stride", "mobilenet", "resnext")
    prefixes = [f"small/{twin}" for twin in twins] if pair == "small" else [f"eccv/{pair}"]
    for prefix in prefixes:
        for kind in ("fsp", "fsp-two-stage"):
            recipe = recipes.load(f"{prefix}-{kind}")
            model, taps = recipe.model, build.taps(recipe)
            channels = [tap.shape[0] for tap in nets.tap_shapes(model.name, width=model.width) if tap.name in taps]
            entries = sum(front * back for front, back in itertools.pairwise(channels))
            assert recipe.loss[0].weight == pytest.approx(0.5 / entries, rel=1e-3)


@pytest.mark.parametrize("kind", BENCHMARK)
def test_benchmark_settings(kind: str) -> None:
    """The rows of the later benchmark have its schedule and rates, and its first stage of 40 epochs."""
    recipe = recipes.load(f"kd-methods/resnet8-{kind}")
    assert recipe.model.name == ("resnet32x4" if kind == "teacher" else "resnet8x4")
    assert (recipe.train.epochs, recipe.train.milestone_epochs, recipe.train.gamma) == (100, (30, 60, 80), 0.1)
    assert recipe.optimizer.lr == 0.1
    assert recipe.optimizer.weight_decay == 5e-4
    assert recipe.train.first_stage_epochs == (40 if kind in ("fitnet", "fsp") else 0)
    assert build.taps(recipe) == ("stage1", "stage2", "stage3")


@pytest.mark.parametrize("teacher", CRD)
def test_settings_of_the_crd_protocol(teacher: str) -> None:
    """Teachers and students have its networks, schedule, rate and augmentation; its losses have its weights."""
    alone = recipes.load(f"crd/{teacher}")
    assert (alone.model.name, alone.method) == (teacher, "alone")
    knobs, optimizer, augment = alone.train, alone.optimizer, alone.data.augment
    assert (knobs.epochs, knobs.milestone_epochs, knobs.gamma, knobs.batch_size) == (240, (150, 180, 210), 0.1, 64)
    assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.05, 0.9, 5e-4)
    assert (alone.data.name, augment.flip, augment.shift, augment.rotation) == ("cifar100", True, 4, 0)
    for student in CRD[teacher]:
        pair = f"crd/{teacher}-{student}"
        recipe = recipes.load(pair)
        assert (recipe.model.name, recipe.method, recipes.teacher_of(recipe)) == (student, "svd", alone)
        assert (recipe.train, recipe.optimizer, recipe.data) == (alone.train, alone.optimizer, alone.data)
        for method, weights in {
            "soft-target": (0.9, 0.1),
            "attention-crd": (2000, 1),
            "fitnet-crd": (200, 1),
            "relational": (1, 1),
        }.items():
            (loss,) = recipes.load(pair, method=method).loss
            assert (loss.weight, loss.main_weight) == weights
    assert {name for name in recipes.names() if name.startswith(f"crd/{teacher}-")} == {
        f"crd/{teacher}-{student}" for student in CRD[teacher]
    }


@pytest.mark.parametrize("pair", SMALL_DATA)
def test_settings_of_the_small_data_series(pair: str) -> None:
    """The student has a tenth of the images, the teacher all or the same; both have the series' schedule."""
    recipe = recipes.load(f"cifar100-small/{pair}")
    parent = recipes.teacher_of(recipe)
    assert parent is not None
    assert (parent.name, parent.model.name, recipe.model.name) == (f"cifar100-small/{pair}-teacher", *SMALL_DATA[pair])
    assert (recipe.data.train_size, parent.data.train_size) == (5_000, None)
    for one in (recipe, parent):
        knobs, optimizer = one.train, one.optimizer
        assert (knobs.epochs, knobs.milestone_epochs, knobs.gamma, knobs.batch_size) == (100, (30, 60, 80), 0.2, 128)
        assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.1, 0.9, 5e-4)
    shared = recipes.teacher_of(recipes.load(recipe.name, ["teacher.same_images=true", "seed=2"]))
    assert shared is not None
    assert (shared.data.train_size, shared.seed) == (5_000, 2)


def test_each_has_a_small_twin() -> None:
    """For every published pair and method there is a recipe that two cores finish in minutes, by the same method."""
    for name in recipes.names():
        folder, _, last = name.partition("/")
        if folder not in ("eccv", "kd-methods"):
            continue
        for part in ("-cifar100", "-tiny-imagenet", "-imagenet50"):
            last = last.replace(part, "")
        twin, full = recipes.load(f"small/{last}"), recipes.load(name)
        assert twin.method == full.method
        assert (twin.model.name, twin.model.width) == (full.model.name, 0.25)
        size = twin.data.train_size or 1_000
        image = made_up(twin.data.name, twin.data.image_size, 1).shape
        with torch.device("meta"):
            network = nets.create(twin.model.name, num_classes=10, in_channels=image[0], width=0.25)
        # Forward and backward of all images, in FLOPs: at some 10 GFLOP/s each core needs minutes.
        assert 3 * nets.count(network, image).flops * size * twin.train.epochs < 2e13, name
