"""All that a training needs to know beside the engine and the folder of the run."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svdistill.choices import CAPTURES, Capture
from svdistill.data import Batches, ImageSource, Mixed
from svdistill.distiller import Distiller
from svdistill.errors import OptionError, nearest
from svdistill.records import ACCURACY, VALIDATION_ACCURACY
from svdistill.training.objective import Stage
from svdistill.training.optimizers import check_reached
from svdistill.training.step import check_mixable


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingPlan:
    """What is trained, on what, for how long, and how often it is looked at.

    Attributes:
        distiller: student, and teacher if there is one.
        optimizer: of the distiller's parameters, from :func:`svdistill.training.make_optimizer`.
        batches: the training batches, of which this process's shard is handed out.
        test: the images to evaluate on while training.
        mean: (C,), of the training set, with which ``batches`` are standardized.
        std: (C,), of the training set.
        stages: one, or several that follow each other; their epochs add up to the run's.
        evaluate_every: evaluate after every n-th epoch, n ≥ 1, and after the last.
        checkpoint_minutes: how often ``last.pt`` is also written inside an epoch; 0 after every step.
        compile: whether to compile the student, and on a GPU the transfer losses; the first step of each mode then
            takes much longer.
        accumulate: into how many parts each process divides its shard of a batch; see
            :class:`svdistill.training.Learner`.
        capture: whether a step is captured as a CUDA graph: ``auto`` on a GPU wherever it can be, ``on`` is an error
            where it cannot, and on a CPU does the same without a graph.
        ema: decay of an exponential moving average of the weights, anew in each stage, 0 < ema < 1; None = no average.
        validates: whether ``test`` are images to choose the best epoch by, whose weights the student has at the end.

    Raises:
        OptionError: a setting is out of range, the optimizer is not the distiller's, a loss needs labels and there
            are none, or images are mixed that teacher or losses must see as they are.
    """

    distiller: Distiller
    optimizer: torch.optim.Optimizer
    batches: Batches | Mixed
    test: ImageSource
    mean: Tensor
    std: Tensor
    stages: Sequence[Stage]
    evaluate_every: int = 1
    checkpoint_minutes: float = 10.0
    compile: bool = False
    accumulate: int = 1
    capture: Capture = "auto"
    ema: float | None = None
    validates: bool = False

    def __post_init__(self) -> None:
        lengths = [stage.epochs for stage in self.stages]
        if not lengths or min(lengths) < 1:
            raise OptionError(f"the epochs of the stages are {lengths}, expected at least 1 in each")
        for stage in self.stages:
            stage.check_schedule()
        for name, value in (("evaluate_every", self.evaluate_every), ("accumulate", self.accumulate)):
            if value < 1:
                raise OptionError(f"{name} is {value}, expected at least 1")
        if self.ema is not None and not 0 < self.ema < 1:
            raise OptionError(f"ema is {self.ema}, expected more than 0 and less than 1, or None")
        if self.capture not in CAPTURES:
            raise OptionError(f"unknown capture {self.capture!r}{nearest(self.capture, CAPTURES)}")
        known = {id(parameter) for parameter in self.distiller.parameters()}
        if not all(id(p) in known for group in self.optimizer.param_groups for p in group["params"]):
            raise OptionError("the optimizer holds parameters that are not the distiller's; make it from distiller")
        check_reached(self.optimizer, self.distiller)
        if self.distiller.needs_labels and not (self.batches.labels >= 0).any():
            raise OptionError(
                f"the loss {min(self.distiller.needs_labels)} compares with the labels of the images, and none of the "
                "training images has one; give batches with labelled images, or another loss"
            )
        if self.batches.mixes:
            check_mixable(self.distiller)

    @property
    def measures(self) -> str:
        """What the accuracy on ``test`` is called among an epoch's figures."""
        return VALIDATION_ACCURACY if self.validates else ACCURACY

    @property
    def epochs(self) -> int:
        """The epochs of all stages."""
        return sum(stage.epochs for stage in self.stages)
