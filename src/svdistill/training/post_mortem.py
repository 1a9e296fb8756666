"""What is kept of steps that were not applied, so that somebody can look into them later."""

import json
import math
from collections.abc import Sequence
from typing import Any

from svdistill.atomic import write_atomically
from svdistill.errors import TrainingError
from svdistill.plain import parse_json
from svdistill.records import RunRecord
from svdistill.training.skips import Skip
from svdistill.training.state import RunState

# More are not kept: by then the first ones tell enough.
_MOST = 200


class PostMortem:
    """Writes ``post-mortem.json`` into a run's folder: which steps were not applied, of which images, and why it ended.

    Args:
        record: of the run.
        state: of the run.

    Attributes:
        record: as given.
        told: whether somebody has been told of steps that were not applied.
    """

    def __init__(self, record: RunRecord, state: RunState) -> None:
        self.record = record
        self.told = False
        self._state = state

    def note(self, skips: Sequence[Skip]) -> None:
        """Write down steps of the current epoch; what is known of earlier ones, and of the same, stays once.

        Args:
            skips: the steps.
        """
        self._write(skips)

    def save_state(self) -> None:
        """Write the state of the run, with the weights that the first of the latest skipped steps in a row found."""
        self._state.save(self.record.post_mortem_state)

    def end(self, skips: Sequence[Skip], *, broken: str | None) -> None:
        """Write down why a run ends.

        Args:
            skips: of the current epoch.
            broken: what was the first that was not finite, in words, where that is known.
        """
        state = str(self.record.post_mortem_state.relative_to(self.record.path))
        self._write(skips, end={"epoch": self._state.epoch + 1, "broke_first": broken, "state": state})

    def _write(self, skips: Sequence[Skip], **others: Any) -> None:
        epoch = self._state.epoch + 1
        last = self.record.last
        known = {(line["epoch"], line["step"]): line for line in self._known()}
        for skip in skips:
            known[epoch, skip.step] = {
                "epoch": epoch,
                "step": skip.step,
                "loss": _number(skip.loss),
                "transfer": _number(skip.transfer),
                "images": skip.images,
                "checkpoint_before": str(last.relative_to(self.record.path)) if last.exists() else None,
            }
        lines = [line for _, line in sorted(known.items())][:_MOST]
        try:
            write_atomically(self.record.post_mortem, json.dumps({"skipped": lines, **others}, indent=1).encode())
        except OSError as error:
            raise TrainingError(
                f"cannot write {self.record.post_mortem} ({error.strerror or error}); make room for it, and resume"
            ) from error

    def _known(self) -> list[dict[str, Any]]:
        """Return what was written before; nothing where that is damaged, since it is written anew."""
        try:
            lines = parse_json(self.record.post_mortem.read_bytes())["skipped"]
            return [line for line in lines if isinstance(line["epoch"], int) and isinstance(line["step"], int)]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return []


def _number(value: float) -> float | str:
    """Return a number as JSON can hold it: one that is not finite in words."""
    return value if math.isfinite(value) else str(value)
