"""The settings of a run, validated: what a recipe may say and within which bounds. Knows no torch."""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

Taps = Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]
Classes = Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Epoch = Annotated[int, Field(ge=1)]

# Where the files lie, on what the run runs and how often it saves: none of it changes the result beyond rounding.
MACHINE_KEYS = (
    "data.root",
    "train.device",
    "train.compile",
    "train.channels_last",
    "train.recompute",
    "train.checkpoint_minutes",
    "train.tensorboard",
    "teacher.shard",
)


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


class UnlabelledSettings(Settings):
    """Images without labels, for the transfer task; each step takes some beside the labelled ones.

    Attributes:
        name: ``rest``, the training images whose labels ``data.train_size`` leaves out, or a data set's name.
        root: folder that holds its files.
        size: use only so many, chosen at random; null = all.
        batch_size: how many join each step; null = as many as the labelled ones.
    """

    name: str = "rest"
    root: str | None = None
    size: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)


class DataSettings(Settings):
    """The images.

    Attributes:
        name: a data set's name, e.g. ``digits``.
        root: folder that holds its files; null = the usual places, then a download.
        classes: use only these classes, by name: a list, or the path of a text file with one a line; null = all.
        train_size: use only so many labelled training images, equally many of each class; null = all.
        image_size: resize once to this many pixels a side; null = as they are.
        channels: 1 = grey, 3 = colour; null = as they are.
        augment: random warps of the training images.
        unlabelled: images without labels for the transfer task, or null.
    """

    name: str
    root: str | None = None
    classes: str | Classes | None = None
    train_size: int | None = Field(default=None, ge=1)
    image_size: int | None = Field(default=None, ge=1, le=4096)
    channels: Literal[1, 3] | None = None
    augment: AugmentSettings = AugmentSettings()
    unlabelled: UnlabelledSettings | None = None

    @field_validator("classes", mode="before")
    @classmethod
    def _plain_classes(cls, value: Any) -> Any:
        """Say in one sentence what classes are: the union's own error has one line for each member."""
        if value is None or isinstance(value, str):
            return value
        if not isinstance(value, list | tuple) or not value or not all(isinstance(item, str) for item in value):
            raise ValueError(f"expected a list of class names, or the path of a file with one a line; got {value!r}")
        return tuple(value)

    @model_validator(mode="after")
    def _rest_of_something(self) -> Self:
        if self.unlabelled is not None and self.unlabelled.name == "rest" and self.train_size is None:
            raise ValueError("unlabelled: 'rest' are the images that train_size leaves out; give data.train_size too")
        return self


class ModelSettings(Settings):
    """A network by name.

    Attributes:
        name: e.g. ``vgg-bn-student``.
        width: factor on every channel count.
        taps: dotted names of the submodules whose outputs are compared, in order; null = the model's own.
        drop_tokens: how many tokens at the front of a (B, N, D) tap are no image positions: 1 for a class token.
    """

    name: str
    width: float = Field(default=1.0, gt=0, le=64)
    taps: Taps | None = None
    drop_tokens: int = Field(default=0, ge=0)


class TeacherSettings(Settings):
    """The trained network that helps: either a recipe, trained first where needed, or a saved student file.

    Attributes:
        recipe: a recipe's name or path. Its seed is its own, so that all seeds of a student share one teacher.
        overrides: settings that replace those of the teacher's recipe, nested as in a recipe.
        checkpoint: path of a ``.safetensors`` file that an earlier run has written.
        taps: as for the model; null = the taps of the teacher's recipe or model.
        drop_tokens: as for the model; null = as in the teacher's recipe, 0 for a checkpoint.
        views: train on so many fixed warps of each image; the teacher is run over them once, and what the losses need
            of it is stored and read from disk; null = ever new warps, with the teacher in every step. The warps are the
            same for every seed.
        live: with ``views``, run the teacher in every step all the same, for comparison.
        shard: with several processes, each keeps a part of the teacher's parameters, and a block's are put together
            only while it runs; for a teacher that does not fit into the memory of one GPU. One process keeps them all.
    """

    recipe: str | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)
    checkpoint: str | None = None
    taps: Taps | None = None
    drop_tokens: int | None = Field(default=None, ge=0)
    views: int | None = Field(default=None, ge=1, le=65536)
    live: bool = False
    shard: bool = False

    @property
    def stored(self) -> bool:
        """Whether training reads what is stored of the teacher in place of running it."""
        return self.views is not None and not self.live

    @model_validator(mode="after")
    def _live_views(self) -> Self:
        if self.live and self.views is None:
            raise ValueError("live: without 'views' the teacher runs in every step anyway; give teacher.views=8 too")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.recipe is None) == (self.checkpoint is None):
            if self.recipe is not None:
                raise ValueError("give either 'recipe' or 'checkpoint'; both are given")
            raise ValueError(
                "neither is given, 'recipe' nor 'checkpoint', so there is none; take a recipe that has one"
            )
        if self.checkpoint is not None and self.overrides:
            raise ValueError("'overrides' belongs to a teacher given by 'recipe'; a checkpoint is taken as it is")
        return self


class LossSettings(Settings):
    """What every transfer loss may be told about its place beside the main task.

    Attributes:
        clip: how its gradient is bounded by the main one; ``none``: a plain weighted sum, as the other methods have it.
        weight: factor on the transfer loss.
        main_weight: factor on the main loss; in a sum of losses the factors are multiplied.
        stage: where training has two stages (``train.first_stage``), in which of them the loss takes part: ``first`` if
            nothing is said; null where there is one stage.
    """

    clip: Literal["per_variable", "global", "poster", "none"] = "none"
    weight: float = Field(default=1.0, gt=0)
    main_weight: float = Field(default=1.0, ge=0)
    stage: Literal["first", "second", "both"] | None = None


# KD-SVD as each of its sources has it; they disagree (METHOD, sections 2 to 4). What a recipe says itself goes first.
# All of them sum over the batch.
PRESETS: dict[str, dict[str, Any]] = {
    # The paper and the code published with it.
    "eccv2018": {
        "rank": 1,
        "extra": 1,
        "assignment": "argmax",
        "gradient": "paper",
        "reduction": "sum",
        "clip": "per_variable",
    },
    # The poster, whose sweep over the rank peaks at 2; its alignment is the paper's.
    "poster": {
        "rank": 2,
        "extra": 1,
        "assignment": "argmax",
        "gradient": "paper",
        "reduction": "sum",
        "clip": "poster",
    },
    # The author's later collection of methods: more candidates, no factor.
    "kd-methods": {
        "rank": 1,
        "extra": 3,
        "scaled": False,
        "assignment": "argmax",
        "gradient": "paper",
        "reduction": "sum",
        "clip": "per_variable",
    },
    # Without a decomposition of the student.
    "teacher-basis": {"rank": 1, "basis": "teacher", "reduction": "sum", "clip": "per_variable"},
}


class SVDLossSettings(LossSettings):
    """KD-SVD: the transfer loss of METHOD section 2 and how its gradient is joined to the main one (section 3).

    Attributes:
        preset: settings as one of the published sources has them: ``eccv2018``, ``poster``, ``kd-methods`` or
            ``teacher-basis``; each may still be replaced. null = what we recommend.
        rank: kept singular vectors, k.
        extra: the student keeps so many more, of which the alignment chooses.
        beta: width of the radial basis function.
        assignment: which student vector answers which teacher vector; null = by rank.
        gradient: derivative of the truncated SVD.
        basis: ``own``: the student's singular vectors; ``teacher``: its map projected on the teacher's left vectors.
        scaled: whether the loss has its factor ½ √k.
        reduction: over the batch; ``sum`` as published, made for the clipping.
        clip: as published, ``per_variable``.
    """

    name: Literal["svd"]
    preset: Literal["eccv2018", "poster", "kd-methods", "teacher-basis"] | None = None
    rank: int = Field(default=1, ge=1)
    extra: int = Field(default=1, ge=0)
    beta: float = Field(default=8.0, gt=0)
    assignment: Literal["argmax", "one_to_one"] | None = None
    gradient: Literal["exact", "paper"] = "exact"
    basis: Literal["own", "teacher"] = "own"
    scaled: bool = True
    reduction: Literal["sum", "mean"] = "sum"
    clip: Literal["per_variable", "global", "poster", "none"] = "per_variable"

    @model_validator(mode="before")
    @classmethod
    def _preset_below(cls, given: Any) -> Any:
        """Lay what the recipe says itself over its preset; an unknown preset is reported as any wrong value is."""
        preset = given.get("preset") if isinstance(given, dict) else None
        if not isinstance(preset, str):
            return given
        return {**PRESETS.get(preset, {}), **given}


class SoftTargetLossSettings(LossSettings):
    """Soft targets (Hinton et al. 2015): temperature² times the divergence of the softened outputs.

    Attributes:
        temperature: divides both networks' logits.
        weight: 0.9 by default.
        main_weight: 0.1 by default.
    """

    name: Literal["soft-target"]
    temperature: float = Field(default=4.0, gt=0)
    weight: float = Field(default=0.9, gt=0)
    main_weight: float = Field(default=0.1, ge=0)


class FitNetLossSettings(LossSettings):
    """FitNets (Romero et al. 2015): a regressor of 1×1 leads the student's middle map to the teacher's.

    Attributes:
        hint: which of the taps, from 0; null = the middle one.
    """

    name: Literal["fitnet"]
    hint: int | None = Field(default=None, ge=0)


class FSPLossSettings(LossSettings):
    """FSP (Yim et al. 2017): the Gram matrices between neighbouring taps."""

    name: Literal["fsp"]


class AttentionLossSettings(LossSettings):
    """Attention transfer (Zagoruyko & Komodakis 2017): where, not what, each tap responds to.

    Attributes:
        power: p of the attention map Σ_c |A_c|^p.
    """

    name: Literal["attention"]
    power: float = Field(default=2.0, ge=1)


class RelationalLossSettings(LossSettings):
    """RKD (Park et al. 2019): distances and angles between the images of a batch, at the last tap.

    Attributes:
        distance: factor on the part of distances.
        angle: factor on the part of angles.
    """

    name: Literal["relational"]
    distance: float = Field(default=25.0, ge=0)
    angle: float = Field(default=50.0, ge=0)


LOSSES: dict[str, type[LossSettings]] = {
    "svd": SVDLossSettings,
    "soft-target": SoftTargetLossSettings,
    "fitnet": FitNetLossSettings,
    "fsp": FSPLossSettings,
    "attention": AttentionLossSettings,
    "relational": RelationalLossSettings,
}


def own_settings(loss: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a loss says beyond its preset and the defaults, which a recipe written out in full says too.

    Args:
        loss: settings of one loss, not yet validated.

    Returns:
        Its name and the settings that differ; no preset.
    """
    kind, preset = LOSSES.get(str(loss.get("name"))), loss.get("preset")
    usual = {} if kind is None else {key: field.default for key, field in kind.model_fields.items() if key != "name"}
    usual |= PRESETS.get(preset, {}) if isinstance(preset, str) else {}
    same = {key for key, value in loss.items() if key in usual and value == usual[key]}
    return {key: value for key, value in loss.items() if key not in same | {"preset"}}


AnyLoss = Annotated[
    SVDLossSettings
    | SoftTargetLossSettings
    | FitNetLossSettings
    | FSPLossSettings
    | AttentionLossSettings
    | RelationalLossSettings,
    Field(discriminator="name"),
]


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
        batch_size: images a step, of all processes and all parts together; a last partial batch is left out.
        accumulate: each process works on so many equal parts of its images one after the other, which needs less
            memory; their gradients are summed before the two tasks' are combined, so but for batch norm, and losses
            that compare images with each other, the step is that of the whole batch.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``32-true``, or ``bf16-mixed`` for autocast.
        compile: use ``torch.compile``, for the student and on a GPU for the transfer losses.
        channels_last: lay networks and feature maps in memory channel by channel for each position (NHWC), which most
            convolutions run faster on in ``bf16-mixed``.
        recompute: keep only what goes in and out of the student's blocks and compute their inside again in the backward
            pass: less memory, more time; not together with ``compile``.
        checkpoint_minutes: within long epochs, save at least this often.
        tensorboard: write the figures of each epoch for TensorBoard too, in the run's folder ``tensorboard/``.
        first_stage: two stages where above 0: so many epochs (a whole number), or such a share of ``epochs``, of the
            transfer task alone, at the learning rate of the start, go before the ``epochs`` of the main task, which
            then learns alone but for the losses whose ``stage`` says otherwise.
        first_stage_norm: bound on the norm of the whole gradient in the first of two stages, in which no main gradient
            bounds that of the transfer task; null = no bound.
        evaluate_every: measure on the test images after every so many epochs, and after the last.
    """

    epochs: int = Field(ge=1)
    first_stage: Annotated[int, Field(ge=0)] | Share = 0
    first_stage_norm: float | None = Field(default=1.0, gt=0)
    evaluate_every: int = Field(default=1, ge=1)
    milestones: Annotated[tuple[Epoch | Share, ...], Strict(False)] = ()
    gamma: float = Field(default=0.1, gt=0, le=1)
    batch_size: int = Field(default=128, ge=1)
    accumulate: int = Field(default=1, ge=1)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool = False
    channels_last: bool = False
    recompute: bool = False
    checkpoint_minutes: float = Field(default=10.0, gt=0)
    tensorboard: bool = False

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

    @model_validator(mode="after")
    def _one_who_decides(self) -> Self:
        if self.recompute and self.compile:
            raise ValueError("recompute: a compiled network decides by itself what it computes again; take one of both")
        return self

    @field_validator("first_stage", mode="before")
    @classmethod
    def _plain_first_stage(cls, value: Any) -> Any:
        """Say in one sentence what a first stage is."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (0 <= value < 1 or (isinstance(value, int) and value >= 1)):
            raise ValueError(f"expected epochs (1, 2, …), a share of them (0.5), or 0 for one stage; got {value!r}")
        return int(value) if value == 0 else value

    @property
    def first_stage_epochs(self) -> int:
        """The length of the first of two stages in epochs, a share rounded up; 0 where there is one stage."""
        if isinstance(self.first_stage, int):
            return self.first_stage
        return math.ceil(self.first_stage * self.epochs - 1e-9)

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
        loss: the transfer losses, which are summed: in a recipe one (its name or its settings), a list, or null; there
            is one or more exactly where there is a teacher.
        optimizer: the step rule.
        train: how long and on what.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")
    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**32)
    data: DataSettings
    model: ModelSettings
    teacher: TeacherSettings | None = None
    loss: Annotated[tuple[AnyLoss, ...], Strict(False)] = ()
    optimizer: Annotated[SGDSettings | AdamWSettings, Field(discriminator="name")]
    train: TrainSettings

    @field_validator("loss", mode="before")
    @classmethod
    def _list_of_losses(cls, value: Any) -> Any:
        """Take one loss for a list of one, and a name for settings that are all defaults."""
        losses = [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
        return [{"name": loss} if isinstance(loss, str) else loss for loss in losses]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.loss and self.teacher is not None:
            raise ValueError("teacher: a teacher without 'loss'; give loss.name=svd or take teacher=null")
        if self.loss and self.teacher is None:
            raise ValueError("loss: a transfer loss without 'teacher'; give teacher.recipe=NAME or take loss=null")
        names = [loss.name for loss in self.loss]
        if len(set(names)) < len(names):
            raise ValueError(f"loss: each may be there once, got {', '.join(names)}")
        clips = {loss.clip for loss in self.loss} - {"none"}
        if len(clips) > 1:
            raise ValueError(f"loss: one rule of clipping serves all, got {' and '.join(sorted(clips))}")
        self._check_stages()
        self._check_views()
        size = self.data.train_size
        if size is not None and self.train.batch_size > size:
            raise ValueError(
                f"train.batch_size: {self.train.batch_size} is more than the {size} images of data.train_size"
            )
        if self.data.unlabelled is not None and not self.loss:
            raise ValueError("data.unlabelled: only a transfer loss learns from it; give 'loss' and 'teacher'")
        return self

    def _check_stages(self) -> None:
        staged = [loss.name for loss in self.loss if loss.stage is not None]
        two = self.train.first_stage_epochs > 0
        if staged and not two:
            raise ValueError(f"loss.stage: {staged[0]!r} names a stage, but there is one; give train.first_stage")
        if two and not any(loss.stage in (None, "first", "both") for loss in self.loss):
            raise ValueError("train.first_stage: no loss takes part in it; give one with stage=first, or 0")

    def _check_views(self) -> None:
        views, augment = self.teacher and self.teacher.views, self.data.augment
        if views and views > 1 and not (augment.flip or augment.rotation or augment.shift):
            raise ValueError(
                f"teacher.views: data.augment varies nothing, so that all {views} views would be the same image; take "
                "teacher.views=1, or for instance data.augment.shift=2"
            )

    @property
    def method(self) -> str:
        """What helps the student, in a word: ``alone``, ``fsp-two-stage``, ``svd-poster``, ``svd+soft-target``."""
        parts = []
        for loss in self.loss:
            variant = ""
            if isinstance(loss, SVDLossSettings):
                variant = f"-{loss.preset}" if loss.preset else f"-k{loss.rank}" if loss.rank > 1 else ""
            parts.append(loss.name + variant)
        return ("+".join(parts) or "alone") + ("-two-stage" if self.train.first_stage_epochs else "")

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as plain nested dictionaries, lists, numbers and strings, in the schema's order.

        A single loss stands there by itself and no loss is null, as one would write it.
        """
        plain: dict[str, Any] = self.model_dump(mode="json")
        if len(plain["loss"]) < 2:
            plain["loss"] = plain["loss"][0] if plain["loss"] else None
        return plain

    def digest(self, *, teacher: str | None = None) -> str:
        """Return ten letters that name the experiment: two recipes that give the same result share them.

        Left out are the seed (a run's folder shows it), name and description, what only says where and how fast
        (``MACHINE_KEYS`` and ``data.unlabelled.root``),
        and whatever is at its default. A teacher counts by what it is, not by what it is called, and so does a preset.

        Args:
            teacher: identity of the teacher: the digest and seed of its own recipe, or a hash of its file.

        Returns:
            The first ten hexadecimal digits of the SHA-256 of the settings that matter.
        """
        # Defaults are left out, so that a setting that a later version adds renames no run.
        settings = self.model_dump(
            mode="json", exclude_defaults=True, exclude={"seed", "name", "description", "teacher"}
        )
        for key in MACHINE_KEYS:
            section, last = key.split(".")
            settings.get(section, {}).pop(last, None)
        settings["data"].get("unlabelled", {}).pop("root", None)
        for loss in settings.get("loss", ()):
            loss.pop("preset", None)  # what it stands for counts
        settings.get("loss", []).sort(key=lambda loss: str(loss["name"]))  # a sum has no order
        if self.teacher is not None:
            place = self.teacher.model_dump(
                mode="json", exclude_defaults=True, include={"taps", "drop_tokens", "views", "live"}
            )
            settings["teacher"] = {"identity": teacher, **place}
        canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:10]
