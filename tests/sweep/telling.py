"""A training process that writes down what it takes of a teacher, for tests in which several want the same."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from svdistill.jobs import train
from svdistill.jobs.callbacks import Callbacks
from svdistill.recipes import Recipe


class Telling(Callbacks):
    """Writes a line for each number of images that the teacher was shown.

    Args:
        file: the lines are appended to it; several processes may share it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    @contextmanager
    def storing(self, recipe: Recipe, images: int) -> Iterator[Callable[[int], None]]:
        """Write down how many are done."""
        yield lambda done: self._write(f"{done}\n")

    def _write(self, line: str) -> None:
        with self._file.open("a") as file:
            file.write(line)


def train_and_tell(recipe: Recipe, runs: Path, file: Path) -> None:
    """Train a run; a process's main function, so its status says whether that worked."""
    train(recipe, runs=runs, callbacks=Telling(file))
    sys.exit(0)
