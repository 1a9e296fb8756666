"""Tests of stages that follow each other, images without labels, and epochs that are not evaluated."""

import math

import pytest
import torch
from tests.plain_loss import PlainLoss
from tests.trees import equal

from svdistill import gradients, losses, training
from svdistill.errors import CheckpointError, OptionError, TrainingError
from svdistill.losses import Adapters
from svdistill.training import Objective, Stage, checkpoint

FIRST = Objective(main=0.0, weights={"transfer": 5.0}, max_norm=0.5)
ALONE = Objective(weights={})
# Two epochs of the transfer task, three of the main task; six steps each.
TWO_STAGES = (Stage(2, FIRST), Stage(3, ALONE, milestones=(1,)))


class Snapshots(training.NoProgress):
    """Keeps the state after each epoch, and can stop a run at a step."""

    def __init__(self, run, stop=math.inf):
        self.run, self.stop, self.steps = run, stop, 0
        self.states = [state_of(run.distiller)]

    def step(self, *, loss, images):
        """Count, and stop at the step that was named."""
        self.steps += 1
        if self.steps == self.stop:
            raise StopError

    def epoch(self, metrics):
        """Keep the state."""
        self.states.append(state_of(self.run.distiller))


class StopError(Exception):
    """Ends a run from outside."""


def state_of(module):
    """Copy a module's whole state."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before, after):
    """Return the names of the parameters and buffers that are no longer bit for bit what they were."""
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def without_time(metrics):
    """Return the lines without what a clock says."""
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in metrics]


def recorded(run):
    """Record the gradients' norm and the number of momentum buffers that are not zero before each step."""
    seen = []

    def look(optimizer, *_):
        gradients = [p.grad for p in run.distiller.parameters() if p.grad is not None]
        moving = sum(bool(state["momentum_buffer"].any()) for state in optimizer.state.values())
        seen.append((float(torch.nn.utils.get_total_norm(gradients)), moving))

    run.optimizer.register_step_pre_hook(look)
    return seen


def test_the_first_stage_changes_only_what_the_transfer_task_reaches(make_run):
    """The classifier comes out of it bit for bit; the second stage then changes it and the layers before."""
    run = make_run()
    kept = Snapshots(run)
    run.fit(stages=TWO_STAGES, progress=kept)
    classifier = {"student.4.weight", "student.4.bias"}
    parameters = {name for name, _ in run.distiller.named_parameters()}
    assert changed(kept.states[0], kept.states[2]) & parameters == parameters - classifier
    assert changed(kept.states[2], kept.states[5]) >= classifier | {"student.0.0.weight", "student.1.0.weight"}


def test_schedule_and_momentum_begin_anew_in_each_stage(make_run):
    """The learning rate is the first one again, and the first step of a stage finds no momentum."""
    run = make_run()
    seen = recorded(run)
    run.fit(stages=TWO_STAGES)
    metrics = run.record.metrics.read()
    assert [line["lr"] for line in metrics] == pytest.approx([0.05, 0.05, 0.05, 0.005, 0.005])
    assert [line["stage"] for line in metrics] == [1, 1, 2, 2, 2]
    assert [line["epoch"] for line in metrics] == [1, 2, 3, 4, 5]
    empty = [step for step, (_, buffers) in enumerate(seen) if buffers == 0]
    assert empty == [0, 12]
    # Without a main gradient nothing has a momentum that the transfer task does not reach.
    assert [buffers for _, buffers in seen[1:12]] == [6] * 11
    assert [buffers for _, buffers in seen[13:]] == [8] * 17


def test_a_second_stage_is_a_run_of_its_own(make_run):
    """Started from the weights and random numbers that the first stage left, a run of one stage does the same."""
    both = make_run(name="both")
    both.fit(stages=[Stage(1, FIRST), Stage(2, ALONE, milestones=(1,))])
    first = make_run(name="first")
    first.fit(stages=[Stage(1, FIRST)])
    state = checkpoint.load(first.record.last, model=first.distiller)
    second = make_run(name="second")
    second.distiller.load_state_dict(state["model"])
    second.batches.load_state_dict(state["batches"])
    checkpoint.set_random_state(state["random"])
    second.fit(stages=[Stage(2, ALONE, milestones=(1,))])
    assert changed(state_of(both.distiller), state_of(second.distiller)) == set()


PROBE = (Stage(1, FIRST), Stage(2, ALONE, factor=0.5, learns="4"))


def test_a_part_learns_alone(make_run):
    """The output layer alone, at its own rate: all else keeps weights and statistics, and learns again afterwards."""
    run = make_run()
    kept = Snapshots(run)
    run.fit(stages=PROBE, progress=kept)
    assert changed(kept.states[1], kept.states[3]) == {"student.4.weight", "student.4.bias"}
    assert [line["lr"] for line in run.record.metrics.read()] == pytest.approx([0.05, 0.025, 0.025])
    assert all(parameter.requires_grad for parameter in run.distiller.student.parameters())
    run.distiller.train()
    assert all(module.training for module in run.distiller.student.modules())


@pytest.mark.parametrize("stop", [15, 18])
def test_a_part_learns_alone_after_a_stop_too(make_run, stop):
    """Stopped within an epoch of the stage or at the end of one, a run resumes to the same end."""
    whole, broken = make_run(name="whole"), make_run(name="broken")
    whole.fit(stages=PROBE)
    with pytest.raises(StopError):
        broken.fit(stages=PROBE, progress=Snapshots(broken, stop=stop))
    again = make_run(name="broken")
    again.fit(stages=PROBE)
    assert changed(state_of(whole.distiller), state_of(again.distiller)) == set()


def test_the_norm_is_bounded_in_the_first_stage_only(make_run):
    """Whatever the transfer loss weighs; the second stage has no such bound."""
    run = make_run()
    seen = recorded(run)
    stages = [Stage(1, Objective(main=0.0, weights={"transfer": 1e3}, max_norm=0.1)), Stage(1, ALONE)]
    run.fit(stages=stages)
    norms = [length for length, _ in seen]
    assert norms[:6] == pytest.approx([0.1] * 6, rel=1e-4)
    assert max(norms[6:]) > 0.1


def test_the_epoch_of_the_bound_begins_anew(make_run, monkeypatch):
    """The p of s(p) is the epoch of the stage."""
    epochs = []
    combine = gradients.combine

    def listen(*args, epoch, **options):
        epochs.append((epoch, options["clip"]))
        return combine(*args, epoch=epoch, **options)

    monkeypatch.setattr(gradients, "combine", listen)
    make_run().fit(stages=[Stage(2, FIRST), Stage(2, Objective(weights={"transfer": 1.0}, clip="global"))])
    assert epochs[::6] == [(0, "none"), (1, "none"), (0, "global"), (1, "global")]


def test_the_second_stage_runs_without_the_teacher(make_run):
    """It is asked in every step of the first stage and never after; nor do its figures come up again."""
    run = make_run()
    ran = []
    run.distiller.teacher.register_forward_pre_hook(lambda *_: ran.append(1))
    run.fit(stages=TWO_STAGES)
    assert len(ran) == 12
    first, second = run.record.metrics.read()[0], run.record.metrics.read()[2]
    always = {"epoch", "stage", "seconds", "images_per_second", "lr", "loss", "train_accuracy", "accuracy"}
    assert second.keys() == always
    # There is no main gradient that the transfer gradient could be compared with.
    assert first.keys() == always | {"transfer", "dropped", "alignment", "set_aside"}


def test_one_stage_has_no_number(make_run):
    """Nobody asks which of one."""
    run = make_run()
    run.fit(epochs=1)
    assert "stage" not in run.record.metrics.read()[0]


HELPED = (
    Stage(2, Objective(main=0.0, weights={"svd": 1.0, "hint": 10.0}, max_norm=1.0)),
    Stage(2, Objective(weights={"soft": 0.5, "svd": 1.0}, beside={"soft"}), milestones=(1,)),
)


def helped(make_run, name="run", optimizer="sgd"):
    """A run with adapters, a regressor, soft targets, and images without labels in batches of their own."""
    loss = {"svd": losses.SVDLoss(), "hint": losses.FitNetLoss(), "soft": losses.SoftTargetLoss()}
    return make_run(name=name, loss=loss, teacher_width=6, unlabelled=10, optimizer=optimizer)


@pytest.mark.parametrize(
    ("steps", "minutes", "optimizer"),
    [
        (3, 0, "sgd"),  # inside the first stage
        (3, 10, "sgd"),  # in its first epoch, of which nothing was saved
        (10, 0, "adamw"),
        (12, 0, "sgd"),  # at the last step of the first stage
        (13, 10, "sgd"),  # at the first step of the second, saved between the two
        (13, 0, "sgd"),
        (14, 0, "adamw"),
        (16, 10, "adamw"),  # inside the second
        (23, 0, "sgd"),
    ],
)
def test_a_run_of_two_stages_continues_bit_for_bit(make_run, steps, minutes, optimizer):
    """Stopped in and between both stages: weights, adapters, regressor, momentum, batches and metrics."""
    whole = helped(make_run, "whole", optimizer)
    whole.fit(stages=HELPED)
    cut = helped(make_run, optimizer=optimizer)
    with pytest.raises(StopError):
        cut.fit(stages=HELPED, checkpoint_minutes=minutes, progress=Snapshots(cut, stop=steps))
    parts = helped(make_run, optimizer=optimizer)
    kept = Snapshots(parts)
    parts.fit(stages=HELPED, checkpoint_minutes=minutes, progress=kept)
    assert kept.steps == 24 - 6 * ((steps - 1) // 6)
    left, right = (torch.load(run.record.last, weights_only=True) for run in (whole, parts))
    for content in (left, right):
        del content["seconds"], content["lines"]  # which say how long it took
    assert equal(left, right)
    assert {name.partition(".")[0] for name in left["model"]} == {"student", "adapters", "losses"}
    assert without_time(whole.record.metrics.read()) == without_time(parts.record.metrics.read())


def test_images_without_labels_count_as_images_but_not_for_the_accuracy(make_run):
    """Twelve images a step, eight of which have labels: an epoch's accuracy is one of 48."""
    run = make_run(unlabelled=10)
    heard = []

    class Listener(training.NoProgress):
        def step(self, *, loss, images):
            heard.append(images)

    run.fit(epochs=4, progress=Listener())
    assert heard == [12] * 24
    right = [48 * line["train_accuracy"] for line in run.record.metrics.read()]
    assert right == pytest.approx([round(count) for count in right])
    assert any(round(count) % 3 for count in right)  # a fraction of 72 would look the same otherwise


@pytest.mark.parametrize(("every", "evaluated"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (9, [5])])
def test_other_epochs_are_not_evaluated(make_run, every, evaluated):
    """Every n-th epoch of the run, whatever the stage, and the last; nothing else of the run changes."""
    plain = make_run(name="plain")
    plain.fit(stages=TWO_STAGES)
    run = make_run()
    run.fit(stages=TWO_STAGES, evaluate_every=every)
    metrics, full = without_time(run.record.metrics.read()), without_time(plain.record.metrics.read())
    assert [line["epoch"] for line in metrics if "accuracy" in line] == evaluated
    for line, other in zip(metrics, full, strict=True):
        assert {**other, **line} == other
    assert changed(state_of(run.distiller), state_of(plain.distiller)) == set()


def test_the_best_checkpoint_is_one_that_was_evaluated(make_run, monkeypatch):
    """Accuracies 0.4 after epoch 2 and 0.3 after epoch 3, the last."""
    accuracies = iter((0.4, 0.3))
    monkeypatch.setattr("svdistill.training.loop.evaluate", lambda *_, **__: {"accuracy": next(accuracies)})
    run = make_run()
    run.fit(epochs=3, evaluate_every=2)
    best, last = (checkpoint.load(path, model=run.distiller) for path in (run.record.best, run.record.last))
    assert (best["epoch"], last["epoch"]) == (2, 3)
    assert best["accuracy"] == last["accuracy"] == 0.4


def test_a_checkpoint_without_the_helpers_is_refused(make_run):
    """A run that was begun with adapters does not resume without them."""
    helped(make_run).fit(stages=[Stage(1, HELPED[0].objective)])
    with pytest.raises(CheckpointError, match=r"of another model: it has 'losses\.hint"):
        make_run().fit(epochs=2)


def test_images_without_labels_stay_out_of_a_stage_without_transfer(make_run):
    """Batch norm of the main task alone sees the labelled ones, so the images of a step are fewer there."""
    run = make_run(unlabelled=10)
    heard = []

    class Listener(training.NoProgress):
        def step(self, *, loss, images):
            heard.append(images)

    alone = training.Stage(1, training.Objective(weights={}))
    run.fit(stages=[training.Stage(1), alone], progress=Listener())
    assert heard == [12] * 6 + [8] * 6


class Unsound(torch.nn.Module, PlainLoss):
    """A transfer loss that is NaN, as that of a broken teacher."""

    reads = "maps"

    def compare(self, student, teacher):
        """Return NaN that depends on the student."""
        return student[0].sum() * math.nan, {}


@pytest.mark.parametrize("main", [0.0, 1.0])
def test_a_transfer_loss_that_is_not_finite_ends_the_run(make_run, main):
    """It would otherwise be dropped step by step, and the plain student be taken for the method's."""
    run = make_run(loss=Unsound())
    with pytest.raises(TrainingError, match=r"the transfer loss is not finite in epoch 1, .*check the teacher"):
        run.fit(stages=[training.Stage(1, training.Objective(main=main, clip="none"))])


def test_a_compiled_student_whose_taps_come_and_go(make_run, monkeypatch):
    """Maps, then logits alone, then maps again: the compiled graph keeps giving the maps."""
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **_: compiled(module, backend="eager"))
    run = make_run()
    stages = [training.Stage(1), training.Stage(1, training.Objective(weights={})), training.Stage(1)]
    run.fit(stages=stages, compile=True)
    assert [("transfer" in line) for line in run.record.metrics.read()] == [True, False, True]


def test_an_optimizer_without_the_adapters_is_refused(make_run):
    """They would stay as they were drawn, in silence."""
    run = make_run()
    run.distiller.adapters = Adapters([(4, 8), None])
    with pytest.raises(OptionError, match=r"lacks the adapters .* call distiller\.prepare first"):
        run.fit()
