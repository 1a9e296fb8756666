"""A run for TensorBoard, in its own folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from svdistill.trackers.protocol import About, Known, Tracker


class TensorBoard(Tracker):
    """Writes one scalar a figure and epoch; a run that resumes replaces what it had not finished."""

    def open(self, about: About, known: Known | None) -> Known:
        """Open a file whose epochs follow those that are known."""
        from torch.utils.tensorboard import SummaryWriter  # late: it takes a second

        epochs = known.epochs if known else 0
        self._writer = SummaryWriter(str(about.folder), purge_step=epochs + 1)
        if known is None:
            for title, content in (("recipe", about.settings), ("tags", about.tags)):
                text = yaml.safe_dump(_plain(content), sort_keys=False, allow_unicode=True)
                self._writer.add_text(title, "".join(f"    {line}\n" for line in text.splitlines()), 0)
        return Known(about.folder.name, epochs)

    def log(self, figures: Mapping[str, float], epoch: int) -> None:
        """Write an epoch's figures."""
        for name, value in figures.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def hand_in(self, figures: Mapping[str, float], files: Sequence[Path], epoch: int) -> None:
        """Write the summary; the files lie beside it anyway."""
        self.log(figures, epoch)

    def close(self, *, failed: bool) -> None:
        """Close the file."""
        self._writer.close()


def _plain(content: Mapping[str, object]) -> dict[str, object]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in content.items()}
