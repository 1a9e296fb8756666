"""Steps on buffers against steps one by one: the same to the bit on a CPU, whatever the method."""

import copy
from functools import partial

import pytest
import torch
from tests.recipes.small import twelve_images
from tests.waiting import DEVICE, WaitError, fused_forms, nothing_waits

from svdistill import losses, methods, nets, recipes, training
from svdistill.data import Augmentation, Batches, ColourJitter, Erasing, ImageSet, Mixed, Mixing, ResizedCrop, Views
from svdistill.distiller import Distiller
from svdistill.errors import OptionError, ShapeError
from svdistill.gradients import TransferHealth
from svdistill.ranks import find_ranks
from svdistill.recipes import build
from svdistill.recipes.images import noise
from svdistill.teacher import Request
from svdistill.teacher_cache import TeacherCache
from svdistill.training import BufferedSteps, Learner, Objective, make_optimizer
from svdistill.training.capture import record
from svdistill.training.metrics import Metrics
from svdistill.training.objective import locate
from svdistill.training.optimizers import plain_state
from svdistill.training.state import RunState
from svdistill.training.step import check_mixable
from svdistill.training.steps import make_steps

STEPS = 50
JITTER = ColourJitter(brightness=0.4, contrast=0.4)
EVERYTHING = Augmentation(
    flip=True,
    rotation=5.0,
    shift=2,
    resized_crop=ResizedCrop(),
    erasing=Erasing(),
    colour_jitter=JITTER,
    trivial_augment=True,
)


def run(recipe, *, capture, steps=STEPS):
    """Train for some steps, whole epochs, and return everything that they have changed."""
    engine = training.launch(device="cpu", precision=recipe.train.precision, seed=recipe.seed)
    images = twelve_images()
    student = build.model(recipe, images)
    teacher = build.model(recipes.teacher_of(recipe), images) if recipe.loss else None
    distiller = build.distiller(recipe, student, teacher, teacher_recipe=recipes.teacher_of(recipe))
    distiller.prepare(noise(images))
    distiller.train()
    knobs = recipe.train.model_copy(update={"capture": capture})
    plan = build.training_plan(recipe.model_copy(update={"train": knobs}), distiller, images)
    state = RunState(distiller, plan.optimizer, plan.batches, device=engine.device)
    lines, before = [], None
    while sum(line["steps"] for line in lines) < steps:
        number, epoch = locate(plan.stages, state.epoch % plan.epochs)
        if number != before:
            state.begin_stage()
            ways = make_steps(engine, plan, state, plan.stages[number].objective)
            before = number
        training.optimizers.set_learning_rate(plan.optimizer, 0.9**epoch)
        count = sum(1 for _ in ways.epoch(epoch))
        lines.append({**state.metrics.read(), **state.health.summary(), "steps": count})
        state.next_epoch(None)
    return {
        "weights": {name: value.clone() for name, value in distiller.state_dict().items()},
        "optimizer": plain_state(plan.optimizer),
        "batches": plan.batches.state_dict(),
        "lines": lines,
        "random": torch.get_rng_state(),
    }


def same(first, second):
    """Whether nested values agree to the last bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second or (first != first and second != second)  # NaN is itself here


@pytest.mark.parametrize("method", methods.shipped())
def test_fifty_steps_are_the_same_to_the_bit(method):
    """Every method: weights, momentum, statistics, figures of each epoch, random numbers."""
    recipe = recipes.load(
        "digits/svd",
        ["model.width=0.1", "train.batch_size=4", "data.train_size=null", "teacher.overrides.model.width=0.12",
         "data.image_size=16", "train.epochs=40"],
        method=method,
    )  # fmt: skip
    expected, found = (run(recipe, capture=capture) for capture in ("off", "on"))
    assert sum(line["steps"] for line in found["lines"]) >= STEPS
    for part, value in expected.items():
        assert same(found[part], value), part


# Each with what it needs of the networks; those of ranks that need a decomposition are below.
LOSSES = {
    "svd": lambda: losses.SVDLoss(),
    "svd k=4": lambda: losses.SVDLoss(4),
    "svd paper": lambda: losses.SVDLoss(2, gradient="paper"),
    "teacher's basis": lambda: losses.SVDLoss(5, basis="teacher"),
    "soft-target": losses.SoftTargetLoss,
    "soft-target, standardized": lambda: losses.SoftTargetLoss(2.0, standardize=True),
    "dkd": losses.DKDLoss,
    "dist": losses.DISTLoss,
    "fitnet": losses.FitNetLoss,
    "fsp": losses.FSPLoss,
    "attention": losses.AttentionLoss,
    "relational": losses.RelationalLoss,
    "similarity": losses.SimilarityLoss,
    "pkt": losses.PKTLoss,
}
TAPS = ("block1", "block2", "block3")


def bare(images, device):
    """Return a set of images on a device without values, where it cannot be checked."""
    made = object.__new__(ImageSet)
    there = {"images": images.images.to(device), "labels": images.labels.to(device)}
    made.__dict__.update({**images.__dict__, **there})
    return made


def small_pair(loss, *, stored=False):
    """Return a distiller of two small networks with adapters, its teacher's knowledge stored or not."""
    student, teacher = (nets.create(name, num_classes=10, in_channels=1, width=width) for name, width in
                        (("vgg-bn-student", 0.1), ("vgg-bn-teacher", 0.12)))  # fmt: skip
    whole = Distiller(student, teacher, loss=loss, student_taps=TAPS, teacher_taps=TAPS)
    images = torch.rand(12, 1, 16, 16)
    whole.prepare(images)
    if not stored:
        return whole.train()
    known, shapes = whole.extract(images), whole.teacher_shapes(images)
    cache = TeacherCache.in_memory(known, tap_shapes=shapes, precise=whole.precise)
    distiller = Distiller(student, cache, loss=loss, student_taps=TAPS)
    distiller.prepare(images)
    return distiller.train()


def buffered(distiller, *, device="cpu", unlabelled=False, optimizer="sgd", capture=False, mixing=None, **options):
    """Return steps on buffers for a distiller, and the metrics and health that they add to."""
    engine = training.Engine(torch.device(device), "bf16-mixed", find_ranks())
    images = bare(twelve_images().train, device)
    augmentation = EVERYTHING
    mean, std = torch.zeros(1, device=device), torch.ones(1, device=device)
    make = partial(Batches, augmentation=augmentation, mean=mean, std=std)
    batches = make(images, 4, seed=1, mixing=mixing)
    if unlabelled:
        batches = Mixed(batches, make(images, 3, seed=2))
    learner = Learner(engine, distiller, make_optimizer(optimizer, distiller, lr=0.1, weight_decay=1e-3), 1)
    metrics, health = Metrics(engine.device), TransferHealth()
    options = {"objective": Objective(**options), "metrics": metrics, "health": health, "capture": capture}
    steps = BufferedSteps(learner, batches, **options)
    return steps, metrics, health


@pytest.mark.parametrize(("name", "optimizer"), [*((name, "sgd") for name in LOSSES), ("svd", "adamw")])
def test_the_whole_step_waits_for_nothing(name, optimizer):
    """Gathering, warps, both networks, both gradients, their combination, the optimizer, the sums."""
    loss = LOSSES[name]()
    assert loss.waits is None
    with fused_forms():
        distiller = small_pair(loss).to(DEVICE)
        steps, metrics, _ = buffered(distiller, device=DEVICE, unlabelled=True, optimizer=optimizer, max_norm=1.0)
    assert steps.begin(0) == 3
    with fused_forms(), nothing_waits():
        steps.step()
    assert metrics.images == 7


def test_mixing_waits_for_nothing():
    """Of labelled images, beside others that are not mixed; on a CPU it is the same to the bit."""
    mixing = Mixing(mixup=0.3, cutmix=1.0)
    with fused_forms():
        distiller = small_pair(losses.SVDLoss()).to(DEVICE)
        steps, *_ = buffered(distiller, device=DEVICE, unlabelled=True, mixing=mixing)
    steps.begin(0)
    with fused_forms(), nothing_waits():
        steps.step()
    recipe = recipes.load(
        "digits/svd",
        ["model.width=0.1", "train.batch_size=4", "data.train_size=null", "teacher.overrides.model.width=0.12",
         "data.image_size=16", "data.augment.mixup=0.3", "data.augment.cutmix=1.0", "train.label_smoothing=0.1"],
    )  # fmt: skip
    expected, found = (run(recipe, capture=capture, steps=6) for capture in ("off", "on"))
    for part, value in expected.items():
        assert same(found[part], value), part


@pytest.mark.parametrize("loss", [losses.SVDLoss(8), losses.SVDLoss(9, basis="teacher"), losses.SVDLoss(1, extra=8)])
def test_a_loss_that_waits_says_so(loss):
    """Beyond what products alone can find; the device without values sees it too."""
    assert "needs a decomposition by cuSOLVER" in loss.waits
    with fused_forms():
        steps, *_ = buffered(small_pair(loss).to(DEVICE), device=DEVICE)
    steps.begin(0)
    with fused_forms(), pytest.raises(WaitError), nothing_waits():
        steps.step()


def test_vectors_that_are_stored_are_not_waited_for():
    """Where all that is decomposed is the teacher's, a cache takes it out of the step; the student's own stay in it."""
    projected = losses.SVDLoss(9, basis="teacher")
    with fused_forms():
        distiller = small_pair(projected, stored=True).to(DEVICE)
        assert distiller.waits() is None
        distiller.source.bring(torch.device(DEVICE))
        steps, *_ = buffered(distiller, device=DEVICE)
    steps.begin(0)
    with fused_forms(), nothing_waits():
        steps.step()
    assert "needs a decomposition by cuSOLVER" in small_pair(losses.SVDLoss(8), stored=True).waits()


def test_stored_knowledge_is_read_on_the_device():
    """Nothing of it passes by the host, and it is what the host reads."""
    loss = losses.SVDLoss(2)
    distiller = small_pair(loss, stored=True)
    indices, views = torch.tensor([3, 0, 7]), torch.zeros(3, dtype=torch.int64)
    requests, images = {"transfer": Request(loss, None)}, torch.zeros(3, 1, 16, 16)
    before = distiller.source.goals(requests, images, indices=indices, views=views)["transfer"]
    steps, *_ = buffered(distiller)
    assert sum(steps.epoch(0)) == 12
    after = distiller.source.goals(requests, images, indices=indices, views=views)["transfer"]
    assert all(torch.equal(a.targets, b.targets) for a, b in zip(before, after, strict=True))
    assert distiller.source.lacking(torch.device("cpu")) == 0
    assert distiller.source.lacking(torch.device(DEVICE)) == distiller.source.bytes > 0
    distiller.source.bring(torch.device(DEVICE))
    with nothing_waits():
        there = [torch.empty_like(one, device=DEVICE) for one in (images, indices, views)]
        goal = distiller.source.goals(requests, there[0], indices=there[1], views=there[2])
    assert {tap.targets.device.type for tap in goal["transfer"]} == {DEVICE}
    with pytest.raises(ShapeError, match="images 0 to 11, asked for 12"):
        distiller.source.check_rows(torch.tensor([12]), torch.tensor([0]))


def test_stored_knowledge_is_not_of_mixed_images():
    """So it is refused for them, before work starts."""
    check_mixable(small_pair(losses.SVDLoss(2)))
    with pytest.raises(OptionError, match="what is stored of the teacher is of images that are not; give the teacher"):
        check_mixable(small_pair(losses.SVDLoss(2), stored=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_recording_leaves_no_trace(optimizer):
    """Weights, statistics, momentum, sums, rows and random numbers are those of before, also in the middle of a run."""
    steps, metrics, health = buffered(small_pair(losses.SVDLoss()), optimizer=optimizer, capture=True)
    kept = steps._learner.optimizer

    def look():
        weights = {name: value.clone() for name, value in steps._learner.distiller.state_dict().items()}
        return weights, metrics.state_dict(), health.state_dict(), torch.get_rng_state(), steps._batches.state_dict()

    before = look()
    steps.begin(0)
    assert same(look(), before)
    assert all(not value.any() for state in kept.state.values() for value in state.values() if torch.is_tensor(value))
    steps.step()
    assert not same(look(), before)
    before, moments = look(), plain_state(kept)
    moments = copy.deepcopy(moments)
    record(steps._step, device=torch.device("cpu"), untouched=steps._untouched, rewind=steps._number.zero_)
    assert same(look(), before)
    assert same(plain_state(kept), moments)


def test_a_step_that_fails_while_it_is_recorded_leaves_no_trace():
    """An error in the middle of it passes through, and the weights are as they were."""
    steps, *_ = buffered(small_pair(losses.SVDLoss()), capture=True)
    weights = {name: value.clone() for name, value in steps._learner.distiller.state_dict().items()}

    def fail(*_):
        raise ZeroDivisionError

    steps._learner.optimizer.register_step_post_hook(fail)
    with pytest.raises(ZeroDivisionError):
        steps.begin(0)
    assert same(steps._learner.distiller.state_dict(), weights)


def test_what_was_drawn_ahead_is_what_comes():
    """Batches assembled from draws are those that the iterator hands out, through ends of epochs, views and shards."""
    images = twelve_images().train
    options = {"mean": torch.zeros(1), "std": torch.ones(1), "augmentation": EVERYTHING}
    for views, mixing in ((None, None), (Views(count=3), None), (None, Mixing(mixup=0.4, cutmix=1.0))):

        def make(seed, size, first=0, views=views, mixing=mixing):
            return Batches(images, size, seed=seed, views=views, first=first, mixing=mixing, **options)

        alone, beside = ((make(1, 4), make(1, 4)) for _ in range(2))
        others = make(2, 4, 12), make(2, 4, 12)
        for source, twin in (alone, tuple(map(Mixed, beside, others))):
            next(iter(source.epoch()))
            twin.advance()
            drawn = twin.upcoming(7)
            for number in range(7):
                if source.position == len(source) or not number:
                    stream = source.epoch()
                expected = next(stream)
                found = twin.assemble([draws.each(lambda one, number=number: one[number]) for draws in drawn])
                twin.advance()
                assert same(tuple(found), tuple(expected))
                assert same(twin.state_dict(), source.state_dict())


@pytest.mark.parametrize("left", [1, 2])
def test_recording_near_the_end_of_an_epoch_reads_what_is_there(left):
    """Warm-ups read the first of the rows that were sent, however few there are."""
    steps, *_ = buffered(small_pair(losses.SVDLoss()), unlabelled=True, capture=True)
    twin, *_ = buffered(small_pair(losses.SVDLoss()), unlabelled=True)
    for one in (steps, twin):
        for _ in range(3 - left):
            one._batches.advance()
    torch.manual_seed(0)
    twin._learner.distiller.load_state_dict(steps._learner.distiller.state_dict())
    twin._learner.distiller.source.network.load_state_dict(steps._learner.distiller.source.network.state_dict())
    for one in (steps, twin):
        torch.manual_seed(5)
        assert list(one.epoch(0)) == [7] * left
    assert same(steps._learner.distiller.state_dict(), twin._learner.distiller.state_dict())


def test_a_checkpoint_of_another_layout_keeps_its_momentum():
    """What is laid anew in the first step is not taken for something that it has made."""
    steps, *_ = buffered(small_pair(losses.SVDLoss()))
    assert sum(steps.epoch(0)) == 12
    other, *_ = buffered(small_pair(losses.SVDLoss()).to(memory_format=torch.channels_last))
    optimizer = other._learner.optimizer
    optimizer.load_state_dict(plain_state(steps._learner.optimizer))
    kept = [state["momentum_buffer"].clone() for state in optimizer.state.values()]
    again, metrics, health = buffered(other._learner.distiller)
    again._learner.optimizer.load_state_dict(optimizer.state_dict())
    later = BufferedSteps(again._learner, again._batches, objective=Objective(), metrics=metrics, health=health,
                          capture=True)  # fmt: skip
    later.begin(0)
    found = [state["momentum_buffer"] for state in again._learner.optimizer.state.values()]
    assert same(found, kept)
    assert any(value.any() for value in kept)
