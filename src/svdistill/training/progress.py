"""How the training loop tells somebody how far it is, without knowing who that is."""

from collections.abc import Mapping
from typing import Any, Protocol


class Progress(Protocol):
    """Whoever wants to show a run as it goes; nothing here may change its result.

    Subclasses implement what they want to hear of; the rest does nothing.
    """

    # Each ends in a return: a type checker takes a protocol's method without any statement for an abstract one.

    def start(self, epochs: int, steps: int, done_epochs: int) -> None:
        """A run begins or resumes.

        Args:
            epochs: the number of epochs of the whole run.
            steps: the number of steps of an epoch.
            done_epochs: the number of epochs that are done already.
        """
        return

    def step(self, *, loss: float, images: int) -> None:
        """One step is done; called once a step, so that counting the calls gives the position.

        Args:
            loss: the main loss as last read from the device, which is a few times a second, not each step.
            images: the number of images of this step; 0 where the step was done before the run was interrupted.
        """
        return

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """An epoch and its evaluation are done.

        Args:
            metrics: the line that was written to the run's metrics.
        """
        return

    def finish(self) -> None:
        """The run is over, also where it ended in an error."""
        return


class NoProgress(Progress):
    """Shows nothing."""
