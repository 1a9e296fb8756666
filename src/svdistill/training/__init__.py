"""Training: engine, step, loop, evaluation, checkpoints."""

from svdistill.training.engine import Engine, launch
from svdistill.training.evaluate import evaluate
from svdistill.training.loop import StepResult, fit, step
from svdistill.training.objective import Objective, Stage
from svdistill.training.optimizers import make_optimizer
from svdistill.training.processes import Processes, Sum, leave, speaks_first
from svdistill.training.progress import Progress, Silent
from svdistill.training.sharding import shard

__all__ = [
    "Engine",
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
