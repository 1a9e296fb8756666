"""A run for MLflow: on the server of ``MLFLOW_TRACKING_URI``, else in ``mlflow.db`` where the program was called.

The extra brings ``mlflow_skinny``, MLflow without server and page, and for the file ``sqlalchemy`` and ``alembic``.
"""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from svdistill.atomic import locked
from svdistill.trackers.protocol import PROJECT, About, Known, Tracker

if TYPE_CHECKING:
    from mlflow.entities import Run

_MOST_PARAMETERS = 100  # in one request
_LONGEST = 6000  # characters of a value
# By itself, MLflow asks a server that is gone for minutes, and tells of each table that it makes in a new file.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


class MLflow(Tracker):
    """Keeps the run in an experiment of its group, unless the environment names another."""

    def open(self, about: About, known: Known | None) -> Known:
        """Begin a run in its experiment, or find the known one again."""
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient, get_tracking_uri

        _, is_file, file = str(get_tracking_uri()).partition("sqlite:///")
        # Of several runs that begin side by side, one makes the tables, and MLflow lets them collide.
        with locked(file) if is_file else nullcontext():
            self._client = MlflowClient()
            return self._begin(about, known)

    def _begin(self, about: About, known: Known | None) -> Known:
        from mlflow.entities import Param

        run = None if known is None else self._find(known.id)
        if run is None:
            run = self._client.create_run(self._experiment(about.group), run_name=about.name, tags=dict(about.tags))
        else:
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._run = run.info.run_id
        parameters = [Param(key, _text(value)) for key, value in about.settings.items()]
        for first in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(self._run, params=parameters[first : first + _MOST_PARAMETERS])
        return Known(self._run, int(run.data.metrics.get("epoch", 0)))

    def _find(self, run: str) -> "Run | None":
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_run(run)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return found if found.info.lifecycle_stage == "active" else None

    def _experiment(self, group: str) -> str:
        from mlflow.exceptions import MlflowException

        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or f"{PROJECT}/{group}"
        if (found := self._client.get_experiment_by_name(name)) is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except MlflowException as error:
            # Another run of the comparison has made it meanwhile.
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or (
                (found := self._client.get_experiment_by_name(name)) is None
            ):
                raise
            return str(found.experiment_id)

    def log(self, figures: Mapping[str, float], epoch: int) -> None:
        """Send an epoch's figures in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(key, value, now, epoch) for key, value in figures.items()])

    def hand_in(self, figures: Mapping[str, float], files: Sequence[Path], epoch: int) -> None:
        """Send the summary and the files."""
        # Behind a slash its page would show them first, each as a chart of one point.
        self.log({name.replace("/", "."): value for name, value in figures.items()}, epoch)
        for file in files:
            self._client.log_artifact(self._run, str(file))

    def close(self, *, failed: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


def _text(value: object) -> str:
    return (", ".join(map(str, value)) if isinstance(value, tuple) else str(value))[:_LONGEST]
