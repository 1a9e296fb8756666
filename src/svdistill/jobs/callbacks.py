"""How a job tells somebody what it is doing, without knowing who that is."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from svdistill.jobs.run import Run
from svdistill.recipes import Recipe
from svdistill.training.progress import NoProgress, Progress


class Callbacks(Protocol):
    """Whoever wants to know which runs a job makes, finds and waits for.

    Subclasses implement what they want to hear of; the rest does nothing.
    """

    # Each ends in a return: a type checker takes a protocol's method without any statement for an abstract one.

    def training(self, recipe: Recipe, run: Run) -> Progress:
        """A run begins or resumes.

        Args:
            recipe: what is trained.
            run: its folder.

        Returns:
            Who is told of its steps and epochs.
        """
        return NoProgress()

    def taps(self, recipe: Recipe, pairs: Sequence[tuple[str, str]]) -> None:
        """A run that is about to begin compares taps that were suggested, as none were named.

        Args:
            recipe: what is trained.
            pairs: the student's taps, each with the teacher's.
        """
        return

    def left_out(self, recipe: Recipe, taps: Mapping[str, Sequence[str]]) -> None:
        """A run that is about to begin compares less than its taps.

        Args:
            recipe: what is trained.
            taps: by the loss's name the student's taps that it leaves out.
        """
        return

    def found(self, recipe: Recipe, run: Run) -> None:
        """A finished run is used as it is."""
        return

    def waiting(self, recipe: Recipe, run: Run) -> None:
        """Another process may be training this run; its end is awaited."""
        return

    def moved(self, old: Path, new: Path) -> None:
        """A run was renamed to make room for a fresh one."""
        return

    def storing(self, recipe: Recipe, images: int) -> AbstractContextManager[Callable[[int], None]]:
        """What the losses need of a recipe's teacher is being stored.

        Args:
            recipe: the student's.
            images: how many there are, all views counted.

        Returns:
            A block around the work, which gives whom to tell how many more are done; below 0 where some are done again.
        """
        return nullcontext(lambda _: None)

    def stored(self, folder: Path) -> None:
        """What was stored of a teacher is used as it is."""
        return

    def awaiting(self, folder: Path) -> None:
        """Another process is storing what is needed of a teacher; its end is awaited."""
        return


class NoCallbacks(Callbacks):
    """Wants to know nothing."""
