"""A run's figures for TensorBoard, beside ``metrics.jsonl``; the package is needed only by those who ask for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdistill.errors import OptionError
from svdistill.training.progress import Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def check_installed() -> None:
    """Make sure that TensorBoard's files can be written.

    Raises:
        OptionError: the package is missing.
    """
    _writer_class()


class TensorBoard(Progress):
    """Writes one scalar a figure and epoch; a run that resumes replaces what it had not finished.

    Args:
        folder: for the event files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def start(self, epochs: int, steps: int, done_epochs: int) -> None:
        """Open a file whose epochs follow those that are done."""
        self._writer = _writer_class()(str(self._folder), purge_step=done_epochs + 1)

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Write an epoch's figures."""
        assert self._writer is not None
        for name, value in metrics.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, metrics["epoch"])
        self._writer.flush()

    def finish(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


def _writer_class() -> "type[SummaryWriter]":
    try:
        from torch.utils.tensorboard import SummaryWriter  # late: it takes a second
    except ImportError as error:
        raise OptionError(
            "TensorBoard needs the package tensorboard; install it with: pip install 'svdistill[tensorboard]'"
        ) from error
    return SummaryWriter
