"""Steps that are not applied, by hand-made faults in real, tiny trainings."""

import copy
import json
import math

import pytest
import torch
from torch import nn

from svdistill import Distiller, training
from svdistill.errors import SvdistillWarning, TrainingError
from svdistill.training import Examples, Learner, checkpoint
from svdistill.training.optimizers import make_optimizer, plain_state
from svdistill.training.skips import LIMIT, Buffers, Skips, all_finite


class SpoilBackward(torch.autograd.Function):
    """Passes its input on, and no finite gradient back."""

    @staticmethod
    def forward(ctx, values):
        """Pass it on."""
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        """Spoil it."""
        return gradient * math.inf


class Flaw(nn.Module):
    """Spoils what passes through in some of the trainings' steps, counted from 1."""

    def __init__(self, steps, *, backward=False):
        super().__init__()
        self.steps, self.backward = set(steps), backward
        # The count is a buffer to no one: it must not be restored with the step.
        self.count = 0

    def forward(self, values):
        """Spoil values or gradient where it is time."""
        if not self.training:
            return values
        self.count += 1
        if self.count not in self.steps:
            return values
        return SpoilBackward.apply(values) if self.backward else values / (values * 0)


def flawed(make_run, steps, *, backward=False, **options):
    """Return a run whose student has a flaw behind its first convolution."""
    run = make_run(**options)
    run.distiller.student[0].insert(1, Flaw(steps, backward=backward))
    return run


def everything(distiller, optimizer):
    """Return a copy of all that a step changes."""
    return copy.deepcopy((distiller.state_dict(), plain_state(optimizer)["state"]))


def same(first, second):
    """Whether nested values agree to the bit."""
    if torch.is_tensor(first):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


OPTIMIZERS = {
    "sgd": lambda module: training.make_optimizer("sgd", module, lr=0.05, weight_decay=1e-3),
    "adamw": lambda module: training.make_optimizer("adamw", module, lr=0.05, weight_decay=1e-3),
    "torch's fused": lambda module: torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, fused=True),
    "torch's fused, with dampening": lambda module: torch.optim.SGD(
        module.parameters(), lr=0.05, momentum=0.9, dampening=0.5, fused=True
    ),
    "torch's plain": lambda module: torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bad", [0, 1])
def test_a_step_that_is_not_applied_leaves_nothing_behind(make_run, name, bad):
    """Also as the very first: weights, momentum and running statistics end as if it had never been there."""
    ends = []
    for spoil in (True, False):
        run = make_run(teacher=False, name=f"{spoil}")
        run.distiller.train()
        optimizer = OPTIMIZERS[name](run.distiller)
        images, labels, *_ = next(run.batches.epoch())
        for number in range(3):
            torch.manual_seed(number)
            broken = torch.full_like(images, math.nan) if number == bad else images
            if number != bad or spoil:
                result = training.step(run.engine, run.distiller, optimizer, broken, labels, epoch=0)
                assert bool(result.applied) == (number != bad)
        ends.append(everything(run.distiller, optimizer))
    with_it, without = ends
    if name == "adamw" or bad:
        assert same(with_it, without)
    else:
        assert same(with_it[0], without[0])
    assert all(value.isfinite().all() for value in with_it[0].values())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_among_many(value):
    """Anywhere, in any tensor."""
    tensors = [torch.randn(50), torch.randn(3, 1000)]
    assert all_finite(tensors)
    tensors[1][2, 567] = value
    assert not all_finite(tensors)


def test_after_too_many_in_a_row_nothing_is_applied():
    """One sound step in between begins the row anew; what is noted are the steps that were broken."""
    skips = Skips("cpu")
    told = [True, *[False] * (LIMIT - 1), True, *[False] * LIMIT, True, False]
    done = [
        bool(skips.note(torch.tensor(sound), loss=torch.tensor(float(n)), transfer=None, indices=torch.tensor([n, 7])))
        for n, sound in enumerate(told)
    ]
    assert done == [*told[:-2], False, False]
    assert skips.losses() == [0.0, float(LIMIT)]
    assert skips.in_a_row == LIMIT + 2
    noted = skips.noted()
    assert [skip.step for skip in noted[: LIMIT - 1]] == list(range(2, LIMIT + 1))
    assert noted[0].images == [1, 7]
    assert math.isnan(noted[0].transfer)
    other = Skips("cpu")
    other.load_state_dict(skips.state_dict())
    assert other.losses() == skips.losses()
    assert [skip.images for skip in other.noted()] == [skip.images for skip in noted]


def test_dampening_as_in_torch(make_run):
    """A user's own optimizer does the steps that torch gives it, the first without dampening."""
    run = make_run(teacher=False)
    run.distiller.train()
    images, labels, *_ = next(run.batches.epoch())
    twin = copy.deepcopy(run.distiller)
    optimizer, own = (OPTIMIZERS["torch's fused, with dampening"](one) for one in (run.distiller, twin))
    for number in range(3):
        torch.manual_seed(number)  # of the dropout
        training.step(run.engine, run.distiller, optimizer, images, labels, epoch=0)
        torch.manual_seed(number)
        own.zero_grad()
        torch.nn.functional.cross_entropy(twin(images).logits, labels).backward()
        own.step()
    assert same(run.distiller.state_dict(), twin.state_dict())


def test_more_than_there_is_room_for():
    """The first are noted, and those of another batch size keep their figures."""
    skips = Skips("cpu")

    def note(sound, number, images):
        loss = torch.tensor(float(number))
        skips.note(torch.tensor(sound), loss=loss, transfer=None, indices=torch.tensor(images))

    for n in range(40):
        note(n % 2 == 1, n, [n])
    noted = skips.noted()
    assert [(skip.step, skip.images) for skip in noted] == [(n + 1, [n]) for n in range(0, 32, 2)]
    skips.reset()
    assert skips.noted() == []
    note(False, 0, [5])
    note(False, 1, [6, 7])
    assert [(skip.step, skip.loss, skip.images) for skip in skips.noted()] == [(1, 0.0, [5]), (2, 1.0, [6, 7])]


class Replacing(torch.nn.Module):
    """Puts another tensor in its buffer's place in each forward pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        """Count the images."""
        self.seen = self.seen + len(x)
        return x


def test_a_buffer_that_is_replaced():
    """It is put back after a step that is not applied, and only then."""
    module = Replacing()
    for number, applied in enumerate([True, False, True]):
        buffers = Buffers(module)
        module(torch.zeros(4, 1))
        buffers.restore_unless(torch.tensor(applied))
        assert module.seen == (4, 4, 8)[number]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_sum_of_half_numbers_may_be_large(dtype):
    """A gradient of values that are finite is finite, also where their sum is beyond half precision."""
    assert all_finite([torch.full((100,), 6e4, dtype=dtype)])
    assert not all_finite([torch.full((100,), 6e4, dtype=dtype), torch.full((1,), math.inf, dtype=dtype)])


@pytest.mark.parametrize("capture", ["off", "on"])
def test_one_bad_step_is_left_out_and_told(make_run, capture):
    """The run comes to its end; which images it was, and at what loss, stands in its folder."""
    warm_ups = 3 if capture == "on" else 0
    run = flawed(make_run, [3 + warm_ups])
    drawn = run.batches.upcoming(3)[0].indices[2].tolist()
    with pytest.warns(SvdistillWarning, match=r"1 of 6 steps of epoch 1 were not applied, .*post-mortem\.json"):
        run.fit(epochs=2, capture=capture)
    first, second = run.record.metrics.read()
    assert first["skipped"] == 1
    assert "skipped" not in second
    assert math.isfinite(first["loss"])
    (noted,) = json.loads(run.record.post_mortem.read_text())["skipped"]
    assert noted == {"epoch": 1, "step": 3, "loss": "nan", "transfer": noted["transfer"], "images": drawn,
                     "checkpoint_before": None}  # fmt: skip


@pytest.mark.parametrize("capture", ["off", "on"])
@pytest.mark.parametrize(
    ("backward", "message"),
    [
        (False, r"the loss is not finite in epoch 2, at step 6 of 6 .* first is the output of layer 0\.1 \(Flaw\)"),
        (True, r"a gradient is not finite in epoch 2, at step 6 of 6 .* first is the gradient of student\.0\.0\."),
    ],
)
def test_too_many_in_a_row_end_the_run(make_run, capture, backward, message):
    """With what broke first, what to try, and the weights as the first of them found them."""
    warm_ups = 3 if capture == "on" else 0
    run = flawed(make_run, range(8 + warm_ups, 100), backward=backward)
    before = {}

    class Look(training.NoProgress):
        calls = 0

        def step(self, **_):
            self.calls += 1
            if self.calls == 7:
                before.update(copy.deepcopy(run.distiller.state_dict()))

    with pytest.raises(
        TrainingError, match=rf"{message}.*lower lr.*last checkpoint stays.*post-mortem\.json"
    ) as caught:
        run.fit(epochs=2, capture=capture, progress=Look())
    assert f": {LIMIT} steps in a row were not applied" in str(caught.value)
    assert "\n" not in str(caught.value)
    told = json.loads(run.record.post_mortem.read_text())
    assert [line["step"] for line in told["skipped"]] == [2, 3, 4, 5, 6]
    assert told["end"]["epoch"] == 2
    kept = checkpoint.load(run.record.path / told["end"]["state"], model=run.distiller)
    assert same(dict(kept["model"]), before)


def test_an_epoch_without_a_sound_step_ends_the_run(make_run):
    """However short it is."""
    run = flawed(make_run, range(1, 9))
    run.batches = training_batches(run, 24)
    with pytest.raises(TrainingError, match=r"the loss is not finite in epoch 1, at step 2 of 2 .*2 steps in a row"):
        run.fit(epochs=2)


def training_batches(run, size):
    """Return batches of another size of a run's images."""
    from svdistill.data import Augmentation, Batches

    images = run.batches._images
    return Batches(images, size, seed=2, augmentation=Augmentation(), mean=run.mean, std=run.std)


def test_a_broken_image_is_named_before_any_layer(make_run):
    """A layer is not blamed for what it was given."""
    from svdistill.training.trouble import broke_first

    run = make_run(teacher=False)
    run.distiller.train()
    learner = Learner(run.engine, run.distiller, run.optimizer)
    broken = Examples(torch.full((2, 1, 8, 8), math.nan), torch.tensor([0, 1]))
    assert broke_first(learner, broken, training.Objective(), epoch=0) == "the images themselves, before any layer"
    assert broke_first(learner, broken._replace(images=torch.rand(2, 1, 8, 8)), training.Objective(), epoch=0) is None


def test_a_layer_within_a_block_that_is_recomputed_is_named(make_run):
    """The look at its output leaves nothing that the second forward pass would have to find again."""
    from svdistill.nets import create, recompute_activations
    from svdistill.training.trouble import broke_first

    run = make_run(teacher=False)
    student = create("vgg-bn-student", num_classes=3, in_channels=1, width=0.1)
    learner = Learner(run.engine, Distiller(student).train(), make_optimizer("sgd", student, lr=0.1))
    images = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    examples = Examples(images, torch.tensor([0, 1, 2, 0]))
    with torch.no_grad():
        student.block2.conv1.weight.fill_(math.nan)
    with recompute_activations(student):
        broken = broke_first(learner, examples, training.Objective(), epoch=0)
    assert broken == "the output of layer block2.conv1 (Conv2d)"
