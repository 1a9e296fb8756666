"""What is said of images and teacher before the first step."""

import json
import re
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from tests.recipes.small import twelve_images
from torch import nn

from svdistill import data, jobs, methods, nets, training
from svdistill.errors import SvdistillWarning, TrainingError
from svdistill.jobs import inspection

TINY = ["model.width=0.1", "data.image_size=16", "data.train_size=20", "train.batch_size=10", "train.epochs=1"]
TINY += ["train.device=cpu", "teacher.recipe=null"]

SPEC = {"classes": json.dumps([str(digit) for digit in range(10)]), "mean": "[0.3]", "std": "[0.3]"}


@pytest.fixture
def engine():
    """A seeded engine on the CPU."""
    return training.launch(device="cpu", seed=0)


def network(**options):
    """Return a small network with batch norm."""
    return nets.create("vgg-bn-student", num_classes=10, in_channels=1, width=0.1, **options).eval()


@torch.no_grad()
def spoilt(how):
    """Return a teacher that has nothing to teach."""
    teacher = network()
    if how == "zero":
        for parameter in teacher.parameters():
            parameter.zero_()
    elif how == "constant":
        teacher.classifier.output.weight.zero_()
        teacher.classifier.output.bias.fill_(1.0)
    elif how == "dead":
        next(m for m in teacher.block3.modules() if isinstance(m, nn.BatchNorm2d)).bias.fill_(-1e4)
    elif how == "broken":
        next(m for m in teacher.block2.modules() if isinstance(m, nn.Conv2d)).weight[0, 0, 0, 0] = float("nan")
    return teacher


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "zero",
            r"the teacher gives zero for all images, from its layer block1\S* \(\w+\) on; it has nothing to teach",
        ),
        ("constant", r"the teacher gives the same for all images, from its layer \S+ \(Linear\) on"),
        ("dead", r"the teacher gives zero for all images, from its layer block3\S* \(ReLU\) on"),
        ("broken", r"values that are not finite for all images, from its layer block2\S* \(Conv2d\) on"),
    ],
)
def test_a_teacher_that_has_nothing_to_teach(engine, how, message):
    """Each fault is named with the layer that it begins in."""
    images = twelve_images(16)
    (said,) = inspection.look(images, network(), spoilt(how), engine=engine)
    assert re.search(message, said), said


def test_a_sound_teacher_is_left_alone(engine):
    """One with other weights than the student, though it has learnt nothing that could be measured here."""
    assert inspection.look(twelve_images(16), network(), network(), engine=engine, taps=["block1", "block2"]) == []
    assert inspection.look(twelve_images(16), network(), None, engine=engine) == []


def test_a_dead_tap_of_a_teacher_that_answers(engine):
    """Its answers come by another way."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.dead, self.alive, self.head = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3), nn.Linear(2, 10)
            nn.init.zeros_(self.dead.weight)
            nn.init.zeros_(self.dead.bias)

        def forward(self, images):
            return self.head((self.dead(images) + self.alive(images)).mean(dim=(2, 3)))

    (said,) = inspection.look(twelve_images(16), network(), Two(), engine=engine, taps=["alive", "dead"])
    assert said.startswith("the teacher's tap dead (Conv2d) gives zero for all images; take other taps")


def test_a_student_that_is_its_teacher(engine):
    """Weight for weight."""
    one, other = network(), network()
    other.load_state_dict(one.state_dict())
    (said,) = inspection.look(twelve_images(16), one, other, engine=engine)
    assert said.startswith("the student is identical to its teacher, so there is nothing to learn")


@pytest.mark.parametrize("noise", [0, 1])
def test_images_that_are_all_alike(engine, noise):
    """Also where a few pixels differ by a grey level."""
    images = twelve_images(16)
    pixels = images.train.images[:1].repeat(12, 1, 1, 1).clamp(max=254)
    pixels[:, :, 0] += torch.randint(0, 1 + noise, pixels[:, :, 0].shape, dtype=torch.uint8)
    alike = data.ImageSet(pixels, images.train.labels, images.train.classes)
    (said,) = inspection.look(replace(images, train=alike), network(), None, engine=engine)
    assert said.startswith("the training images are all alike, so there is nothing to learn")


def test_batch_norms_too_slow_for_the_run(recwarn):
    """0.99^100 = 37 % of the start is left; at 688 steps 0.1 %; trained ones, or a run short for all, are not told."""
    slow = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, momentum=0.01))
    with pytest.warns(
        SvdistillWarning,
        match=r"^mine: the batch norm 1 has a momentum of 0\.01: after 100 steps 37 % .* give it 688 steps",
    ):
        inspection.warn_of_slow_norms("mine", slow, 100)
    trained = nn.BatchNorm2d(2, momentum=0.01)
    trained(torch.rand(4, 2, 1, 1))
    for network, steps in [
        (slow, 688),
        (slow, 65),
        (trained, 100),
        (nn.BatchNorm2d(2), 66),
        (nn.BatchNorm2d(2, momentum=None), 100),
    ]:
        inspection.warn_of_slow_norms("mine", network, steps)
    assert not recwarn.list


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """The file of a teacher that has learnt nothing, and of one that is zero."""
    folder = tmp_path_factory.mktemp("teachers")
    torch.manual_seed(5)  # not the run's
    for name, teacher in (("untrained", network()), ("zero", spoilt("zero"))):
        made = {"name": "vgg-bn-student", "num_classes": 10, "in_channels": 1, "width": 0.1}
        nets.save(teacher, folder / name, **made, extra=SPEC)
    return folder


@pytest.mark.parametrize("method", [m for m in methods.shipped() if m != "alone"])
def test_every_method_is_told_of_an_untrained_teacher(tmp_path, untrained, method):
    """Before the first step, whatever the method reads of the teacher."""
    own = [*TINY, f"teacher.checkpoint={untrained / 'untrained'}"]
    with pytest.warns(SvdistillWarning, match=r"digits/\S+: the teacher is no better than chance: of each class \S+ %"):
        jobs.train("digits/svd", overrides=own, method=method, runs=tmp_path)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("method", ["soft-target", "svd"])
def test_a_zero_teacher_is_named_also_where_it_is_stored(tmp_path, untrained, method, stored):
    """Where the method cannot go on it says so itself afterwards."""
    own = [*TINY, f"teacher.checkpoint={untrained / 'zero'}", *(["teacher.views=2"] if stored else [])]
    ends = suppress(TrainingError)  # KD-SVD then sets all samples aside
    with pytest.warns(SvdistillWarning, match="the teacher gives zero for all images, from its layer block1"), ends:
        jobs.train("digits/svd", overrides=own, method=method, runs=tmp_path)
