"""Tests of an epoch's sums, worked by hand."""

import math

import pytest
import torch

from svdistill.training import NoProgress
from svdistill.training.metrics import Metrics, sums

LOGITS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0], [0.0, 9.0]])
LABELS = torch.tensor([0, 1, 1, 1])


def add(metrics, *, main=1.0, transfer=None, **health):
    """Add a step of four images, three of them right."""
    figures = sums(
        main=torch.tensor(main),
        transfer=None if transfer is None else torch.tensor(transfer),
        health={name: torch.tensor(value) for name, value in health.items()},
        logits=LOGITS,
        labels=LABELS,
    )
    metrics.add(figures, images=len(LABELS))


def test_means_over_steps_and_images():
    """Losses are means over the steps, accuracy over the images."""
    metrics = Metrics("cpu")
    add(metrics, main=1.0, transfer=10.0)
    add(metrics, main=2.0, transfer=30.0)
    assert metrics.read() == {"loss": 1.5, "train_accuracy": 0.75, "transfer": 20.0}
    assert (metrics.steps, metrics.images) == (2, 8)


def test_a_mixed_image_counts_by_its_shares():
    """Of what is found: the own label's share, the other's, both where they are the same, or nothing."""
    figures = sums(
        main=torch.tensor(0.0),
        transfer=None,
        health={},
        logits=torch.eye(4)[[0, 0, 0, 0, 2]],
        labels=torch.tensor([0, 1, 0, 3, -1]),
        others=torch.tensor([1, 0, 0, 2, -1]),
        share=torch.tensor([0.7, 0.7, 0.7, 0.7, 1.0]),
    )
    assert figures["train_accuracy"].item() == pytest.approx(0.7 + 0.3 + 1)
    assert figures["labelled"] == 4


def test_without_transfer_there_are_no_figures_of_it():
    """A student alone has a loss and an accuracy."""
    metrics = Metrics("cpu")
    assert metrics.read() == {}
    add(metrics)
    assert metrics.read().keys() == {"loss", "train_accuracy"}


def test_health_is_a_mean_over_the_samples_that_were_not_set_aside():
    """4 samples of 0.5 and 1 of 1.0; a step that set all aside has no weight, though its mean is NaN."""
    metrics = Metrics("cpu")
    add(metrics, transfer=1.0, alignment=0.5, set_aside=0)
    add(metrics, transfer=1.0, alignment=1.0, set_aside=3)
    add(metrics, transfer=1.0, alignment=math.nan, set_aside=4)
    figures = metrics.read()
    assert figures["alignment"] == pytest.approx(0.6)
    assert figures["set_aside"] == 7


def test_health_of_an_epoch_that_set_everything_aside_is_nan():
    """There is nothing to take a mean of."""
    metrics = Metrics("cpu")
    add(metrics, transfer=0.0, alignment=0.0, set_aside=4)
    assert math.isnan(metrics.read()["alignment"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_was_not_finite_stays_visible(bad):
    """Later steps do not cover it."""
    metrics = Metrics("cpu")
    add(metrics, main=bad)
    add(metrics, main=1.0)
    assert not math.isfinite(metrics.read()["loss"])


def test_reset_begins_anew():
    """Nothing of the last epoch is left."""
    metrics = Metrics("cpu")
    add(metrics, main=5.0, transfer=1.0)
    metrics.reset()
    add(metrics, main=1.0)
    assert metrics.read() == {"loss": 1.0, "train_accuracy": 0.75}
    assert metrics.steps == 1


def test_a_checkpoint_in_the_middle_changes_no_bit():
    """The sums resume where they were."""
    whole, parts = Metrics("cpu"), Metrics("cpu")
    for step in range(5):
        values = {"main": 0.1 * step, "transfer": 1 / (step + 3), "alignment": 0.3 * step, "set_aside": step % 3}
        add(whole, **values)
        add(parts, **values)
        fresh = Metrics("cpu")
        fresh.load_state_dict(parts.state_dict())
        parts = fresh
    assert parts.read() == whole.read()
    assert (parts.steps, parts.images) == (whole.steps, whole.images)


def test_images_without_labels_count_for_the_transfer_task_only():
    """Accuracy is over the labelled images, also for one whose largest logit is the last; health is over all."""
    metrics = Metrics("cpu")
    figures = sums(
        main=torch.tensor(1.0),
        transfer=torch.tensor(2.0),
        health={"alignment": torch.tensor(0.5), "set_aside": torch.tensor(1)},
        logits=LOGITS,
        labels=torch.tensor([0, 0, -1, -1]),
    )
    metrics.add(figures, images=4)
    assert metrics.read() == {"loss": 1.0, "train_accuracy": 0.5, "transfer": 2.0, "alignment": 0.5, "set_aside": 1}
    assert metrics.images == 4
    fresh = Metrics("cpu")
    fresh.load_state_dict(metrics.state_dict())
    add(fresh)
    assert fresh.read()["train_accuracy"] == pytest.approx((1 + 3) / (2 + 4))


def test_an_epoch_without_any_label_has_no_accuracy_to_speak_of():
    """0 of 0 is 0, not an error."""
    metrics = Metrics("cpu")
    labels = torch.full((4,), -1)
    metrics.add(sums(main=torch.tensor(0.0), transfer=None, health={}, logits=LOGITS, labels=labels), images=4)
    assert metrics.read() == {"loss": 0.0, "train_accuracy": 0.0}


def test_a_reading_is_of_the_moment_it_began():
    """Steps that come while the sums are on their way are in none of its figures."""
    metrics = Metrics("cpu")
    add(metrics, main=1.0)
    reading = metrics.begin()
    add(metrics, main=3.0)
    assert (reading.ready, reading.steps, reading.images) == (True, 1, 4)
    assert reading.figures()["loss"] == 1.0
    assert metrics.read()["loss"] == 2.0
    assert Metrics("cpu").begin().figures() == {}


class LateEvent:
    """Stands in for that of a GPU: the sums arrive when somebody waits, or at the third question."""

    def __init__(self, values):
        self.host, self.values, self.asked = torch.full_like(values, math.nan), values, 0

    def query(self):
        """Answer."""
        self.asked += 1
        if self.asked == 3:
            self.synchronize()
        return self.asked >= 3

    def synchronize(self):
        """Let them arrive."""
        self.host.copy_(self.values)


def test_nobody_waits_for_a_reading_that_is_on_its_way(make_run, monkeypatch):
    """The watch looks again in later steps; what it then says is right, and the end of the epoch waits."""
    events = []

    def late(values):
        events.append(LateEvent(values))
        return events[-1].host, events[-1]

    monkeypatch.setattr("svdistill.training.metrics._to_host", late)
    monkeypatch.setattr("svdistill.training.monitor._LOOK_SECONDS", 0)
    losses = []

    class Listener(NoProgress):
        def step(self, *, loss, images):
            losses.append(loss)

    run = make_run()
    run.fit(epochs=1, progress=Listener())
    # Begun in steps 1 and 4, not ready then nor in the step after, looked at in steps 3 and 6; the last is the end's.
    assert [event.asked for event in events] == [3, 3, 0]
    assert [math.isfinite(loss) for loss in losses] == [False, False, True, True, True, True]
    assert losses[2] == losses[3] == losses[4] != losses[5]
    assert math.isfinite(run.record.metrics.read()[0]["loss"])
