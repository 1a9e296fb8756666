"""The settings of a run, validated: what a recipe may say and within which bounds. Knows no torch."""

import hashlib
import itertools
import json
import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, Strict, field_validator, model_validator

from svdistill.choices import LAYOUTS, MAX_BATCH, MAX_COUNT, MAX_EPOCHS, MAX_FACTOR, MAX_RANK, Capture, Layout
from svdistill.errors import brief
from svdistill.methods import BASELINE
from svdistill.recipes.base import Settings, by_name
from svdistill.recipes.losses import AnyLoss
from svdistill.records import MACHINE_KEYS

Taps = Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]
Classes = Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]


def _plain_layouts(value: Any) -> Any:
    """Say in one sentence what layouts are: the union's own error has one line for each member."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not words or not all(word in LAYOUTS for word in words):
        raise ValueError(f"expected {' or '.join(LAYOUTS)}, or a list of one for each tap; got {brief(value)}")
    return value if isinstance(value, str) else tuple(value)


# One word for all taps, or one for each.
Layouts = Annotated[Layout | tuple[Layout, ...], BeforeValidator(_plain_layouts)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Epoch = Annotated[int, Field(ge=1, le=MAX_EPOCHS)]
# Degrees; beyond half of a quarter turn an image is nearer to the next one.
_MOST_ROTATION = 45.0


# In a digest, for a network's own taps where they are compared. They did not always end with the last hidden features:
# whoever changes them again changes this word, so that runs of other taps are not taken for the same.
NETWORK_TAPS = "to the last hidden features"


class AugmentSettings(Settings):
    """Random warps of the training images.

    Attributes:
        flip: mirror half of the images left to right; refused for data sets where a mirror image is another class.
        rotation: rotate by up to this many degrees to either side.
        shift: move by up to this many pixels in each direction, the edge filled with zeros.
    """

    flip: bool = False
    rotation: float = Field(default=0.0, ge=0, le=180)
    shift: int = Field(default=0, ge=0, le=4096)


class UnlabelledSettings(Settings):
    """Images without labels, for the transfer task; each step takes some beside the labelled ones.

    Attributes:
        name: ``rest``, the training images whose labels ``data.train_size`` leaves out, or a data set's name.
        root: folder that holds its files.
        size: how many to use, chosen at random; null = all.
        batch_size: how many join each step; null = as many as there are labelled ones.
    """

    name: str = "rest"
    root: str | None = None
    size: int | None = Field(default=None, ge=1, le=MAX_COUNT)
    batch_size: int | None = Field(default=None, ge=1, le=MAX_BATCH)


class DataSettings(Settings):
    """The images.

    Attributes:
        name: a data set's name, e.g. ``digits``.
        root: folder that holds its files; null = the usual folders, then a download.
        classes: use only these classes, by name: a list, or the path of a text file with one a line; null = all.
        task: what is learnt of the images: their ``classes``, or by ``rotation``, without their labels, which way each
            was turned: it is there four times, turned by 0°, 90°, 180° and 270°, in training and test images alike.
        held_out: measure on this part of the training images, which is left out of training, in place of the test
            images; the same part of each class, and the same images for every seed and the teacher. null = none.
        train_size: how many labelled training images to use, equally many of each class; null = all.
        image_size: resize once to this many pixels a side; null = as they are.
        channels: 1 = grey, 3 = colour; null = as they are.
        background: what shows through where an image file is transparent: ``white`` or ``black``.
        augment: random warps of the training images.
        unlabelled: images without labels for the transfer task, or null.
    """

    name: str
    root: str | None = None
    classes: str | Classes | None = None
    task: Literal["classes", "rotation"] = "classes"
    held_out: Fraction | None = None
    train_size: int | None = Field(default=None, ge=1, le=MAX_COUNT)
    image_size: int | None = Field(default=None, ge=1, le=4096)
    channels: Literal[1, 3] | None = None
    background: Literal["white", "black"] = "white"
    augment: AugmentSettings = AugmentSettings()
    unlabelled: UnlabelledSettings | None = None

    @field_validator("classes", mode="before")
    @classmethod
    def _plain_classes(cls, value: Any) -> Any:
        """Say in one sentence what classes are: the union's own error has one line for each member."""
        if value is None or isinstance(value, str):
            return value
        if not isinstance(value, list | tuple) or not value or not all(isinstance(item, str) for item in value):
            raise ValueError(
                f"expected a list of class names, or the path of a file with one a line; got {brief(value)}"
            )
        return tuple(value)

    @model_validator(mode="after")
    def _rest_of_something(self) -> Self:
        if self.unlabelled is not None and self.unlabelled.name == "rest" and self.train_size is None:
            raise ValueError("unlabelled: 'rest' are the images that train_size leaves out; give data.train_size too")
        return self

    @model_validator(mode="after")
    def _warps_keep_the_turn(self) -> Self:
        if self.task != "rotation":
            return self
        if self.augment.flip:
            raise ValueError(
                "augment.flip: task=rotation asks which way an image was turned, and a mirrored one tells 90° as 270°; "
                "take data.augment.flip=false"
            )
        if self.augment.rotation > _MOST_ROTATION:
            raise ValueError(
                f"augment.rotation: with task=rotation {self.augment.rotation:g}° may look like another quarter turn; "
                f"take at most {_MOST_ROTATION:g}"
            )
        return self

    @property
    def measured_on(self) -> Literal["test", "held-out"]:
        """Which images the accuracy is of."""
        return "test" if self.held_out is None else "held-out"


class ModelSettings(Settings):
    """A network by name.

    Attributes:
        name: e.g. ``vgg-bn-student``.
        width: factor on every channel count.
        taps: dotted names of the submodules whose outputs are compared, in order; null = the network's own, the
            last hidden features among them.
        drop_tokens: how many tokens at the front of a (B, N, D) tap are not image positions: 1 for a class token.
        layout: where the channels of the maps are, for all taps or a list of one for each: ``channels_first`` for
            (B, C, H, W) and (B, C, T), ``channels_last`` for (B, H, W, C) and (B, N, D); null = as the maps show.
    """

    name: str
    width: float = Field(default=1.0, gt=0, le=64)
    taps: Taps | None = None
    drop_tokens: int = Field(default=0, ge=0, le=MAX_RANK)
    layout: Layouts | None = None


class TeacherSettings(Settings):
    """The trained network that helps: either a recipe, trained first where needed, or a saved student file.

    Attributes:
        recipe: a recipe's name or path. Its seed is its own, so that all seeds of a student share one teacher.
        overrides: settings that replace those of the teacher's recipe, nested as in a recipe.
        checkpoint: path of a ``.safetensors`` file that an earlier run has written.
        taps: as for the model; null = the taps of the teacher's recipe or model.
        drop_tokens: as for the model; null = as in the teacher's recipe, 0 for a checkpoint.
        layout: as for the model; null = as in the teacher's recipe.
        views: how many fixed warps of each image to train on; the teacher is run over them once, and what the losses
            need of it is stored and read from disk; null = new warps each time, with the teacher in every step. The
            warps are the same for every seed.
        live: with ``views``, run the teacher in every step all the same, for comparison.
        shard: with several processes, each keeps a part of the teacher's parameters, and a block's are put together
            only while it runs; for a teacher that does not fit into the memory of one GPU. One process keeps them all.
    """

    recipe: str | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)
    checkpoint: str | None = None
    taps: Taps | None = None
    drop_tokens: int | None = Field(default=None, ge=0, le=MAX_RANK)
    layout: Layouts | None = None
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


class TrainSettings(Settings):
    """How long and on what.

    Attributes:
        epochs: passes over the training images.
        milestones: when the learning rate falls: epochs (whole numbers) or fractions of all epochs (between 0 and 1).
        gamma: factor on the learning rate at each milestone.
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
        tensorboard: write the figures of each epoch for TensorBoard too, in the run's folder ``tensorboard/``.
        first_stage: how long the first of two stages is, in epochs (a whole number) or as a fraction of ``epochs``; 0 =
            one stage. It is of the transfer task alone, at the learning rate of the start, and comes before the
            ``epochs`` of the main task, which then learns alone but for the losses whose ``stage`` says otherwise.
        first_stage_norm: bound on the norm of the whole gradient in the first of two stages, in which no main gradient
            bounds that of the transfer task; null = no bound.
        evaluate_every: measure on the test images, or those held out, after every n-th epoch, and after the last.
    """

    epochs: int = Field(ge=1, le=MAX_EPOCHS)
    first_stage: Annotated[int, Field(ge=0, le=MAX_EPOCHS)] | Fraction = 0
    first_stage_norm: float | None = Field(default=1.0, gt=0, le=MAX_FACTOR)
    evaluate_every: int = Field(default=1, ge=1, le=MAX_EPOCHS)
    milestones: Annotated[tuple[Epoch | Fraction, ...], Strict(False)] = ()
    gamma: float = Field(default=0.1, gt=0, le=1)
    batch_size: int = Field(default=128, ge=1, le=MAX_BATCH)
    accumulate: int = Field(default=1, ge=1, le=MAX_BATCH)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$")
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool = False
    capture: Capture = "auto"
    channels_last: bool = False
    recompute: bool = False
    checkpoint_minutes: float = Field(default=10.0, gt=0, le=MAX_FACTOR)
    tensorboard: bool = False

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
    def _milestones_in_order(self) -> Self:
        whole = [m for m in self.milestones if isinstance(m, int)]
        if whole and whole[-1] >= self.epochs:
            raise ValueError(f"milestones: {whole[-1]} is not below epochs, {self.epochs}")
        positions = [m if isinstance(m, int) else m * self.epochs for m in self.milestones]
        if any(later <= earlier for earlier, later in itertools.pairwise(positions)):
            raise ValueError(f"milestones: must rise, got {list(self.milestones)}")
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

    @field_validator("first_stage", mode="before")
    @classmethod
    def _plain_first_stage(cls, value: Any) -> Any:
        """Say in one sentence what a first stage is."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (0 <= value < 1 or (isinstance(value, int) and value >= 1)):
            raise ValueError(
                f"expected epochs (1, 2, …), a fraction of them (0.5), or 0 for one stage; got {brief(value)}"
            )
        return int(value) if value == 0 else value

    @property
    def first_stage_epochs(self) -> int:
        """The length of the first of two stages in epochs, a fraction rounded up; 0 where there is one stage."""
        if isinstance(self.first_stage, int):
            return self.first_stage
        return math.ceil(self.first_stage * self.epochs - 1e-9)

    @property
    def milestone_epochs(self) -> tuple[int, ...]:
        """The milestones as epochs; fractions are rounded up, and those that fall on the end are left out."""
        epochs = [m if isinstance(m, int) else math.ceil(m * self.epochs - 1e-9) for m in self.milestones]
        return tuple(epoch for epoch in epochs if epoch < self.epochs)


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
    optimizer: AnyOptimizer
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
        if len({loss.bound for loss in self.loss if loss.clip == "own_norm"}) > 1:
            raise ValueError("loss.bound: one bound serves all losses of a sum, got several; give each the same")
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
        parts = [f"{loss.name}-{loss.variant}" if loss.variant else loss.name for loss in self.loss]
        return ("+".join(parts) or BASELINE) + ("-two-stage" if self.train.first_stage_epochs else "")

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as plain nested dictionaries, lists, numbers and strings, in the schema's order.

        A single loss stands there by itself and no loss is null, as one would write it.
        """
        plain: dict[str, Any] = self.model_dump(mode="json")
        if len(plain["loss"]) < 2:
            plain["loss"] = plain["loss"][0] if plain["loss"] else None
        return plain

    def digest(self, *, teacher: str | None = None) -> str:
        """Return ten characters that name the experiment: two recipes that give the same result have the same.

        Left out are the seed (a run's folder shows it), name and description, what only says where and how fast
        (``MACHINE_KEYS`` and ``data.unlabelled.root``), and whatever is at its default. A teacher counts by what it is,
        not by what it is called, and so does a preset.

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
        if not self.train.first_stage_epochs:
            settings["train"].pop("first_stage_norm", None)
        for loss in settings.get("loss", ()):
            loss.pop("preset", None)  # what it stands for counts
        if self.model.taps is None and any(loss.compares_taps for loss in self.loss):
            settings["model"]["taps"] = NETWORK_TAPS
        settings.get("loss", []).sort(key=lambda loss: str(loss["name"]))  # a sum has no order
        if self.teacher is not None:
            use = self.teacher.model_dump(
                mode="json", exclude_defaults=True, include={"taps", "drop_tokens", "layout", "views", "live"}
            )
            settings["teacher"] = {"identity": teacher, **use}
        canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:10]
