"""Very small runs with trackers."""

from svdistill import jobs
from svdistill.jobs import NoCallbacks
from svdistill.training import NoProgress

TINY = ["model.width=0.1", "data.image_size=8", "data.train_size=20", "train.batch_size=10", "train.epochs=3"]
TINY += ["model.taps=[block1,block2]", "train.device=cpu"]


def train(runs, trackers, *overrides, after=None):
    """Train a student alone.

    Args:
        runs: folder of all runs.
        trackers: as ``train.log`` takes them.
        overrides: further settings.
        after: called after each epoch, with its number.
    """

    class Watcher(NoCallbacks):
        def training(self, recipe, run):
            return Steps()

    class Steps(NoProgress):
        def epoch(self, metrics):
            if after is not None:
                after(metrics["epoch"])

    settings = [*TINY, f"train.log=[{','.join(trackers)}]", *overrides]
    return jobs.train("digits/student", overrides=settings, runs=runs, callbacks=Watcher())


def pull_the_plug(epoch):
    """End the run as Ctrl-C does, in its third epoch."""
    if epoch == 2:
        raise KeyboardInterrupt


def title(run):
    """Return what trackers call a run."""
    return f"{run.path.parent.parent.name}/{run.path.parent.name}/{run.path.name}"
