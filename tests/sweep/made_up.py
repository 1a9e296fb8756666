"""A GPU that is not there: real processes take made-up amounts of its memory, and read what is free of it."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from svdistill.atomic import locked
from svdistill.recipes import Recipe
from svdistill.sweep.admission import Memory
from svdistill.sweep.meter import Meter, Place

GIB = 2**30
PATIENCE = 120.0  # seconds until a test that hangs fails


@dataclass(frozen=True)
class MadeUpMeter(Meter):
    """Stands where CUDA is asked; each process says in a file of its own how much it has taken.

    A run reads after its first epoch and goes on. At its next reading it waits for `release`, so that a test decides
    how long runs are side by side.

    Attributes:
        folder: of the files.
        total: GiB that there are.
        takes: by seed the GiB that a run takes.
    """

    folder: Path
    total: float
    takes: dict[int, float]

    def places(self, recipe: Recipe) -> tuple[Place, ...]:
        """Return the one GPU that there is."""
        return (Place("made-up", visible="7"),)

    def read(self, recipe: Recipe) -> Memory:
        """Take memory, or find that there is none left, and read what is free."""
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
        own = self.folder / str(os.getpid())
        if own.exists():
            until = time.monotonic() + PATIENCE
            while not (self.folder / "released").exists():
                assert time.monotonic() < until
                time.sleep(0.02)
        with locked(self.folder.with_name("books")):  # others add up too
            own.write_text(str(self.takes[recipe.seed]))
            taken = sum(float(one.read_text()) for one in self.folder.iterdir() if _lives(one.name))
            if taken > self.total:
                own.unlink()  # what is refused is not taken
        if taken > self.total:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        amounts = (self.total, self.total - taken, self.takes[recipe.seed], self.takes[recipe.seed])
        return Memory(time.monotonic(), *(round(gib * GIB) for gib in amounts))

    def release(self) -> None:
        """Let all runs go to their ends."""
        (self.folder / "released").touch()


def _lives(name: str) -> bool:
    if not name.isdigit():
        return False
    try:
        os.kill(int(name), 0)
    except ProcessLookupError:
        return False
    return True
