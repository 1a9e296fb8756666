"""Trainings that get nowhere, and hard starts that do get somewhere."""

import math

import pytest
import torch
from torch import nn

from svdistill.data import Augmentation, Batches
from svdistill.errors import SvdistillWarning
from svdistill.training.course import Course

HUNDRED = torch.arange(100)
CHANCE = math.log(100)


def judged(losses, *, accuracy, images=50_000):
    """Judge one epoch of a hundred classes."""
    return Course(HUNDRED, 100).judge(losses, accuracy=accuracy, images=images)


def noisy(values, *, by=0.02, seed=0):
    """Return losses with the noise of batches."""
    generator = torch.Generator().manual_seed(seed)
    return [v + by * float(torch.randn((), generator=generator)) for v in values]


def line(first, last, steps=390):
    """Return a loss that falls evenly."""
    return [first + (last - first) * step / steps for step in range(steps)]


def test_a_run_that_sat_at_chance_is_named():
    """As published settings did: loss 4.6066 with a hundred classes, 1 % right."""
    said = judged(noisy([4.6066] * 390, by=0.003), accuracy=0.0099)
    assert "no better than chance, and its loss does not fall: 4.606" in said
    assert "by chance 4.6052; training accuracy 1.0 %" in said
    assert judged([9.0, 7.0, 5.0, *noisy([4.607] * 387)], accuracy=0.0102) is not None


def test_smoothed_labels_have_a_chance_of_their_own():
    """Of shares 3/4 and 1/4, half of it spread evenly: 5/8 and 3/8."""
    course = Course(torch.tensor([0, 0, 0, 1]), 2, label_smoothing=0.5)
    assert course.chance == pytest.approx(-(5 / 8 * math.log(5 / 8) + 3 / 8 * math.log(3 / 8)))


@pytest.mark.parametrize(
    ("losses", "accuracy"),
    [
        (noisy(line(4.70, 4.45)), 0.02),  # a hard start that falls
        (noisy(line(4.62, 4.57)), 0.013),  # a slow one
        (noisy([4.60] * 390), 0.02),  # flat, yet twice as good as guessing
        (noisy(line(9.0, 4.4)), 0.02),  # begins far above chance
        (noisy(line(4.0, 0.01), by=0.001), 0.6),
    ],
)
def test_a_hard_start_is_not_called_dead(losses, accuracy):
    """As long as the loss falls, or more is right than guessing would be."""
    assert judged(losses, accuracy=accuracy) is None


@pytest.mark.parametrize(
    "losses", [line(4.6, 30.0), [4.6] * 40 + [4e5] * 5 + noisy([4.606] * 300), [*line(4.6, 3.0, 100), *line(3, 50, 50)]]
)
def test_a_loss_that_rises_is_named(losses):
    """For good, or once so high that it ended at chance."""
    assert judged(losses, accuracy=0.011).startswith("the loss diverges: it began at 4.6")


def test_unequal_classes_have_another_chance():
    """Nine of ten images of one class: guessing it gives 90 % and a loss of 0.325."""
    labels = torch.tensor([0] * 90 + [1] * 10)
    course = Course(labels, 2)
    assert course.chance == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    assert "by chance 0.3251" in Course(labels, 2).judge([0.325] * 80, accuracy=0.9, images=5000)
    assert Course(labels, 2).judge([0.29] * 80, accuracy=0.9, images=5000) is None


def test_short_epochs_are_judged_together_and_once():
    """Two steps say nothing, 32 times two do; what was said is not said again."""
    course = Course(HUNDRED, 100)
    said = [course.judge([4.606, 4.605], accuracy=0.01, images=100) for _ in range(80)]
    assert [number for number, words in enumerate(said) if words] == [31]


@pytest.mark.parametrize("teacher", [False, True])
def test_a_dead_student_is_named_in_its_first_epoch(make_run, stand_in, teacher):
    """A real training of a network whose ReLU lets nothing through: with what to try, and from which layer on."""
    run = make_run(teacher=teacher)
    block = run.distiller.student[1]
    nn.init.constant_(block[0].bias, -100.0)
    many_images(run, stand_in)
    with pytest.warns(SvdistillWarning, match="epoch 1: the student is no better than chance.*lower lr") as told:
        run.fit(epochs=2)
    assert "from its layer 1.1 (ReLU) on the student gives the same" in str(told[0].message)
    assert "(now 0.05)" in str(told[0].message)
    assert len(told) == 1


def test_a_rate_that_is_too_high_is_named_in_the_first_epoch(make_run, stand_in):
    """A real training that diverges."""
    run = make_run(teacher=False, lr=1.0)
    many_images(run, stand_in)
    with pytest.warns(SvdistillWarning, match=r"epoch 1: the (loss diverges|student is no better).*lower lr \(now 1\)"):
        run.fit(epochs=1)


def test_a_training_that_learns_is_left_alone(make_run, stand_in):
    """Warnings are errors here."""
    run = make_run()
    many_images(run, stand_in)
    run.fit(epochs=3)


def many_images(run, stand_in):
    """Let an epoch of a run have 64 steps of 16 images."""
    images = stand_in.image_set(1024)
    run.batches = Batches(images, 16, seed=2, augmentation=Augmentation(), mean=run.mean, std=run.std)
