"""Small networks, images and everything of a step, made the same on every device."""

from typing import NamedTuple

import torch
from torch import nn

from svdistill import losses, training
from svdistill.data import (
    Augmentation,
    Batches,
    ColourJitter,
    Erasing,
    ImageSet,
    Mixed,
    ResizedCrop,
    channel_statistics,
)
from svdistill.distiller import Distiller
from svdistill.gradients import TransferHealth
from svdistill.ranks import find_ranks
from svdistill.training import BufferedSteps, Examples, Learner, Objective
from svdistill.training.metrics import Metrics

TAPS = ("one", "two")
# name: (what makes the losses, objective); each method that the project knows, and what can be combined.
METHODS = {
    "svd": (lambda: losses.SVDLoss(reduction="sum"), Objective()),
    "svd, rank 4": (lambda: losses.SVDLoss(4), Objective(clip="global")),
    "svd, teacher's basis": (lambda: losses.SVDLoss(2, basis="teacher"), Objective(clip="poster")),
    "soft targets": (losses.SoftTargetLoss, Objective(main=0.1, weights={"transfer": 0.9}, clip="none")),
    "standardized": (
        lambda: losses.SoftTargetLoss(2.0, standardize=True),
        Objective(main=0.1, weights={"transfer": 9.0}, clip="none"),
    ),
    "dkd": (losses.DKDLoss, Objective(clip="none", warm_up={"transfer": 3})),
    "dist": (losses.DISTLoss, Objective(clip="none", weights={"transfer": 0.1})),
    "fitnet": (losses.FitNetLoss, Objective(main=0.0, clip="none", max_norm=1.0)),
    "fsp": (losses.FSPLoss, Objective(clip="none")),
    "attention": (losses.AttentionLoss, Objective(clip="none", weights={"transfer": 50.0})),
    "relational": (losses.RelationalLoss, Objective(clip="none")),
    "similarity": (losses.SimilarityLoss, Objective(clip="none", weights={"transfer": 10.0})),
    "pkt": (losses.PKTLoss, Objective(clip="none", weights={"transfer": 100.0})),
    "svd beside soft targets": (
        lambda: {"svd": losses.SVDLoss(reduction="sum"), "soft": losses.SoftTargetLoss()},
        Objective(weights={"svd": 1.0, "soft": 0.5}, beside={"soft"}),
    ),
    "svd beside dkd": (
        lambda: {"svd": losses.SVDLoss(reduction="sum"), "dkd": losses.DKDLoss()},
        Objective(weights={"svd": 1.0, "dkd": 0.5}, beside={"dkd"}),
    ),
    "alone": (lambda: losses.SVDLoss(), Objective(weights={})),
}


class Network(nn.Module):
    """Two taps, batch norm, dropout and a classifier."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        # A bias in front of batch norm has no gradient, but for rounding.
        first = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.one = nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2))
        self.two = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(32 * width, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, 3) of images (B, 3, 16, 16)."""
        return self.head(self.two(self.one(images)))


def image_set(count: int, *, seed: int = 0) -> ImageSet:
    """Noise with one bright band, whose place is the class."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 120, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 3
    for image, label in zip(images, labels, strict=True):
        image[:, 5 * int(label) : 5 * int(label) + 3] = 250
    return ImageSet(images, labels, ("a", "b", "c"))


def pair(loss, *, teacher_width: int = 8, dropout: float = 0.0) -> Distiller:
    """Return a student with its teacher, on the CPU, in train mode."""
    torch.manual_seed(1)
    student, teacher = Network(8, dropout), Network(teacher_width)
    distiller = Distiller(student, teacher, loss=loss, student_taps=TAPS, teacher_taps=TAPS)
    distiller.prepare(torch.rand(4, 3, 16, 16))
    return distiller.train()


EVERYTHING = Augmentation(
    flip=True,
    rotation=10.0,
    shift=2,
    resized_crop=ResizedCrop(),
    erasing=Erasing(),
    colour_jitter=ColourJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    trivial_augment=True,
)


class Run(NamedTuple):
    """Everything of a run's steps."""

    learner: Learner
    batches: Batches | Mixed
    objective: Objective
    metrics: Metrics
    health: TransferHealth

    def eager(self, count: int) -> None:
        """Do steps one by one, on batches that the host puts together."""
        done = 0
        while done < count:
            for batch in self.batches.epoch():
                result = training.take_step(
                    self.learner, Examples(*batch), epoch=0, objective=self.objective, health=self.health
                )
                self.metrics.add(result.figures, images=result.images)
                done += 1

    def buffered(self) -> BufferedSteps:
        """Return the same steps on buffers, captured where the device can."""
        parts = {"objective": self.objective, "metrics": self.metrics, "health": self.health}
        return BufferedSteps(self.learner, self.batches, **parts, capture=True)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Weights and statistics, on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.learner.distiller.state_dict().items()}


def run(device: torch.device, method: str, *, dropout: float = 0.0, optimizer: str = "sgd", **options) -> Run:
    """Return a run of 24 images in batches of 8.

    Args:
        device: where it computes.
        method: one of `METHODS`.
        dropout: of the student.
        optimizer: its name.
        options: ``precision``, ``accumulate``, ``unlabelled`` (images a step), ``teacher_width``, ``lr``,
            ``augmentation``, ``mixing``, ``channels_last``.
    """
    engine = training.Engine(device, options.get("precision", "32-true"), find_ranks())
    make_loss, objective = METHODS[method]
    last = options.get("channels_last", False)
    distiller = pair(make_loss(), teacher_width=options.get("teacher_width", 8), dropout=dropout).to(device)
    if last:
        distiller.to(memory_format=torch.channels_last)
    optimizer = training.make_optimizer(optimizer, distiller, lr=options.get("lr", 0.02), weight_decay=1e-3)
    images = image_set(24)
    mean, std = channel_statistics(images.images)
    augmentation = options.get("augmentation", Augmentation(flip=True, rotation=10.0, shift=2))
    shared = {"augmentation": augmentation, "mean": mean, "std": std, "channels_last": last}
    shared["mixing"] = options.get("mixing")
    batches = Batches(images.to(device), 8, seed=3, **shared)
    if unlabelled := options.get("unlabelled", 0):
        others = image_set(12, seed=5).unlabelled().to(device)
        batches = Mixed(batches, Batches(others, unlabelled, seed=4, first=24, **shared))
    learner = Learner(engine, distiller, optimizer, options.get("accumulate", 1))
    return Run(learner, batches, objective, Metrics(device), TransferHealth())


def differ(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of a tensor from what is expected, relative to its norm."""
    floating = {name: value.double() for name, value in expected.items() if value.is_floating_point()}
    return max(float((found[n].double() - e).norm() / (1e-6 + e.norm())) for n, e in floating.items())
