"""The settings of a run, validated: what a recipe may say and within which bounds. Knows no torch."""

import hashlib
import itertools
import json
import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

Taps = Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Epoch = Annotated[int, Field(ge=1)]

# Where the files lie, on what the run runs and how often it saves: none of it changes the result beyond rounding.
MACHINE_KEYS = ("data.root", "train.device", "train.compile", "train.checkpoint_minutes")


class Settings(BaseModel):
    """Base of every part of a recipe: unknown keys and wrong types are refused, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class AugmentSettings(Settings):
    """Random warps of the training images.

    Attributes:
        flip: mirror half of the images left to right; refused for data sets where a mirror image is another class.
        rotation: rotate by up to so many degrees to either side.
        shift: move by up to so many pixels in each direction, the edge filled with zeros.
    """

    flip: bool = False
    rotation: float = Field(default=0.0, ge=0, le=180)
    shift: int = Field(default=0, ge=0, le=4096)


class DataSettings(Settings):
    """The images.

    Attributes:
        name: a data set's name, e.g. ``digits``.
        root: folder that holds its files; null = the usual places, then a download.
        train_size: use only so many labelled training images, equally many of each class; null = all.
        image_size: resize once to this many pixels a side; null = as they are.
        augment: random warps of the training images.
    """

    name: str
    root: str | None = None
    train_size: int | None = Field(default=None, ge=1)
    image_size: int | None = Field(default=None, ge=1, le=4096)
    augment: AugmentSettings = AugmentSettings()


class ModelSettings(Settings):
    """A network by name.

    Attributes:
        name: e.g. ``vgg-bn-student``.
        width: factor on every channel count.
        taps: dotted names of the submodules whose outputs are compared, in order; null = the model's own.
    """

    name: str
    width: float = Field(default=1.0, gt=0, le=64)
    taps: Taps | None = None


class TeacherSettings(Settings):
    """The trained network that helps: either a recipe, trained first where needed, or a saved student file.

    Attributes:
        recipe: a recipe's name or path. Its seed is its own, so that all seeds of a student share one teacher.
        overrides: settings that replace those of the teacher's recipe, nested as in a recipe.
        checkpoint: path of a ``.safetensors`` file that an earlier run has written.
        taps: as for the model; null = the taps of the teacher's recipe or model.
    """

    recipe: str | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)
    checkpoint: str | None = None
    taps: Taps | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.recipe is None) == (self.checkpoint is None):
            came = "neither is" if self.recipe is None else "both are"
            raise ValueError(f"give either 'recipe' or 'checkpoint'; {came} given")
        if self.checkpoint is not None and self.overrides:
            raise ValueError("'overrides' belongs to a teacher given by 'recipe'; a checkpoint is taken as it is")
        return self


class SVDLossSettings(Settings):
    """KD-SVD: the transfer loss of METHOD section 2 and how its gradient is joined to the main one (section 3).

    Attributes:
        rank: kept singular vectors, k.
        beta: width of the radial basis function.
        assignment: which student vector answers which teacher vector; null = by rank.
        gradient: derivative of the truncated SVD.
        reduction: over the batch; ``sum`` as published, made for the clipping.
        clip: how the transfer gradient is bounded by the main one.
        weight: factor on the transfer loss.
        main_weight: factor on the main loss.
    """

    name: Literal["svd"]
    rank: int = Field(default=1, ge=1)
    beta: float = Field(default=8.0, gt=0)
    assignment: Literal["argmax", "one_to_one"] | None = None
    gradient: Literal["exact", "paper"] = "exact"
    reduction: Literal["sum", "mean"] = "sum"
    clip: Literal["per_variable", "global", "poster", "none"] = "per_variable"
    weight: float = Field(default=1.0, gt=0)
    main_weight: float = Field(default=1.0, ge=0)


class SoftTargetLossSettings(Settings):
    """Soft targets (Hinton et al. 2015): temperature² times the divergence of the softened outputs.

    Attributes:
        temperature: divides both networks' logits.
        clip: how the transfer gradient is bounded by the main one; a plain weighted sum, as published, by default.
        weight: factor on the transfer loss.
        main_weight: factor on the main loss.
    """

    name: Literal["soft-target"]
    temperature: float = Field(default=4.0, gt=0)
    clip: Literal["per_variable", "global", "poster", "none"] = "none"
    weight: float = Field(default=0.9, gt=0)
    main_weight: float = Field(default=0.1, ge=0)


class SGDSettings(Settings):
    """Stochastic gradient descent with Nesterov momentum.

    Attributes:
        lr: learning rate at the start.
        momentum: of Nesterov's kind; 0 = none.
        weight_decay: on weights only, not on biases and batch norm.
    """

    name: Literal["sgd"]
    lr: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)


class AdamWSettings(Settings):
    """AdamW.

    Attributes:
        lr: learning rate at the start.
        weight_decay: decoupled, on weights only, not on biases and batch norm.
    """

    name: Literal["adamw"]
    lr: float = Field(gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)


class TrainSettings(Settings):
    """How long and on what.

    Attributes:
        epochs: passes over the training images.
        milestones: when the learning rate falls: an epoch (a whole number) or a share of all epochs (between 0 and 1).
        gamma: factor on the learning rate at each milestone.
        batch_size: images a step; a last partial batch is left out.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``32-true``, or ``bf16-mixed`` for autocast.
        compile: use ``torch.compile``.
        checkpoint_minutes: within long epochs, save at least this often.
    """

    epochs: int = Field(ge=1)
    milestones: Annotated[tuple[Epoch | Share, ...], Strict(False)] = ()
    gamma: float = Field(default=0.1, gt=0, le=1)
    batch_size: int = Field(default=128, ge=1)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool = False
    checkpoint_minutes: float = Field(default=10.0, gt=0)

    @field_validator("milestones", mode="before")
    @classmethod
    def _plain_message(cls, value: Any) -> Any:
        """Say in one sentence what a milestone is: the union's own error has one line for each member."""
        for item in value if isinstance(value, list | tuple) else ():
            number = isinstance(item, int | float) and not isinstance(item, bool)
            if not number or not (0 < item < 1 or (isinstance(item, int) and item >= 1)):
                raise ValueError(f"each is an epoch (1, 2, …) or a share of all epochs (0.5); got {item!r}")
        return value

    @model_validator(mode="after")
    def _milestones_in_order(self) -> Self:
        whole = [m for m in self.milestones if isinstance(m, int)]
        if whole and whole[-1] >= self.epochs:
            raise ValueError(f"milestones: {whole[-1]} is not below epochs, {self.epochs}")
        places = [m if isinstance(m, int) else m * self.epochs for m in self.milestones]
        if any(later <= earlier for earlier, later in itertools.pairwise(places)):
            raise ValueError(f"milestones: must rise, got {list(self.milestones)}")
        return self

    @property
    def milestone_epochs(self) -> tuple[int, ...]:
        """The milestones as epochs; shares are rounded up, and those that fall on the end are left out."""
        places = [m if isinstance(m, int) else math.ceil(m * self.epochs - 1e-9) for m in self.milestones]
        return tuple(place for place in places if place < self.epochs)


class Recipe(Settings):
    """Everything that one run is told.

    Attributes:
        name: what the run's folder is called.
        description: one line for the list of recipes.
        seed: fixes the labelled subset, the initial weights, the order of the images and their warps.
        data: the images.
        model: the network to be trained, called the student where there is a teacher.
        teacher: the network that helps, or null.
        loss: the transfer loss, or null; there is one exactly where there is a teacher.
        optimizer: the step rule.
        train: how long and on what.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")
    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**32)
    data: DataSettings
    model: ModelSettings
    teacher: TeacherSettings | None = None
    loss: Annotated[SVDLossSettings | SoftTargetLossSettings, Field(discriminator="name")] | None = None
    optimizer: Annotated[SGDSettings | AdamWSettings, Field(discriminator="name")]
    train: TrainSettings

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.loss is None and self.teacher is not None:
            raise ValueError("teacher: a teacher without 'loss'; give loss.name=svd or take teacher=null")
        if self.loss is not None and self.teacher is None:
            raise ValueError("loss: a transfer loss without 'teacher'; give teacher.recipe=NAME or take loss=null")
        size = self.data.train_size
        if size is not None and self.train.batch_size > size:
            raise ValueError(
                f"train.batch_size: {self.train.batch_size} is more than the {size} images of data.train_size"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as plain nested dictionaries, lists, numbers and strings, in the schema's order."""
        plain: dict[str, Any] = self.model_dump(mode="json")
        return plain

    def digest(self, *, teacher: str | None = None) -> str:
        """Return ten letters that name the experiment: two recipes that give the same result share them.

        Left out are the seed (a run's folder shows it), name and description, and what only says where and how fast:
        ``data.root``, ``train.device``, ``train.compile``, ``train.checkpoint_minutes``. A teacher counts by what it
        is, not by what it is called.

        Args:
            teacher: identity of the teacher: the digest and seed of its own recipe, or a hash of its file.

        Returns:
            The first ten hexadecimal digits of the SHA-256 of the settings that matter.
        """
        settings = self.to_dict()
        for key in ("seed", "name", "description", *MACHINE_KEYS):
            *parents, last = key.split(".")
            part = settings
            for parent in parents:
                part = part[parent]
            del part[last]
        if settings["teacher"] is not None:
            settings["teacher"] = {"identity": teacher, "taps": settings["teacher"]["taps"]}
        canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:10]
