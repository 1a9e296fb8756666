"""Small networks and losses for the distiller's tests."""

import torch
from torch import nn

from svdistill.distiller import Distiller
from tests.plain_loss import PlainLoss


class Recorder(nn.Module, PlainLoss):
    """A transfer loss that keeps what it was given; the distance of the first entries."""

    def __init__(self, reads):
        super().__init__()
        self.reads = reads
        self.given = None

    def compare(self, student, teacher):
        """Return a loss and one figure."""
        self.given = (student, teacher)
        pairs = [(student, teacher)] if self.reads == "logits" else zip(student, teacher, strict=True)
        return sum((s - t).square().mean() for s, t in pairs), {"set_aside": torch.tensor(0)}


def network(width=4):
    """Two blocks with batch norm and dropout, and a classifier."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU()),
        nn.Sequential(nn.Conv2d(width, width, 3), nn.ReLU()),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(width * 16, 3),
    )


TAPS = {"student_taps": ("0", "1"), "teacher_taps": ("0", "1")}
IMAGES = torch.linspace(0, 1, 2 * 64).reshape(2, 1, 8, 8)


def distiller(reads="maps", **options):
    """A student with its teacher."""
    torch.manual_seed(0)
    return Distiller(network(), network(), **{"loss": Recorder(reads), **TAPS, **options})
