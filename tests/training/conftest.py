"""Small stand-ins: a network that learns in a moment, images that it can learn from, and everything a run needs."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from tests.plain_loss import PlainLoss
from torch import nn

from svdistill import training
from svdistill.data import Augmentation, Batches, ImageSet, Mixed, channel_statistics
from svdistill.distiller import Distiller
from svdistill.records import RunRecord


def network(width: int = 4, classes: int = 3) -> nn.Module:
    """Two taps, dropout (so that torch's global random numbers matter) and batch norm (so that buffers matter)."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(width * 4, classes),
    )


def image_set(count: int, *, seed: int = 0, classes: int = 3) -> ImageSet:
    """Noise with one bright row, whose position is the class."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 100, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % classes
    for image, label in zip(images, labels, strict=True):
        image[0, 1 + 2 * int(label)] = 250
    return ImageSet(images, labels, tuple("abcdefgh"[:classes]))


class MapDistance(nn.Module, PlainLoss):
    """A transfer loss: the mean square distance of the maps; ``aside`` samples of a batch are said to be set aside."""

    reads = "maps"

    def __init__(self, aside: int = 0, poison: float = 0.0) -> None:
        super().__init__()
        self.aside, self.poison = aside, poison

    def compare(self, student, teacher):
        """Return the loss, with a gradient that ``poison`` spoils, and its health."""
        loss = sum((s - t).square().mean() for s, t in zip(student, teacher, strict=True))
        health = {"alignment": loss.detach() * 0 + 0.5, "set_aside": torch.tensor(self.aside)}
        return loss + self.poison * student[0].sum(), health


@pytest.fixture
def engine() -> training.Engine:
    """A seeded engine on the CPU."""
    return training.launch(device="cpu", seed=0)


@pytest.fixture
def stand_in() -> SimpleNamespace:
    """The stand-ins above."""
    return SimpleNamespace(network=network, image_set=image_set, MapDistance=MapDistance)


@pytest.fixture
def make_run(tmp_path) -> Callable[..., SimpleNamespace]:
    """Return a function that makes everything of a run, the same each time, and a ``fit`` that trains it."""

    def make(
        *,
        teacher: bool = True,
        loss=None,
        name: str = "run",
        lr: float = 0.05,
        classes: int = 3,
        optimizer: str = "sgd",
        teacher_width: int = 4,
        unlabelled: int = 0,
    ) -> SimpleNamespace:
        engine = training.launch(device="cpu", seed=1)
        images, test = image_set(48, classes=classes), image_set(30, seed=1, classes=classes)
        mean, std = channel_statistics(images.images)
        taps = ("0", "1")
        student, master = network(classes=classes), network(teacher_width, classes=classes)
        distiller = (
            Distiller(student, master, loss=loss or MapDistance(), student_taps=taps, teacher_taps=taps)
            if teacher
            else Distiller(student)
        )
        distiller.prepare(torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(3)))
        augmentation = Augmentation(rotation=5.0, shift=1)
        batches = Batches(images, 8, seed=2, augmentation=augmentation, mean=mean, std=std)
        if unlabelled:
            others = image_set(unlabelled, seed=5).unlabelled()
            batches = Mixed(batches, Batches(others, 4, seed=6, augmentation=augmentation, mean=mean, std=std))
        run = SimpleNamespace(
            engine=engine,
            distiller=distiller,
            optimizer=training.make_optimizer(optimizer, distiller, lr=lr, momentum=0.9, weight_decay=1e-3),
            batches=batches,
            test=test,
            mean=mean,
            std=std,
            record=RunRecord.create(tmp_path / name, {"name": name}),
        )

        def fit(*, epochs: int = 2, milestones=(), gamma: float = 0.1, **options) -> None:
            options = {"stages": [training.Stage(epochs, milestones=milestones, gamma=gamma)], **options}
            progress = options.pop("progress", None)
            plan = training.TrainingPlan(
                distiller=distiller,
                optimizer=run.optimizer,
                batches=run.batches,
                test=run.test,
                mean=mean,
                std=std,
                **options,
            )
            training.fit(run.engine, plan, run.record, progress=progress)

        run.fit = fit
        return run

    return make
