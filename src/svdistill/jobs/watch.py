"""How a job tells somebody what it is doing, without knowing who that is."""

from pathlib import Path
from typing import Protocol

from svdistill.jobs.run import Run
from svdistill.recipes import Recipe
from svdistill.train.progress import Progress, Silent


class Watcher(Protocol):
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


class Nobody:
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
