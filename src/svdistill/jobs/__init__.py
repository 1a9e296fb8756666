"""What the commands do for one run, callable from Python."""

from svdistill.jobs.cache import Stored, cache
from svdistill.jobs.callbacks import Callbacks, NoCallbacks
from svdistill.jobs.deployment import Export, Measured, Pictures, export
from svdistill.jobs.diagnostics import Tapped, diagnose
from svdistill.jobs.evaluate import evaluate
from svdistill.jobs.hub import HubError, pull, push
from svdistill.jobs.predict import Prediction, predict
from svdistill.jobs.run import Run
from svdistill.jobs.student import Student
from svdistill.jobs.train import train

__all__ = [
    "Callbacks",
    "Export",
    "HubError",
    "Measured",
    "NoCallbacks",
    "Pictures",
    "Prediction",
    "Run",
    "Stored",
    "Student",
    "Tapped",
    "cache",
    "diagnose",
    "evaluate",
    "export",
    "predict",
    "pull",
    "push",
    "train",
]
