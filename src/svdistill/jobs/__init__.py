"""What the commands do for one run, callable from Python."""

from svdistill.jobs.cache import Stored, cache
from svdistill.jobs.callbacks import Callbacks, NoCallbacks
from svdistill.jobs.evaluate import evaluate
from svdistill.jobs.run import Run
from svdistill.jobs.train import train

__all__ = ["Callbacks", "NoCallbacks", "Run", "Stored", "cache", "evaluate", "train"]
