"""A short compiled run in a process of its own; see test_compiled_runs.py.

Usage: compiled_runs.py FOLDER KIND; prints the weights that it came to, as JSON.
"""

import json
import sys
from pathlib import Path

import torch
from tests.training.conftest import image_set
from torch import nn

from svdistill import losses, training
from svdistill.data import Augmentation, Batches, channel_statistics
from svdistill.distiller import Distiller
from svdistill.records import RunRecord
from svdistill.training import Objective, Stage

TRANSFER_ALONE = Objective(main=0.0, clip="none")
STAGES = {
    "two stages": [Stage(1, TRANSFER_ALONE), Stage(1, Objective(weights={}))],
    "one stage": [Stage(1)],
}


def block(channels):
    """Enough that a backward pass finds intermediate results which it may overwrite."""
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))


class Network(nn.Module):
    """Two taps and a classifier; torch does not compile a bare nn.Sequential."""

    def __init__(self):
        super().__init__()
        self.one = block(1)
        self.two = block(4)
        self.head = nn.Linear(16, 3)

    def forward(self, images):
        """Return logits."""
        return self.head(self.two(self.one(images)).flatten(1))


def other_program(engine, distiller, optimizer, batches):
    """Do a step as a program does that leaves torch's settings as they are."""
    distiller.student.compile()
    batch = next(iter(batches.epoch()))
    learner = training.Learner(engine, distiller.train(), optimizer)
    training.take_step(learner, training.Examples(*batch), epoch=0, objective=TRANSFER_ALONE)


def main(folder, kind):
    """Train, and print what came of it."""
    torch.set_num_threads(1)
    engine = training.launch(device="cpu", seed=0)
    images = image_set(16)
    mean, std = channel_statistics(images.images)
    taps = ("one", "two")
    loss = losses.SVDLoss(reduction="sum")
    distiller = Distiller(Network(), Network(), loss=loss, student_taps=taps, teacher_taps=taps)
    optimizer = training.make_optimizer("sgd", distiller, lr=0.05, weight_decay=1e-4)
    batches = Batches(images, 8, seed=0, augmentation=Augmentation(), mean=mean, std=std)
    if kind == "other program":
        other_program(engine, distiller, optimizer, batches)
    else:
        plan = training.TrainingPlan(
            distiller=distiller,
            optimizer=optimizer,
            batches=batches,
            test=images,
            mean=mean,
            std=std,
            stages=STAGES[kind],
            compile=True,
        )
        training.fit(engine, plan, RunRecord.create(Path(folder), {"name": kind}))
    print(json.dumps([parameter.tolist() for parameter in distiller.parameters()]))


if __name__ == "__main__":
    main(*sys.argv[1:])
