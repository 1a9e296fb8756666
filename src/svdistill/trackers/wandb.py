"""A run for Weights & Biases: online where somebody is logged in, else in files for ``wandb sync``."""

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from svdistill.trackers.protocol import PROJECT, About, Known, Tracker

_CONNECT_SECONDS = 20.0


class WandB(Tracker):
    """Keeps the run in a project and group, unless the environment names others."""

    def open(self, about: About, known: Known | None) -> Known:
        """Begin a run, or resume the known one; without a terminal to ask on, and without a word on it."""
        os.environ.setdefault("WANDB_SILENT", "true")  # its own setting is read too late for the login
        import wandb

        mode = os.environ.get("WANDB_MODE")
        if mode is None:
            mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
        identity = known.id if known else uuid.uuid4().hex[:12]
        self._artifact = about.artifact
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=os.environ.get("WANDB_RUN_GROUP", about.group),
            job_type=about.method,
            name=about.name,
            id=identity,
            resume="allow" if mode == "online" else None,  # offline it means nothing, and is warned of
            config=about.config,
            mode=mode,
            reinit="create_new",  # a run that the caller has open stays open
            settings=wandb.Settings(silent=True, console="off", init_timeout=_CONNECT_SECONDS),
        )
        return Known(identity, known.epochs if known else 0)

    def log(self, figures: Mapping[str, float], epoch: int) -> None:
        """Add an epoch's figures."""
        self._run.log(dict(figures), step=epoch)

    def hand_in(self, figures: Mapping[str, float], files: Sequence[Path], epoch: int) -> None:
        """Add the summary, and the files as one artifact."""
        import wandb

        self._run.summary.update(dict(figures))
        artifact = wandb.Artifact(self._artifact, type="run")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, *, failed: bool) -> None:
        """Wait until all is written or sent."""
        self._run.finish(exit_code=int(failed))
