"""What the commands do, callable from Python."""

from svdistill.jobs.demo import Demo, demo
from svdistill.jobs.evaluate import evaluate
from svdistill.jobs.run import Run
from svdistill.jobs.train import train
from svdistill.jobs.watch import Nobody, Watcher

__all__ = ["Demo", "Nobody", "Run", "Watcher", "demo", "evaluate", "train"]
