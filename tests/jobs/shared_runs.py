"""Runs that several processes make together; see test_processes.py. Usage: shared_runs.py FOLDER."""

import os
import sys
from pathlib import Path

from svdistill import jobs
from svdistill.jobs import NoCallbacks
from svdistill.training import NoProgress

TINY = ["model.width=0.1", "data.image_size=8", "data.train_size=20", "train.batch_size=10", "train.epochs=2"]
TINY += ["train.ema=0.5", "model.taps=[block1,block2]"]  # further down 8×8 pixels leave a single position
HELPED = [*TINY, *(f"teacher.overrides.{setting}" for setting in TINY), "train.device=cpu"]
ALONE = [*TINY, "train.device=cpu"]


class Plug(NoProgress):
    """Pulls the plug after the first epoch."""

    def epoch(self, metrics):
        """End the run as Ctrl-C does."""
        raise KeyboardInterrupt


class Stops(NoCallbacks):
    """Hands out plugs."""

    def training(self, recipe, run):
        """Return one."""
        return Plug()


class Speaker(NoCallbacks):
    """Says what it is told."""

    def waiting(self, recipe, run):
        """Say what is waited for."""
        print(f"waiting for {recipe.name}", flush=True)

    def found(self, recipe, run):
        """Say what is there."""
        print(f"found {recipe.name}", flush=True)


def main(folder):
    """Make a run whose teacher somebody else holds, resume one, find one, and leave one in the middle."""
    runs = Path(folder)
    jobs.train("digits/svd", overrides=[*HELPED, "teacher.shard=true"], runs=runs, callbacks=Speaker())
    jobs.train(
        "digits/svd", overrides=[*HELPED, "teacher.views=2", "train.batch_size=20", "train.accumulate=5"], runs=runs
    )
    jobs.train("digits/student", overrides=ALONE, runs=runs, callbacks=Speaker())
    jobs.train("digits/student", overrides=ALONE, runs=runs, callbacks=Speaker())
    try:
        jobs.train("digits/student", overrides=[*ALONE, "seed=7"], runs=runs, callbacks=Stops())
    except BaseException as error:
        print(type(error).__name__, error, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # as the program svdistill ends, see svdistill.cli.app
