"""The settings of a recipe's training: the step rule, how long, and on what. Knows no torch."""

import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import Field, Strict, ValidationInfo, field_validator, model_validator

from svdistill.choices import (
    MAX_BATCH,
    MAX_EPOCHS,
    MAX_FACTOR,
    TRACKERS,
    Capture,
    Schedule,
    Tracker,
    stage_lengths,
    whole_epochs,
)
from svdistill.errors import brief, nearest
from svdistill.recipes.base import Fraction, Length, Settings, by_name, plain_length, switched

Epoch = Annotated[int, Field(ge=1, le=MAX_EPOCHS)]


class SGDSettings(Settings):
    """Stochastic gradient descent with Nesterov momentum.

    Attributes:
        lr: learning rate at the start.
        momentum: of Nesterov's kind; 0 = none.
        weight_decay: on weights only, not on biases and batch norm.
    """

    name: Literal["sgd"]
    lr: float = Field(gt=0, le=MAX_FACTOR)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0, le=MAX_FACTOR)


class AdamWSettings(Settings):
    """AdamW.

    Attributes:
        lr: learning rate at the start.
        weight_decay: decoupled, on weights only, not on biases and batch norm.
    """

    name: Literal["adamw"]
    lr: float = Field(gt=0, le=MAX_FACTOR)
    weight_decay: float = Field(default=1e-2, ge=0, le=MAX_FACTOR)


AnyOptimizer = Annotated[SGDSettings | AdamWSettings, Field(discriminator="name")]
OPTIMIZERS: dict[str, type[Settings]] = by_name(AnyOptimizer)


class LinearProbeSettings(Settings):
    """How the output layer is trained alone.

    Attributes:
        lr: its learning rate at the start; null = the optimizer's.
    """

    lr: float | None = Field(default=None, gt=0, le=MAX_FACTOR)


class TrainSettings(Settings):
    """How long and on what.

    Attributes:
        epochs: passes over the training images.
        schedule: how the learning rate falls, from epoch to epoch: in ``steps``, at the milestones, or by a ``cosine``
            from the end of the warm-up to that of the run, where it would be 0.
        milestones: when the learning rate falls in steps: epochs (whole numbers) or fractions of all epochs (between 0
            and 1), both counted from the start of the run; a cosine does without.
        gamma: factor on the learning rate at each milestone.
        warm_up: in how many epochs (a whole number, or a fraction of all epochs) the learning rate rises linearly from
            a hundredth to the full one; they count among the ``epochs``. 0 = none.
        label_smoothing: how much of each label the main loss spreads evenly over all classes, from 0 to below 1; the
            column ``loss`` is then of the smoothed labels.
        ema: also keep an exponential moving average of the weights, and of batch norm's running statistics, with this
            decay, for instance 0.999 for one of about a thousand steps. The average is what ``accuracy`` is of and what
            is saved as the trained network; ``raw_accuracy`` is of the weights themselves. null = none.
        batch_size: images a step, of all processes and all parts together; a last partial batch is left out.
        accumulate: into how many equal parts each process divides its images, to work on one after the other, which
            needs less memory; their gradients are summed before the two tasks' are combined, so but for batch norm, and
            losses that compare images with each other, the step is that of the whole batch.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``32-true``, or ``bf16-mixed`` for autocast.
        compile: use ``torch.compile``, for the student and on a GPU for the transfer losses.
        capture: do a step as one CUDA graph, without Python in between: ``auto`` (on a GPU wherever it can be), ``on``
            (an error where it cannot; on a CPU the same steps without a graph) or ``off``.
        channels_last: lay networks and feature maps in memory channel by channel for each position (NHWC), which most
            convolutions run faster on in ``bf16-mixed``.
        recompute: keep only the inputs and outputs of the student's blocks and compute the rest again in the backward
            pass: less memory, more time; not together with ``compile``.
        checkpoint_minutes: within long epochs, save at least this often.
        log: trackers that are told the settings, the figures of each epoch and what the run comes to, besides its own
            files: any of ``tensorboard``, ``mlflow``, ``wandb`` and ``trackio``.
        first_stage: how long the first of two stages is, in epochs (a whole number) or as a fraction of ``epochs``; 0 =
            one stage. It is of the transfer task alone, at the full learning rate, and comes before the ``epochs`` of
            the main task, which have the warm-up and the schedule and are of the main task alone but for the losses
            whose ``stage`` says otherwise.
        first_stage_counts: whether the epochs of the first stage are among the ``epochs``, so that the run is as long
            as one of a single stage; otherwise they come in addition.
        first_stage_norm: bound on the norm of the whole gradient in the first of two stages, in which no main gradient
            bounds that of the transfer task; null = no bound.
        linear_probe: train the output layer alone in the ``epochs`` of the main task, on the features that the first
            stage has left, or that the network begins with: ``true``, or its settings. All else keeps its weights and
            statistics, and losses that compare feature maps end with the first stage. null = train the whole network.
        evaluate_every: measure on the test images, those held out or those of the validation after every n-th epoch,
            and after the last.
    """

    epochs: int = Field(ge=1, le=MAX_EPOCHS)
    first_stage: Length = 0
    first_stage_counts: bool = False
    first_stage_norm: float | None = Field(default=1.0, gt=0, le=MAX_FACTOR)
    linear_probe: LinearProbeSettings | None = None
    evaluate_every: int = Field(default=1, ge=1, le=MAX_EPOCHS)
    schedule: Schedule = "steps"
    milestones: Annotated[tuple[Epoch | Fraction, ...], Strict(False)] = ()
    gamma: float = Field(default=0.1, gt=0, le=1)
    warm_up: Length = 0
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema: Fraction | None = None
    batch_size: int = Field(default=128, ge=1, le=MAX_BATCH)
    accumulate: int = Field(default=1, ge=1, le=MAX_BATCH)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$")
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool = False
    capture: Capture = "auto"
    channels_last: bool = False
    recompute: bool = False
    checkpoint_minutes: float = Field(default=10.0, gt=0, le=MAX_FACTOR)
    log: Annotated[tuple[Tracker, ...], Strict(False)] = ()

    @model_validator(mode="before")
    @classmethod
    def _earlier_name(cls, settings: Any) -> Any:
        """Take ``tensorboard: true``, as earlier versions wrote it, for one of the trackers."""
        if not isinstance(settings, dict) or "tensorboard" not in settings:
            return settings
        asked = settings["tensorboard"]
        if not isinstance(asked, bool):
            raise ValueError(f"tensorboard: expected true or false, got {brief(asked)}; better give log=[tensorboard]")
        others = {key: value for key, value in settings.items() if key != "tensorboard"}
        return {**others, "log": [*_listed(others.get("log")), "tensorboard"]} if asked else others

    @field_validator("log", mode="before")
    @classmethod
    def _known_trackers(cls, value: Any) -> Any:
        names = _listed(value)
        for name in names:
            if name not in TRACKERS:
                hint = nearest(name, TRACKERS) if isinstance(name, str) else f"; known: {', '.join(TRACKERS)}"
                raise ValueError(f"no tracker {brief(name)}{hint}")
        return list(dict.fromkeys(names))

    @field_validator("milestones", mode="before")
    @classmethod
    def _plain_message(cls, value: Any) -> Any:
        """Say in one sentence what a milestone is: the union's own error has one line for each member."""
        for item in value if isinstance(value, list | tuple) else ():
            number = isinstance(item, int | float) and not isinstance(item, bool)
            if not number or not (0 < item < 1 or (isinstance(item, int) and item >= 1)):
                raise ValueError(f"each is an epoch (1, 2, …) or a fraction of all epochs (0.5); got {brief(item)}")
        return value

    @model_validator(mode="after")
    def _some_epochs_left(self) -> Self:
        if self.main_epochs < 1:
            raise ValueError(
                f"first_stage: {self.first_stage:g} leaves the main task none of {self.epochs} epochs; take a shorter "
                "one, more epochs, or first_stage_counts=false"
            )
        return self

    @model_validator(mode="after")
    def _milestones_in_order(self) -> Self:
        if self.schedule == "cosine":
            return self
        whole = [m for m in self.milestones if isinstance(m, int)]
        if whole and whole[-1] >= self.main_epochs:
            raise ValueError(
                f"milestones: {whole[-1]} is not below {self._main_text}; take lower ones, or fractions of all "
                "epochs, for instance [0.5,0.75]"
            )
        positions = [m if isinstance(m, int) else m * self.main_epochs for m in self.milestones]
        if any(later <= earlier for earlier, later in itertools.pairwise(positions)):
            raise ValueError(f"milestones: must rise, got {list(self.milestones)}")
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if self.warm_up_epochs >= self.main_epochs:
            raise ValueError(f"warm_up: {self._warm_up_text} is not below {self._main_text}; take a shorter one")
        first = min(self.milestone_epochs, default=self.main_epochs)
        if self.warm_up_epochs >= first:
            raise ValueError(
                f"warm_up: {self._warm_up_text} would end after the rate falls, at {first}; take a shorter one, or "
                "later milestones"
            )
        return self

    @model_validator(mode="after")
    def _one_who_decides(self) -> Self:
        if self.recompute and self.compile:
            raise ValueError("recompute: a compiled network decides by itself what it computes again; take either")
        return self

    @field_validator("capture", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        """Take on and off for words: YAML reads them as true and false."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @field_validator("linear_probe", mode="before")
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return switched(value)

    @field_validator("first_stage", "warm_up", mode="before")
    @classmethod
    def _plain_length(cls, value: Any, info: ValidationInfo) -> Any:
        return plain_length(value, none="one stage" if info.field_name == "first_stage" else "none")

    @property
    def all_epochs(self) -> int:
        """The length of all stages in epochs."""
        return sum(self._stages)

    @property
    def first_stage_epochs(self) -> int:
        """The length of the first of two stages in epochs, a fraction rounded up; 0 where there is one stage."""
        return self._stages[0]

    @property
    def main_epochs(self) -> int:
        """The length of the stage of the main task in epochs, which is the only one or the second of two."""
        return self._stages[1]

    @property
    def warm_up_epochs(self) -> int:
        """The length of the warm-up in epochs, a fraction rounded up."""
        return self._epochs(self.warm_up)

    @property
    def milestone_epochs(self) -> tuple[int, ...]:
        """The milestones of the schedule as epochs; fractions are rounded up, and those at the end are left out."""
        if self.schedule == "cosine":
            return ()
        return tuple(epoch for epoch in map(self._epochs, self.milestones) if epoch < self.main_epochs)

    @property
    def _stages(self) -> tuple[int, int]:
        return stage_lengths(self.epochs, self.first_stage, counts=self.first_stage_counts)

    def _epochs(self, length: float) -> int:
        return whole_epochs(length, of=self.main_epochs)

    @property
    def _main_text(self) -> str:
        if self.main_epochs == self.epochs:
            return f"the {self.epochs} of train.epochs"
        return f"the {self.main_epochs} epochs that the first stage leaves"

    @property
    def _warm_up_text(self) -> str:
        whole = f"{self.warm_up_epochs} epoch{'s' if self.warm_up_epochs > 1 else ''}"
        return whole if isinstance(self.warm_up, int) else f"{self.warm_up:g} of the epochs, rounded up to {whole},"


def _listed(value: Any) -> list[Any]:
    """Take one name for a list of one, and null for none."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
