"""What a tracker must offer."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

PROJECT = "svdistill"


class About(NamedTuple):
    """What a tracker is told of a run.

    Attributes:
        name: of the run: recipe, seed and digest, as its folder is called.
        group: what runs that are compared with each other have in common: the first part of the recipe's name.
        method: what helps the student, in a word.
        settings: the recipe, by dotted key.
        tags: versions and machine.
        folder: for curves that lie with the run.
    """

    name: str
    group: str
    method: str
    settings: Mapping[str, Any]
    tags: Mapping[str, str]
    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        """Settings and tags in one, for trackers that have no tags of this kind."""
        return {**self.settings, **{f"tags.{name}": value for name, value in self.tags.items()}}

    @property
    def artifact(self) -> str:
        """The name in the letters that a set of files may be called by."""
        return re.sub(r"[^A-Za-z0-9._-]", "-", self.name)


class Known(NamedTuple):
    """What is known of a run of the tracker's.

    Attributes:
        id: what the tracker calls it.
        epochs: how many epochs it has.
    """

    id: str
    epochs: int


class Tracker(Protocol):
    """A tracker of one run; its calls come one after the other, from a thread of its own, and may raise anything."""

    def open(self, about: About, known: Known | None) -> Known:
        """Begin a run, or resume the one that is known.

        Args:
            about: our run.
            known: what an earlier call has returned, and the epochs since; None at first.

        Returns:
            The run of the tracker's, which is another where the known one is gone.
        """
        ...

    def log(self, figures: Mapping[str, float], epoch: int) -> None:
        """Add the figures of an epoch, by name.

        Args:
            figures: finite numbers.
            epoch: counted from 1.
        """
        ...

    def hand_in(self, figures: Mapping[str, float], files: Sequence[Path], epoch: int) -> None:
        """Add what the run came to.

        Args:
            figures: of the summary.
            files: the report, the trained network and the like.
            epoch: the last.
        """
        ...

    def close(self, *, failed: bool) -> None:
        """End the run, for good or until it is resumed."""
        ...
