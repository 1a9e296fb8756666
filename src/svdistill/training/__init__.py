"""Training: engine, step, loop, evaluation, checkpoints."""

from svdistill.training.backward import Backward, backward, joint_loss
from svdistill.training.buffered import BufferedSteps
from svdistill.training.engine import Engine, launch
from svdistill.training.evaluate import evaluate
from svdistill.training.loop import fit, has_checkpoint
from svdistill.training.memory import has_room_for
from svdistill.training.objective import Objective, Stage
from svdistill.training.optimizers import make_optimizer
from svdistill.training.plan import TrainingPlan
from svdistill.training.processes import Processes, leave, speaks_first
from svdistill.training.progress import NoProgress, Progress
from svdistill.training.reduce import Reducer
from svdistill.training.sharding import shard_parameters
from svdistill.training.step import Examples, Learner, StepResult, step, take_step
from svdistill.training.steps import obstacle_to_buffers, obstacle_to_capture

__all__ = [
    "Backward",
    "BufferedSteps",
    "Engine",
    "Examples",
    "Learner",
    "NoProgress",
    "Objective",
    "Processes",
    "Progress",
    "Reducer",
    "Stage",
    "StepResult",
    "TrainingPlan",
    "backward",
    "evaluate",
    "fit",
    "has_checkpoint",
    "has_room_for",
    "joint_loss",
    "launch",
    "leave",
    "make_optimizer",
    "obstacle_to_buffers",
    "obstacle_to_capture",
    "shard_parameters",
    "speaks_first",
    "step",
    "take_step",
]
