"""What a run writes and reads back: recipe, environment, metrics, summary. Nothing here needs a model or a GPU."""

from svdistill.records.metrics import ACCURACY, VALIDATION_ACCURACY, Metrics
from svdistill.records.provenance import environment
from svdistill.records.run import RunRecord, is_set_aside
from svdistill.records.sealed import finite

# Where the files lie, on what the run runs and how often it saves: none of it changes the result beyond rounding.
MACHINE_KEYS = (
    "data.root",
    "train.device",
    "train.compile",
    "train.capture",
    "train.channels_last",
    "train.recompute",
    "train.checkpoint_minutes",
    "train.log",
    "teacher.shard",
)
# What a run's folder is not called after: also where the images without labels lie.
NOT_TOLD_APART = (*MACHINE_KEYS, "data.unlabelled.root")

__all__ = [
    "ACCURACY",
    "MACHINE_KEYS",
    "NOT_TOLD_APART",
    "VALIDATION_ACCURACY",
    "Metrics",
    "RunRecord",
    "environment",
    "finite",
    "is_set_aside",
]
