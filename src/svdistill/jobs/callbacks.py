"""How a job tells somebody what it is doing, without knowing who that is."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from svdistill.jobs.run import Run
from svdistill.recipes import Recipe
from svdistill.training.progress import Progress, Silent


class Callbacks(Protocol):
    """Whoever wants to know which runs a job makes, finds and waits for."""

    def training(self, recipe: Recipe, run: Run) -> Progress:
        """A run begins or goes on.

        Args:
            recipe: what is trained.
            run: its folder.

        Returns:
            Who is told of its steps and epochs.
        """

    def found(self, recipe: Recipe, run: Run) -> None:
        """A finished run is used as it is."""

    def waiting(self, recipe: Recipe, run: Run) -> None:
        """Another process may be training this run; its end is awaited."""

    def moved(self, old: Path, new: Path) -> None:
        """A run was renamed to make room for a fresh one."""

    def storing(self, recipe: Recipe, images: int) -> AbstractContextManager[Callable[[int], None]]:
        """What the losses need of a recipe's teacher is being stored.

        Args:
            recipe: the student's.
            images: how many there are, all views counted.

        Returns:
            A block around the work, which gives whom to tell how many more are done; below 0 where some are done again.
        """

    def stored(self, folder: Path) -> None:
        """What was stored of a teacher is used as it is."""

    def awaiting(self, folder: Path) -> None:
        """Another process is storing what is needed of a teacher; its end is awaited."""


class NoCallbacks:
    """Wants to know nothing."""

    def training(self, recipe: Recipe, run: Run) -> Progress:
        """Return a progress that shows nothing."""
        return Silent()

    def found(self, recipe: Recipe, run: Run) -> None:
        """Do nothing."""

    def waiting(self, recipe: Recipe, run: Run) -> None:
        """Do nothing."""

    def moved(self, old: Path, new: Path) -> None:
        """Do nothing."""

    def storing(self, recipe: Recipe, images: int) -> AbstractContextManager[Callable[[int], None]]:
        """Return a block in which nothing is shown."""
        return nullcontext(lambda _: None)

    def stored(self, folder: Path) -> None:
        """Do nothing."""

    def awaiting(self, folder: Path) -> None:
        """Do nothing."""
