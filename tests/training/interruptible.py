"""A small KD-SVD run as a program of its own, which says on stdout when it is time to kill it; see test_resume.py.

Usage: interruptible.py FOLDER WHEN, with WHEN one of never, step, saving.
"""

import io
import sys

import torch

from svdistill import nets, training
from svdistill.data import (
    Augmentation,
    Batches,
    ColourJitter,
    Erasing,
    ImageSet,
    Mixing,
    ResizedCrop,
    channel_statistics,
)
from svdistill.distiller import Distiller
from svdistill.losses import SVDLoss
from svdistill.records import RunRecord

EPOCHS = 3
STEPS = 4
# The fourth step of the second epoch: two checkpoints between steps lie behind it in this epoch.
KILL_AT = STEPS + 3


def wait_for_the_end():
    """Say that it is time, and do nothing until the kill comes."""
    print("now", flush=True)
    sys.stdin.read()


class Killed(training.NoProgress):
    """Waits for the end at a step."""

    def __init__(self, when):
        self.when, self.steps = when, 0

    def step(self, *, loss, images):
        """Count; at the step in question, wait here or in the next write of a checkpoint."""
        self.steps += 1
        if self.steps == KILL_AT and self.when == "step":
            wait_for_the_end()
        if self.steps == KILL_AT and self.when == "saving":
            torch.save = half


def half(content, file, _save=torch.save):
    """Write half of a checkpoint and wait for the end."""
    whole = io.BytesIO()
    _save(content, whole)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    file.flush()
    wait_for_the_end()


def main(folder, when):
    """Train, or resume."""
    torch.set_num_threads(1)
    engine = training.launch(device="cpu", seed=11)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (STEPS * 8, 1, 16, 16), generator=generator, dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(len(pixels)) % 3, ("a", "b", "c"))
    mean, std = channel_statistics(images.images)
    options = {"num_classes": 3, "in_channels": 1, "width": 0.05}
    # Without batch norm this student drops out half of a hidden layer, by torch's global random numbers.
    student, teacher = nets.create("vgg-student", **options), nets.create("vgg-teacher", **options)
    taps = {f"{who}_taps": nets.default_taps(f"vgg-{who}") for who in ("student", "teacher")}
    varied = Augmentation(
        flip=True,
        rotation=15.0,
        shift=2,
        resized_crop=ResizedCrop(),
        erasing=Erasing(),
        colour_jitter=ColourJitter(brightness=0.4, contrast=0.4),
        trivial_augment=True,
    )
    shared = {"augmentation": varied, "mixing": Mixing(mixup=0.4, cutmix=1.0), "mean": mean, "std": std}
    plan = training.TrainingPlan(
        distiller=Distiller(student, teacher, loss=SVDLoss(reduction="sum"), **taps),
        optimizer=training.make_optimizer("sgd", student, lr=0.01, weight_decay=1e-4),
        batches=Batches(images, 8, seed=5, **shared),
        test=images,
        mean=mean,
        std=std,
        stages=[training.Stage(EPOCHS, milestones=(2,))],
        checkpoint_minutes=0 if when == "saving" else 10,
    )
    training.fit(engine, plan, RunRecord.create(folder, {}), progress=Killed(when))


if __name__ == "__main__":
    main(*sys.argv[1:])
