"""A long training of a tiny student: whether memory, open files, threads or the time of a step grow with its length."""

import gc
import os
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import Progress as Bar
from torch import nn

from benchmarks import table
from benchmarks.measure import machine, spread, write
from svdistill import Distiller, training
from svdistill.data import Augmentation, Batches, ImageSet, channel_statistics
from svdistill.losses import SVDLoss
from svdistill.records import RunRecord

STEPS = 100_000
PARTS = 10
BATCH, STEPS_PER_EPOCH = 4, 100
_TAPS = ("1", "3")


class Observer(training.Progress):
    """Takes down after every part of a training what the process holds and how long a step took.

    Args:
        every: how many steps a part has.
        bar: is told of each part.

    Attributes:
        parts: the figures of each part.
    """

    def __init__(self, every: int, bar: Bar) -> None:
        self.parts: list[dict[str, Any]] = []
        self._every = every
        self._bar = bar
        self._task = bar.add_task("steps", total=None)
        self._steps = 0
        self._seconds: list[float] = []
        self._before: float | None = None

    def start(self, epochs: int, steps: int, done_epochs: int) -> None:
        """Learn how many steps there will be."""
        self._bar.update(self._task, total=epochs * steps)

    def step(self, *, loss: float, images: int) -> None:
        """Take the time since the step before, where that was in the same epoch."""
        now = time.perf_counter()
        if self._before is not None:
            self._seconds.append(now - self._before)
        self._steps += 1
        if self._steps % self._every == 0:
            self.parts.append({"steps": self._steps, "step, ms": spread(self._seconds), **held()})
            self._seconds.clear()
            self._bar.advance(self._task, self._every)
            self._bar.console.print(self.parts[-1])
        self._before = time.perf_counter()

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Leave evaluation and checkpoint out of the time of the next step."""
        self._before = None


def held() -> dict[str, float | int]:
    """Return what this process holds now: memory, Python's objects, tensors among them, open files and threads."""
    gc.collect()
    kinds = [type(one) for one in gc.get_objects()]
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory, MB": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        "objects": len(kinds),
        "tensors": sum(issubclass(kind, torch.Tensor) for kind in kinds),
        "open files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def observe(steps: int, *, parts: int) -> list[dict[str, Any]]:
    """Train a tiny student by KD-SVD, with metrics, evaluation and checkpoints as in any run, and watch the process.

    Args:
        steps: a multiple of the steps of an epoch and of parts.
        parts: how often to look.

    Returns:
        For each part the steps done by then, the time of its steps, and what the process held at its end.
    """
    with TemporaryDirectory() as folder, Bar(console=Console(stderr=True)) as bar:
        observer = Observer(steps // parts, bar)
        engine = training.launch(device="cpu", seed=0)
        plan = _plan(epochs=steps // STEPS_PER_EPOCH)
        training.fit(engine, plan, RunRecord.create(folder, {}), progress=observer)
    return observer.parts


def _plan(epochs: int) -> training.TrainingPlan:
    generator = torch.Generator().manual_seed(0)
    number = BATCH * STEPS_PER_EPOCH
    pixels = torch.randint(0, 256, (number, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(number) % 3, ("a", "b", "c"))
    mean, std = channel_statistics(images.images)
    distiller = Distiller(_network(4), _network(8), loss=SVDLoss(), student_taps=_TAPS, teacher_taps=_TAPS)
    distiller.prepare(pixels[:2].float())
    return training.TrainingPlan(
        distiller=distiller,
        optimizer=training.make_optimizer("sgd", distiller, lr=0.001, weight_decay=1e-4),
        batches=Batches(images, BATCH, seed=0, augmentation=Augmentation(shift=1), mean=mean, std=std),
        test=images,
        mean=mean,
        std=std,
        stages=[training.Stage(epochs)],
    )


def _network(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * width, 3),
    )


def main() -> None:
    """Observe, print, and write ``bench-results/endurance.json``."""
    torch.set_num_threads(1)
    found = observe(STEPS, parts=PARTS)
    # In the first part not all is there yet that stays: the best epoch's checkpoint, memory that is kept for later.
    early, last = found[1], found[-1]
    kept = ("memory, MB", "objects", "tensors", "open files", "threads")
    figures: dict[str, Any] = {
        "note": (
            f"KD-SVD on two convolutions, batch {BATCH}, {STEPS:,} steps in {STEPS // STEPS_PER_EPOCH:,} epochs, each "
            "evaluated and saved."
        ),
        **{f"{name}: more than after {early['steps']:,} steps": last[name] - early[name] for name in kept},
        "a step of the last part over one of the second": last["step, ms"]["median_ms"]
        / early["step, ms"]["median_ms"],
        "while training": found,
    }
    write("endurance", figures)
    Console().print(Markdown(table.section("endurance", {"machine": machine(), **figures})))


if __name__ == "__main__":
    main()
