"""What a run writes and reads back: recipe, environment, metrics, summary. Nothing here needs a model or a GPU."""

from svdistill.records.metrics import ACCURACY, VALIDATION_ACCURACY, Metrics
from svdistill.records.provenance import MACHINE_KEYS, NOT_TOLD_APART, environment
from svdistill.records.run import RunRecord, is_set_aside
from svdistill.records.sealed import finite

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
