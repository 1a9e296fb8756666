"""What a step minimizes: the main loss and the transfer losses, and how their gradients are combined."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from svdistill.choices import BOUND, SCHEDULES, Clip, Schedule
from svdistill.errors import OptionError, nearest
from svdistill.gradients import check_clip
from svdistill.nets import learning_alone
from svdistill.training.schedules import cosine_decay, linear_warm_up, step_decay


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The losses of a step and their weights.

    Attributes:
        main: what the main loss is multiplied by; 0 leaves it out, and unless there are losses ``beside`` it also every
            bound by the main gradient, since there is none.
        weights: the transfer losses that take part, by the name that the distiller has for them, and what each is
            multiplied by; None: all, as they are.
        warm_up: in how many epochs of the stage the weight of a loss rises to what it is, by the same amount in each;
            of those losses whose weight does.
        clip: how the transfer gradient is combined with the main one; see :func:`svdistill.gradients.combine`.
        bound: what the rule ``own_norm`` holds the transfer gradient's norm at or below.
        beside: those of the losses that belong to the main task: their gradients join the main gradient before it
            bounds that of the others.
        max_norm: bound on the norm of the whole gradient, for instance where there is no main gradient to bound it by;
            None = no bound.
        label_smoothing: how much of each label the main loss spreads evenly over all classes, 0 ≤ label_smoothing < 1.

    Raises:
        OptionError: a weight is below 0, a warm-up is shorter than an epoch, max_norm or bound is not above 0, the rule
            of clipping is unknown, or label_smoothing is out of range.
    """

    main: float = 1.0
    weights: Mapping[str, float] | None = None
    warm_up: Mapping[str, int] = field(default_factory=dict)
    clip: Clip = "per_variable"
    bound: float = BOUND
    beside: Collection[str] = field(default_factory=frozenset)
    max_norm: float | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        given = (self.main, *(self.weights or {}).values())
        if min(given) < 0:
            raise OptionError(f"the weights of main and transfer loss are {given}, expected none below 0")
        if any(length < 1 for length in self.warm_up.values()):
            raise OptionError(f"warm_up is {dict(self.warm_up)}, expected at least 1 epoch for each of these losses")
        if self.max_norm is not None and not self.max_norm > 0:
            raise OptionError(f"max_norm is {self.max_norm}, expected a number above 0, or None")
        if not 0 <= self.label_smoothing < 1:
            raise OptionError(f"label_smoothing is {self.label_smoothing}, expected 0 or more, and less than 1")
        check_clip(self.clip, self.bound)

    @property
    def has_main(self) -> bool:
        """Whether there is a main gradient, to compare the transfer gradient with and to bound it by."""
        return self.main > 0 or bool(self.beside)

    @property
    def has_transfer(self) -> bool:
        """Whether any transfer loss takes part."""
        return self.weights is None or bool(self.weights)

    @property
    def names(self) -> Collection[str] | None:
        """The losses that take part; None: all."""
        return None if self.weights is None else tuple(self.weights)

    def weight(self, name: str, epoch: float | Tensor) -> float | Tensor:
        """Return what a loss is multiplied by.

        Args:
            name: of the loss.
            epoch: of the stage, from 0; a 0-dim tensor where it is read at each replay of a captured step.

        Returns:
            Of the type of ``epoch``; of a whole number a number.
        """
        weight = 1.0 if self.weights is None else self.weights[name]
        if (length := self.warm_up.get(name)) is None:
            return weight
        part = (epoch + 1) / length
        return weight * (part.clamp_max(1.0) if isinstance(part, Tensor) else min(part, 1.0))


class Stage(NamedTuple):
    """Epochs with one objective and one schedule; the learning rate starts anew in each.

    Attributes:
        epochs: how many, ≥ 1.
        objective: what they minimize.
        milestones: of the schedule ``steps``: the epochs of this stage, counted from 0, from which on the learning rate
            is lower by another gamma.
        gamma: the factor at each milestone.
        schedule: how the learning rate falls: in ``steps``, or by a ``cosine`` from the end of the warm-up to that of
            the stage.
        warm_up: in how many epochs at the start the rate rises to the full one, 0 ≤ warm_up < epochs.
        factor: what the full learning rate is multiplied by, > 0.
        learns: dotted name of the student's submodule that learns alone, while all else keeps its weights and
            statistics; None = the whole student.
    """

    epochs: int
    objective: Objective = Objective()
    milestones: Sequence[int] = ()
    gamma: float = 0.1
    schedule: Schedule = "steps"
    warm_up: int = 0
    factor: float = 1.0
    learns: str | None = None

    def learning(self, student: nn.Module) -> AbstractContextManager[None]:
        """Let that part of a student learn which learns in this stage, for a ``with`` block."""
        return nullcontext() if self.learns is None else learning_alone(student, self.learns)

    def rate(self, epoch: int) -> float:
        """Return what the learning rate is multiplied by in an epoch of this stage, from 0."""
        if self.schedule == "cosine":
            decay = cosine_decay(max(0, epoch - self.warm_up), epochs=self.epochs - self.warm_up)
        else:
            decay = step_decay(epoch, milestones=self.milestones, gamma=self.gamma)
        return self.factor * linear_warm_up(epoch, epochs=self.warm_up) * decay

    def check_schedule(self) -> None:
        """Raise `OptionError` unless the schedule is a known one and its warm-up ends before the rate falls."""
        if self.schedule not in SCHEDULES:
            raise OptionError(f"unknown schedule {self.schedule!r}{nearest(self.schedule, SCHEDULES)}")
        first = min((self.epochs, *(self.milestones if self.schedule == "steps" else ())))
        if self.warm_up and not 0 < self.warm_up < first:
            end = "the stage ends" if first == self.epochs else "the rate falls"
            raise OptionError(f"warm_up is {self.warm_up}, expected 0, or fewer epochs than the {first} until {end}")


def locate(stages: Sequence[Stage], epoch: int) -> tuple[int, int]:
    """Return which stage an epoch of a run is in, and which epoch of that stage it is, both from 0."""
    for number, stage in enumerate(stages):
        if epoch < stage.epochs:
            return number, epoch
        epoch -= stage.epochs
    raise ValueError("the epoch lies behind the last stage")
