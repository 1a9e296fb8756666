"""Tests of the step and of the loop around it."""

import math
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tests.plain_loss import PlainLoss
from tests.training.runs import Listener, StopError, Stopper, same, weights, without_time
from torch import nn

from svdistill import losses, nets, training
from svdistill.data import Augmentation, Batches, channel_statistics
from svdistill.distiller import Distiller
from svdistill.errors import CheckpointError, OptionError, TrainingError
from svdistill.gradients import CLIPS, TransferHealth, combine
from svdistill.records import RunRecord
from svdistill.training import checkpoint
from svdistill.training import monitor as monitor_module
from svdistill.training.metrics import Metrics

# One step


@pytest.mark.parametrize("clip", CLIPS)
def test_a_step_is_the_combined_gradient_given_to_the_optimizer(make_run, clip):
    """The same by hand: two backwards, decay on weights, combine, Nesterov's first step θ − lr (1 + μ) g."""
    run = make_run()
    images, labels, *_ = next(run.batches.epoch())
    run.distiller.train()
    student = run.distiller.student
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    torch.manual_seed(5)
    output = run.distiller(images)
    parameters = list(student.parameters())
    main = torch.autograd.grad(F.cross_entropy(output.logits, labels) * 0.5, parameters, retain_graph=True)
    main = [g + 1e-3 * p if p.ndim >= 2 else g for g, p in zip(main, parameters, strict=True)]
    transfer = torch.autograd.grad(output.transfer * 3.0, parameters, allow_unused=True)
    expected = combine(main, transfer, epoch=2, clip=clip, bound=0.1)
    assert transfer[-1] is None  # the classifier, which the transfer loss does not reach

    torch.manual_seed(5)
    health = TransferHealth()
    result = training.step(
        run.engine, run.distiller, run.optimizer, images, labels, epoch=2,
        objective=training.Objective(main=0.5, weights={"transfer": 3.0}, clip=clip, bound=0.1),
        health=health,
    )  # fmt: skip
    for (name, parameter), gradient in zip(student.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), before[name] - 0.05 * 1.9 * gradient, rtol=1e-5, atol=1e-7)
    assert torch.equal(result.transfer, 3.0 * output.transfer.detach())
    assert torch.equal(result.figures["train_accuracy"], (output.logits.argmax(dim=1) == labels).sum())
    assert not any(value.requires_grad for value in result.figures.values())
    assert len(health) == 1


def test_a_student_alone_takes_torch_s_own_step(make_run):
    """Without a teacher, a step is what SGD with torch's weight decay on weights does."""
    run, plain = make_run(teacher=False), make_run(teacher=False, name="plain").distiller.student
    decayed = [p for p in plain.parameters() if p.ndim >= 2]
    others = [p for p in plain.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 1e-3}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    run.distiller.train()
    for seed, (images, labels, *_) in enumerate(run.batches.epoch()):
        torch.manual_seed(seed)
        result = training.step(run.engine, run.distiller, run.optimizer, images, labels, epoch=0)
        assert result.transfer is None
        torch.manual_seed(seed)
        optimizer.zero_grad()
        F.cross_entropy(plain.train()(images), labels).backward()
        optimizer.step()
    for ours, theirs in zip(run.distiller.student.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_poisoned_transfer_gradient_never_reaches_a_weight(make_run, stand_in, poison):
    """The main task continues alone where it must, and the drops are counted."""
    run = make_run(loss=stand_in.MapDistance(poison=poison))
    images, labels, *_ = next(run.batches.epoch())
    run.distiller.train()
    health = TransferHealth()
    training.step(run.engine, run.distiller, run.optimizer, images, labels, epoch=0, health=health)
    assert all(torch.isfinite(p).all() for p in run.distiller.student.parameters())
    assert health.summary()["dropped"] > 0


def test_a_transfer_loss_that_reaches_nothing_changes_nothing(make_run):
    """A constant, as when every sample was set aside: the step is that of the student alone."""

    class Constant(nn.Module, PlainLoss):
        reads = "logits"

        def compare(self, student, teacher):
            return torch.zeros(()), {}

    both, alone = make_run(loss=Constant()), make_run(teacher=False, name="alone")
    alone.distiller.student.load_state_dict(both.distiller.student.state_dict())
    for run in (both, alone):
        images, labels, *_ = next(run.batches.epoch())
        run.distiller.train()
        torch.manual_seed(0)
        training.step(run.engine, run.distiller, run.optimizer, images, labels, epoch=0)
    assert same(weights(both), weights(alone))


# The loop


def test_a_run_learns_and_writes_everything_down(make_run):
    """The stand-in task is easy: accuracy rises far above one in three."""
    run, listener = make_run(), Listener()
    run.fit(epochs=12, milestones=(10,), gamma=0.5, progress=listener)
    metrics = run.record.metrics.read()
    assert [line["epoch"] for line in metrics] == list(range(1, 13))
    expected = (
        "epoch seconds images_per_second lr loss transfer train_accuracy accuracy ratio clipped dropped passed "
        "alignment"
    )
    assert metrics[0].keys() == {*expected.split(), "set_aside"}
    assert metrics[-1]["accuracy"] > 0.75
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert [line["lr"] for line in metrics[8:]] == pytest.approx([0.05, 0.05, 0.025, 0.025])
    assert all(line["ratio"] > 0 and 0 <= line["clipped"] <= 1 and line["dropped"] == 0 for line in metrics)
    assert all(line["alignment"] == pytest.approx(0.5) and line["set_aside"] == 0 for line in metrics)
    assert listener.calls[0] == ("start", 12, 6, 0)
    assert [images for _, images in listener.named("step")] == [8] * 72
    assert all(math.isfinite(loss) for loss, _ in listener.named("step"))
    assert [call[0]["epoch"] for call in listener.named("epoch")] == list(range(1, 13))
    assert listener.calls[-1] == ("finish",)
    assert not run.distiller.training


@pytest.mark.parametrize("capture", ["off", "on"])
def test_the_rate_that_is_written_down_is_the_one_applied(make_run, capture):
    """In each step of an epoch, also where the step reads it from the device."""
    run, applied = make_run(), []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: applied.append(float(optimizer.param_groups[0]["lr"])))
    stage = training.Stage(4, schedule="cosine", warm_up=1)
    run.fit(stages=[stage], capture=capture)
    rates = [line["lr"] for line in run.record.metrics.read()]
    assert rates == pytest.approx([0.0005, 0.05, 0.0375, 0.0125])
    assert applied[-24:] == [rate for rate in rates for _ in range(6)]


def test_a_warm_up_is_not_judged(make_run):
    """At a hundredth of the rate the loss of 90 steps does not fall, which says nothing yet."""
    run = make_run(teacher=False, lr=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.fit(stages=[training.Stage(31, warm_up=30)])
    again = make_run(teacher=False, lr=1e-6, name="again")
    with pytest.warns(UserWarning, match="no better than chance"):
        again.fit(stages=[training.Stage(31)])


def test_a_student_alone_has_no_figures_of_a_transfer(make_run):
    """Its lines have only what there is."""
    run = make_run(teacher=False)
    run.fit(epochs=1)
    keys = {"epoch", "seconds", "images_per_second", "lr", "loss", "train_accuracy", "accuracy"}
    assert run.record.metrics.read()[0].keys() == keys


def test_last_and_best_checkpoint_are_those_epochs(make_run, monkeypatch):
    """Accuracies 0.5, 0.9, 0.7: best.pt is of epoch 2, last.pt of epoch 3, which is also what the student has."""
    accuracies = iter((0.5, 0.9, 0.7))
    monkeypatch.setattr("svdistill.training.loop.evaluate", lambda *_, **__: {"accuracy": next(accuracies)})
    run = make_run()
    run.fit(epochs=3)
    best, last = (checkpoint.load(path, model=run.distiller) for path in (run.record.best, run.record.last))
    assert (best["epoch"], last["epoch"]) == (2, 3)
    assert best["accuracy"] == last["accuracy"] == 0.9
    assert same(last["model"], weights(run))
    assert not same(best["model"], last["model"])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_seed_fixes_everything(make_run, optimizer):
    """Two runs agree bit for bit, in weights and in metrics; only another seed gives another run."""
    first = make_run(name="first", optimizer=optimizer)
    first.fit()
    second = make_run(name="second", optimizer=optimizer)
    second.fit()
    assert same(weights(first), weights(second))
    assert without_time(first.record.metrics.read()) == without_time(second.record.metrics.read())
    third = make_run(name="third", optimizer=optimizer)
    torch.manual_seed(99)  # of the dropout alone
    third.fit()
    assert not same(weights(first), weights(third))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("minutes", [0, 10])
@pytest.mark.parametrize("steps", [1, 4, 6, 7, 12, 15, 18])
def test_a_stopped_run_continues_bit_for_bit(make_run, steps, minutes, optimizer):
    """Stopped at any step of three epochs of six steps, with checkpoints at every step or only between epochs."""
    whole = make_run(name="whole", optimizer=optimizer)
    whole.fit(epochs=3, milestones=(1,))
    with pytest.raises(StopError):
        make_run(optimizer=optimizer).fit(
            epochs=3, milestones=(1,), checkpoint_minutes=minutes, progress=Stopper(steps)
        )
    parts, listener = make_run(optimizer=optimizer), Listener()
    parts.fit(epochs=3, milestones=(1,), checkpoint_minutes=minutes, progress=listener)
    assert same(weights(whole), weights(parts))
    assert without_time(whole.record.metrics.read()) == without_time(parts.record.metrics.read())
    assert listener.calls[0] == ("start", 3, 6, (steps - 1) // 6)
    skipped = (steps - 1) % 6 if minutes == 0 else 0
    assert [images for _, images in listener.named("step")][:skipped] == [0] * skipped
    assert len(listener.named("step")) == 18 - 6 * ((steps - 1) // 6)


def test_a_run_that_is_done_is_not_done_again(make_run):
    """The student gets the weights of the last epoch, and nothing is written."""
    run = make_run()
    run.fit(epochs=2)
    again = make_run()
    again.fit(epochs=2)
    assert same(weights(run), weights(again))
    assert len(again.record.metrics.read()) == 2


def test_a_run_can_be_made_longer(make_run):
    """More epochs are those that would have come."""
    whole = make_run(name="whole")
    whole.fit(epochs=3)
    make_run().fit(epochs=1)
    longer = make_run()
    longer.fit(epochs=3)
    assert same(weights(whole), weights(longer))


def test_mixed_precision_trains(make_run):
    """Autocast in bfloat16; weights and gradients stay float32."""
    run = make_run()
    run.engine = training.launch(device="cpu", precision="bf16-mixed", seed=0)
    run.fit(epochs=1)
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in run.distiller.student.parameters())


def test_a_compiled_student_gives_the_same(make_run, monkeypatch):
    """Compiled by a fast backend: taps, two backwards through one graph, evaluation, checkpoints."""
    compiled = []

    def fast(module):
        compiled.append(module)
        module._compiled_call_impl = torch.compile(module._call_impl, backend="aot_eager")

    plain = make_run(name="plain")
    plain.fit(epochs=2)
    monkeypatch.setattr(nn.Module, "compile", fast)
    run = make_run()
    run.fit(epochs=2, compile=True)
    assert compiled == [run.distiller.student]
    assert weights(run).keys() == weights(plain).keys()
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(run)[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("loss", "keys"),
    [
        (losses.SVDLoss(reduction="sum"), {"alignment", "energy_student", "energy_teacher", "set_aside"}),
        (losses.SoftTargetLoss(), set()),
    ],
)
def test_the_real_losses_on_the_real_networks(tmp_path, stand_in, loss, keys):
    """KD-SVD and soft targets on the VGG pair, an epoch of two steps."""
    engine = training.launch(device="cpu", seed=0)
    make = partial(nets.create, num_classes=3, width=0.05, in_channels=1)
    taps = nets.default_taps("vgg-bn-student")
    student, teacher = make("vgg-bn-student"), make("vgg-bn-teacher")
    distiller = Distiller(student, teacher, loss=loss, student_taps=taps, teacher_taps=taps)
    images = stand_in.image_set(16).resized(32)
    mean, std = channel_statistics(images.images)
    plan = training.TrainingPlan(
        distiller=distiller,
        optimizer=training.make_optimizer("sgd", student, lr=0.01, weight_decay=1e-4),
        batches=Batches(images, 8, seed=0, augmentation=Augmentation(), mean=mean, std=std),
        test=images,
        mean=mean,
        std=std,
        stages=[training.Stage(1)],
    )
    training.fit(engine, plan, RunRecord.create(tmp_path, {}))
    (metrics,) = RunRecord(tmp_path).metrics.read()
    assert metrics.keys() >= keys
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["transfer"] > 0
    assert metrics["ratio"] > 0
    assert metrics["dropped"] == 0
    assert metrics.get("set_aside", 0) == 0


# What goes wrong


class Poisoner(Listener):
    """Spoils a weight when a step is reported."""

    def __init__(self, run, step):
        super().__init__()
        self.run, self.at = run, step

    def step(self, *, loss, images):
        """Spoil it at the step that was named."""
        super().step(loss=loss, images=images)
        if len(self.named("step")) == self.at:
            self.run.distiller.student[0][0].weight.data[0] = math.nan


@pytest.mark.parametrize("look", [0, math.inf])
@pytest.mark.parametrize(
    ("at", "minutes", "message"),
    [
        (3, 10, "a weight is not finite in epoch 2, at step [456] of 6"),
        (6, 10, "a weight is not finite in epoch 2, at step 6 of 6"),
        (3, 0, "a weight is not finite in epoch 2, at step 3 of 6"),
    ],
)
def test_what_is_not_finite_ends_the_run(make_run, monkeypatch, look, at, minutes, message):
    """With what to do; no checkpoint is ever spoiled, and resuming from the last one works."""
    make_run().fit(epochs=1)
    run = make_run()
    monkeypatch.setattr(monitor_module, "_LOOK_SECONDS", look)
    poisoner = Poisoner(run, at)
    with pytest.raises(
        TrainingError,
        match=rf"{message} at the latest, first student\.0\.0\.weight; lower lr, .*last checkpoint stays: .*last.pt",
    ):
        run.fit(epochs=2, checkpoint_minutes=minutes, progress=poisoner)
    assert poisoner.calls[-1] == ("finish",)
    for path in (run.record.last, run.record.best):
        state = checkpoint.load(path, model=run.distiller)
        assert all(value.isfinite().all() for value in state["model"].values())
    assert [line["epoch"] for line in run.record.metrics.read()] == [1]
    again = make_run()
    again.fit(epochs=2)
    assert len(again.record.metrics.read()) == 2


def test_a_first_epoch_that_is_not_finite_says_that_there_is_no_checkpoint(make_run):
    """Nothing was written that one could resume from."""
    run = make_run(lr=1e30)
    with pytest.raises(TrainingError, match="no checkpoint had been written yet") as caught:
        run.fit()
    assert caught.value.exit_status == 1
    assert not run.record.last.exists()


@pytest.mark.parametrize(("look", "message"), [(0, "set aside 25 of 40"), (math.inf, "set aside 30 of 48")])
def test_most_samples_set_aside_ends_the_run(make_run, stand_in, monkeypatch, look, message):
    """Five of eight, seen as soon as an epoch has five steps, or at its end."""
    monkeypatch.setattr(monitor_module, "_LOOK_SECONDS", look)
    # Looking happens at the first step in any case; with inf, only there.
    run = make_run(loss=stand_in.MapDistance(aside=5))
    with pytest.raises(TrainingError, match=f"{message} samples of epoch 1: .*check the teacher"):
        run.fit()


def test_half_of_the_samples_set_aside_is_shown_and_continues(make_run, stand_in):
    """Only most of them is too many."""
    run = make_run(loss=stand_in.MapDistance(aside=4))
    run.fit(epochs=1)
    assert run.record.metrics.read()[0]["set_aside"] == 24


def test_the_device_is_asked_seldom(make_run, monkeypatch):
    """While no time passes, at the first step and at the end of an epoch."""
    monkeypatch.setattr(monitor_module, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    asked = []
    begin = Metrics.begin
    monkeypatch.setattr(Metrics, "begin", lambda metrics: asked.append(metrics.steps) or begin(metrics))
    monkeypatch.setattr(monitor_module.Monitor, "seconds", lambda _: 1.0)
    make_run().fit(epochs=2)
    assert asked == [1, 6, 1, 6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, r"epochs of the stages are \[0\], expected at least 1"),
        ({"stages": []}, r"epochs of the stages are \[\], expected at least 1"),
        ({"evaluate_every": 0}, "evaluate_every is 0, expected at least 1"),
        ({"accumulate": 0}, "accumulate is 0, expected at least 1"),
    ],
)
def test_settings_out_of_range(make_run, options, message):
    """Before anything is written."""
    run = make_run()
    with pytest.raises(OptionError, match=message):
        run.fit(**options)
    assert not run.record.checkpoints.exists()


def test_an_optimizer_of_another_network(make_run):
    """It would train something else, in silence."""
    run = make_run()
    run.optimizer = training.make_optimizer("sgd", run.distiller.teacher, lr=0.1)
    with pytest.raises(OptionError, match="parameters that are not the distiller's; make it from distiller"):
        run.fit()


def test_a_checkpoint_of_another_run_is_refused_and_nothing_is_lost(make_run):
    """Another network, another optimizer, other batches, more epochs than asked for."""
    run = make_run()
    run.fit(epochs=2)
    kept = {path: path.read_bytes() for path in run.record.path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"of another model: 'student\.4\.weight' is \(3, 16\)"):
        make_run(classes=4).fit()
    with pytest.raises(CheckpointError, match="is of a run with SGD, this one has AdamW"):
        make_run(optimizer="adamw").fit()
    with pytest.raises(CheckpointError, match="has 2 epochs behind it, but only 1 are asked for"):
        make_run().fit(epochs=1)
    other = make_run()
    other.batches = Batches(other.test, 8, seed=2, augmentation=Augmentation(), mean=other.mean, std=other.std)
    with pytest.raises(CheckpointError, match="48 images"):
        other.fit()
    assert {path: path.read_bytes() for path in run.record.path.rglob("*") if path.is_file()} == {
        **kept,
        run.record.path / "environment.json": (run.record.path / "environment.json").read_bytes(),
    }


def test_labels_that_a_loss_needs_are_missing(make_run):
    """One line, before work starts; some labelled images are enough."""
    run = make_run(loss={"dkd": losses.DKDLoss()}, unlabelled=10)
    run.fit(epochs=1)
    without = make_run(loss={"dkd": losses.DKDLoss()}, name="without")
    others = without.test.unlabelled()
    without.batches = Batches(others, 8, seed=2, augmentation=Augmentation(), mean=without.mean, std=without.std)
    with pytest.raises(
        OptionError, match=r"^the loss dkd compares with the labels of the images, and none of the"
    ) as told:
        without.fit()
    assert "\n" not in str(told.value)
