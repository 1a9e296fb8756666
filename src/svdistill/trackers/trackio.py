"""A run for Trackio: in the folder of all its projects, unless the environment names a server or a Space."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from svdistill.trackers.protocol import PROJECT, About, Known, Tracker

_ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


class Trackio(Tracker):
    """Keeps the run in a project and group."""

    def open(self, about: About, known: Known | None) -> Known:
        """Begin a run, or resume the known one."""
        import trackio

        _hush()
        self._name, self._artifact = about.name, about.artifact
        self._run = trackio.init(
            project=PROJECT,
            name=about.name,
            group=about.group,
            resume="allow" if known else "never",
            config=about.config,
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        return Known(about.name, self._epochs(known))

    def _epochs(self, known: Known | None) -> int:
        """Return how many epochs it has: of what was logged last, a kill may have lost some."""
        if known is None or any(name in os.environ for name in _ELSEWHERE):
            return known.epochs if known else 0
        from trackio.sqlite_storage import SQLiteStorage

        return SQLiteStorage.get_max_step_for_run(PROJECT, self._name, run_id=self._run.id) or 0

    def log(self, figures: Mapping[str, float], epoch: int) -> None:
        """Add an epoch's figures."""
        self._run.log(dict(figures), step=epoch)

    def hand_in(self, figures: Mapping[str, float], files: Sequence[Path], epoch: int) -> None:
        """Add the summary, and the files as one artifact."""
        import trackio

        self.log(figures, epoch)
        artifact = trackio.Artifact(name=self._artifact, type="run")
        for file in files:
            artifact.add_file(file)
        self._run.log_artifact(artifact)

    def close(self, *, failed: bool) -> None:
        """Wait until all is written or sent."""
        self._run.finish()


def _hush() -> None:
    """Keep Trackio from printing where our own results go, for which it has no setting."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "trackio":
            vars(module)["print"] = _say_nothing


def _say_nothing(*_: object, **__: object) -> None:
    return
