"""Where a run is: what a checkpoint holds."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from svdistill.data import Batches, Mixed
from svdistill.errors import CheckpointError, one_line
from svdistill.gradients import TransferHealth
from svdistill.training import checkpoint
from svdistill.training.average import MovingAverage
from svdistill.training.best import BestWeights
from svdistill.training.metrics import Metrics
from svdistill.training.optimizers import plain_state

_METRICS = "tally"  # the name that they have in every checkpoint of this format
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "epoch": int,
    "accuracy": (int, float),
    "seconds": (int, float),
    "optimizer_name": str,
    "optimizer": dict,
    "batches": dict,
    _METRICS: dict,
    "health": dict,
    "random": dict,
}
_LINES = "lines"
_AVERAGE = "average"
_BEST = "best"


class RunState:
    """Everything that a run needs to resume, and nothing that it can find out again.

    Args:
        model: what learns: the student and what belongs to it; a teacher does not change and is no part of the state.
        optimizer: with its momentum and learning rates.
        batches: with their order, position and random numbers.
        device: where the run computes.
        average: of the model's weights, where there is one.
        best: where the weights of the best epoch are kept (their average, where there is one); None = nowhere.

    Attributes:
        epoch: epochs done, so also the number, from 0, of the epoch that runs.
        accuracy: the best so far; below 0 before the first.
        seconds: training time of the current epoch before this process took over.
        metrics: sums over the current epoch.
        health: what became of the transfer gradients of the current epoch.
        lines: those of the run's metrics file, of all epochs done; None in the checkpoint of an earlier version.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Batches | Mixed,
        *,
        device: torch.device,
        average: MovingAverage | None = None,
        best: BestWeights | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.batches = batches
        self.device = device
        self.average = average
        self.best = best
        self.epoch = 0
        self.accuracy = -1.0
        self.seconds = 0.0
        self.metrics = Metrics(device)
        self.health = TransferHealth()
        self.lines: str | None = ""

    def begin_stage(self) -> None:
        """Forget momentum and average, and the names of the figures of another objective."""
        self.optimizer.state.clear()
        if self.average is not None:
            self.average.restart()
        self.metrics = Metrics(self.device)
        self.health = TransferHealth()

    def next_epoch(self, accuracy: float | None) -> bool:
        """Close the current epoch.

        Args:
            accuracy: after it; None where the network was not evaluated.

        Returns:
            Whether its accuracy is the best so far.
        """
        best = accuracy is not None and accuracy > self.accuracy
        if best and self.best is not None:
            with nullcontext() if self.average is None else self.average.applied():
                self.best.keep()
        self.epoch += 1
        self.accuracy = self.accuracy if accuracy is None else max(accuracy, self.accuracy)
        self.seconds = 0.0
        self.metrics.reset()
        self.health.reset()
        return best

    def hand_over(self) -> None:
        """Give the model, at the end, the best weights or their average, where the plan asks for these."""
        if self.best is not None:
            self.best.hand_over()
        elif self.average is not None:
            self.average.hand_over()

    def save(self, path: Path, *, keep: Path | None = None) -> None:
        """Write the whole state in one piece; CheckpointError where that is not possible.

        Args:
            path: the file.
            keep: the name that the one before it gets; None = it is replaced.
        """
        state = {
            "epoch": self.epoch,
            "accuracy": self.accuracy,
            "seconds": self.seconds,
            "optimizer_name": type(self.optimizer).__name__,
            "optimizer": plain_state(self.optimizer),
            "batches": self.batches.state_dict(),
            _METRICS: self.metrics.state_dict(),
            "health": self.health.state_dict(),
            "random": checkpoint.random_state(),
            _LINES: self.lines,
        }
        if self.average is not None:
            state[_AVERAGE] = self.average.state_dict()
        if self.best is not None:
            state[_BEST] = self.best.state_dict()
        checkpoint.save(path, state, model=self.model, keep=keep)

    def load(self, path: Path) -> None:
        """Take over a state, torch's global random numbers included.

        Raises:
            CheckpointError: the file is damaged, or of another model, optimizer or data set; then nothing has changed
                in the model.
        """
        state = checkpoint.load(path, model=self.model, kinds=_KINDS)
        name = type(self.optimizer).__name__
        if state["optimizer_name"] != name:
            raise CheckpointError(
                f"the checkpoint {path} is of a run with {state['optimizer_name']}, this one has {name}; "
                "restore the setting or train from the start"
            )
        try:
            self._take_over(state)
        except CheckpointError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint {path} does not fit the optimizer or the data, or is not one of a run "
                f"({type(error).__name__}: {one_line(error)}); restore the setting or train from the start"
            ) from error

    def _take_over(self, state: Mapping[str, Any]) -> None:
        """Take over what was read; the weights come last, as all else can turn out not to fit."""
        lines = state.get(_LINES)
        if state["epoch"] < 0 or (lines is not None and lines.count("\n") != state["epoch"]):
            raise ValueError(f"its lines are not those of {state['epoch']} epochs")
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches.load_state_dict(state["batches"])
        self.metrics.load_state_dict(state[_METRICS])
        self.health.load_state_dict(state["health"], device=self.device)
        if self.average is not None:
            self.average.load_state_dict(state[_AVERAGE])
        if self.best is not None:
            self.best.load_state_dict(state[_BEST])
        self.epoch, self.accuracy, self.seconds = state["epoch"], state["accuracy"], state["seconds"]
        self.lines = lines
        checkpoint.set_random_state(state["random"])
        self.model.load_state_dict(state["model"])
