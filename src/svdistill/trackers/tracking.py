"""The trackers of a run, told of it as it goes."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from warnings import warn

from svdistill import choices
from svdistill.errors import SvdistillError, SvdistillWarning, one_line
from svdistill.records import RunRecord
from svdistill.report.extra import can_draw
from svdistill.runs import flat
from svdistill.trackers.behind import BehindThread
from svdistill.trackers.mlflow import MLflow
from svdistill.trackers.protocol import About, Tracker
from svdistill.trackers.tensorboard import TensorBoard
from svdistill.trackers.trackio import Trackio
from svdistill.trackers.wandb import WandB
from svdistill.training.progress import Progress

_CLOSE_SECONDS = 60.0
_MAKES: dict[choices.Tracker, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
    "trackio": Trackio,
}


class Tracking(Progress):
    """Tells trackers of a run, and whoever else watches it; in a block around the training.

    Each has a thread of its own. One that cannot be reached, fails or does not answer is warned of once, and the run
    continues without it.

    Args:
        names: of the trackers.
        record: the run's folder, which is made before :meth:`start` is called.
        method: what helps the student, in a word.
        progress: who watches the run, too.
    """

    def __init__(self, names: Sequence[choices.Tracker], record: RunRecord, *, method: str, progress: Progress) -> None:
        self._record = record
        self._method = method
        self._progress = progress
        self._trackers = [BehindThread(name, _MAKES[name](), record.trackers / f"{name}.json") for name in names]
        self._wants_files = any(name != "tensorboard" for name in names)
        self._begun = False
        self._kept = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._kept:
            if self._begun:
                for tracker in self._trackers:
                    tracker.close(failed=kind is not None)
                deadline = time.monotonic() + _CLOSE_SECONDS
                for tracker in self._trackers:
                    tracker.end(deadline)

    def start(self, epochs: int, steps: int, done_epochs: int) -> None:
        """Open all of them, side by side."""
        if self._trackers:
            about, lines = self._about(), self._record.metrics.read()
            for tracker in self._trackers:
                tracker.open(about, lines)
            self._begun = True
            for tracker in self._trackers:
                tracker.wait()
        self._progress.start(epochs, steps, done_epochs)

    def step(self, *, loss: float, images: int) -> None:
        """Pass it on; no tracker is told."""
        self._progress.step(loss=loss, images=images)

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Log it."""
        self._progress.epoch(metrics)
        for tracker in self._trackers:
            tracker.log(metrics)

    def finish(self) -> None:
        """Pass it on; the trackers have yet to get the summary."""
        self._progress.finish()

    def hand_in(self) -> None:
        """Hand in the summary and the files of the run, which has ended."""
        if not self._trackers:
            return
        summary = self._record.summary()
        files = self._files() if self._wants_files else []
        for tracker in self._trackers:
            tracker.hand_in(summary, files, summary["epochs"])

    def _about(self) -> About:
        folder = self._record.path
        recipe, tags = self._record.recipe(), self._record.environment()
        return About(
            name=f"{recipe['name']}/{folder.name}",
            group=recipe["name"].partition("/")[0],
            method=self._method,
            settings=flat(recipe),
            tags={name: _text(value) for name, value in tags.items() if name != "checksum"}
            | {"method": self._method, "folder": str(folder.resolve())},
            folder=self._record.tensorboard,
        )

    def _files(self) -> list[Path]:
        """Return what is handed in, with a report that is kept until all trackers have it."""
        files = [self._record.student, *(self._record.path / name for name in ("recipe.yaml", "summary.json"))]
        if not can_draw():
            return files
        from svdistill.report import page

        folder = self._kept.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        try:
            return [page.write([self._record.path], Path(folder) / "report.html").path, *files]
        except SvdistillError as error:
            warn(f"no report for the trackers: {one_line(error)}", SvdistillWarning, stacklevel=2)
            return files


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
