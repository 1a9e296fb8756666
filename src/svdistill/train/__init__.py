"""Training: engine, step, loop, evaluation, checkpoints."""

from svdistill.train.engine import Fabric, launch
from svdistill.train.evaluate import evaluate
from svdistill.train.loop import StepResult, fit, step
from svdistill.train.objective import Objective, Stage
from svdistill.train.optimizers import make_optimizer
from svdistill.train.processes import Processes, Sum, leave, speaks_first
from svdistill.train.progress import Progress, Silent
from svdistill.train.sharding import shard

__all__ = [
    "Fabric",
    "Objective",
    "Processes",
    "Progress",
    "Silent",
    "Stage",
    "StepResult",
    "Sum",
    "evaluate",
    "fit",
    "launch",
    "leave",
    "make_optimizer",
    "shard",
    "speaks_first",
    "step",
]
