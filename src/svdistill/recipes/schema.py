"""The settings of a run, validated: what a recipe may say and within which bounds. Knows no torch."""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, PrivateAttr, Strict, field_validator, model_validator

from svdistill.choices import MAX_RANK, whole_epochs
from svdistill.recipes.base import Settings
from svdistill.recipes.data import DataSettings
from svdistill.recipes.losses import AnyLoss
from svdistill.recipes.models import Layouts, ModelSettings, OutsideSettings, Taps
from svdistill.recipes.train import AnyOptimizer, TrainSettings
from svdistill.records import MACHINE_KEYS
from svdistill.runs import method_of

# In a digest, for a network's own taps where they are compared. They did not always end with the last hidden features:
# whoever changes them again changes this word, so that runs of other taps are not taken for the same.
NETWORK_TAPS = "to the last hidden features"


class TeacherSettings(Settings):
    """The trained network that helps: a recipe, trained first where needed, a saved student file, or one from outside.

    Attributes:
        recipe: a recipe's name or path. Its seed is its own, so that all seeds of a student share one teacher.
        overrides: settings that replace those of the teacher's recipe, nested as in a recipe.
        same_images: train it on the student's labelled images: its ``seed``, which chooses them, its
            ``data.train_size`` and ``data.validation`` are then the student's, so that each seed of a student has a
            teacher of its own.
        checkpoint: path of a ``.safetensors`` file that an earlier run has written.
        model: a network of another library or of one's own, and its weights.
        taps: as for the model; null = the taps of the teacher's recipe or model.
        drop_tokens: as for the model; null = as in the teacher's recipe, or as its file says beside the taps.
        layout: as for the model; null = as in the teacher's recipe.
        views: how many fixed variants of each image to train on; the teacher is run over them once, and what the
            losses need of it is stored and read from disk; null = new ones each time, with the teacher in every step.
            They are the same for every seed.
        live: with ``views``, run the teacher in every step all the same, for comparison.
        shard: with several processes, each keeps a part of the teacher's parameters, and a block's are put together
            only while it runs; for a teacher that does not fit into the memory of one GPU. One process keeps them all.
    """

    recipe: str | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)
    same_images: bool = False
    checkpoint: str | None = None
    model: OutsideSettings | None = None
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
        given = [name for name in _SOURCES if self.model_dump(include={name})[name] is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {_named(_SOURCES)}; {_named(given)} are given")
        if not given:
            raise ValueError(
                f"none of {_named(_SOURCES)} is given, so there is none; take a recipe that has one, or give "
                "teacher.recipe=NAME"
            )
        if self.recipe is None and self.overrides:
            raise ValueError(f"'overrides' belongs to a teacher given by 'recipe'; a {given[0]} is taken as it is")
        if self.recipe is None and self.same_images:
            raise ValueError(f"same_images: a {given[0]} is trained already; give the teacher by teacher.recipe")
        return self


# Where a teacher may come from.
_SOURCES = ("recipe", "checkpoint", "model")


def _named(keys: Sequence[str]) -> str:
    return " and ".join((", ".join(map(repr, keys[:-1])), repr(keys[-1])) if keys[1:] else map(repr, keys))


class FoundTaps(NamedTuple):
    """The taps that were suggested where a recipe names none; no setting, so they are in no digest.

    Attributes:
        student: names of the student's.
        teacher: names of the teacher's, paired with these.
        student_drop_tokens: how many tokens at the front of the student's are left out, where they were suggested.
        teacher_drop_tokens: how many of the teacher's.
    """

    student: tuple[str, ...]
    teacher: tuple[str, ...]
    student_drop_tokens: int
    teacher_drop_tokens: int


class Recipe(Settings):
    """Everything that one run is told.

    Attributes:
        name: what the run's folder is called.
        description: one line for the list of recipes.
        allow_code: whether code that ``model.name`` or ``teacher.model.name`` names may run; counts in a recipe that is
            named by its path, and on a command line, and is never written down with a run.
        seed: fixes the labelled subset, the initial weights, the order of the images and how they vary.
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
    allow_code: bool = Field(default=False, exclude=True)
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
        self._check_probe()
        self._check_views()
        self._check_smoothing()
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
        for loss in self.loss:
            lengths = [self.train.main_epochs] if not two or loss.stage in ("second", "both") else []
            lengths += [self.train.first_stage_epochs] if two and loss.stage != "second" else []
            if whole_epochs(loss.warm_up, of=min(lengths)) > min(lengths):
                raise ValueError(
                    f"loss.warm_up: {loss.warm_up} epochs are more than the {min(lengths)} of a stage in which "
                    f"{loss.name} takes part; take fewer, or a fraction of them"
                )

    def _check_probe(self) -> None:
        if self.train.linear_probe is None:
            return
        for loss in self.loss:
            if loss.compares_taps and (not self.train.first_stage_epochs or loss.stage == "second"):
                raise ValueError(
                    f"train.linear_probe: {loss.name} compares feature maps, which the output layer does not change; "
                    f"{'take loss.stage=first' if self.train.first_stage_epochs else 'give train.first_stage too'}, or "
                    "train.linear_probe=false"
                )

    def _check_views(self) -> None:
        views, mixes = self.teacher and self.teacher.views, self.data.augment.mixes
        if views and mixes:
            raise ValueError(
                f"data.augment.{mixes}: which images are mixed changes from batch to batch, so that there are no fixed "
                f"views of them; take data.augment.{mixes}=null, or teacher.views=null"
            )
        if views and views > 1 and not self.data.augment.varies:
            raise ValueError(
                f"teacher.views: data.augment varies nothing, so that all {views} views would be the same image; take "
                "teacher.views=1, or for instance data.augment.shift=2"
            )

    def _check_smoothing(self) -> None:
        if self.train.label_smoothing and not self.main_weight:
            raise ValueError(
                "train.label_smoothing: it is of the main loss, whose weight is 0; give loss.main_weight, or take "
                "train.label_smoothing=0"
            )

    @property
    def beside_main(self) -> tuple[AnyLoss, ...]:
        """The transfer losses that take part along with the main task, in its stage where there are two."""
        if not self.train.first_stage_epochs:
            return self.loss
        probed = self.train.linear_probe is not None
        return tuple(
            loss for loss in self.loss if loss.stage in ("second", "both") and not (probed and loss.compares_taps)
        )

    @property
    def main_weight(self) -> float:
        """What the main loss is multiplied by."""
        return math.prod(loss.main_weight for loss in self.beside_main)

    @property
    def method(self) -> str:
        """What helps the student, in a word: ``alone``, ``fsp-two-stage``, ``svd-poster``, ``svd+soft-target``."""
        return method_of(self.to_dict())

    _found: FoundTaps | None = PrivateAttr(default=None)

    @property
    def found(self) -> FoundTaps | None:
        """The taps that were suggested for it; None where it needs none."""
        return self._found

    def finding(self, found: FoundTaps) -> "Recipe":
        """Return the same recipe, which knows the taps that were suggested for it."""
        same = self.model_copy()
        same._found = found
        return same

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as plain nested dictionaries, lists, numbers and strings, in the schema's order.

        A single loss stands there by itself and no loss is null, as one would write it.
        """
        plain: dict[str, Any] = self.model_dump(mode="json")
        if len(plain["loss"]) < 2:
            plain["loss"] = plain["loss"][0] if plain["loss"] else None
        return plain

    def digest(self, *, teacher: str | None = None, weights: str | None = None) -> str:
        """Return ten characters that name the experiment: two recipes that give the same result have the same.

        Left out are the seed (a run's folder shows it), name and description, what only says where and how fast
        (``MACHINE_KEYS`` and ``data.unlabelled.root``), and whatever is at its default. A teacher counts by what it is,
        not by what it is called, and so does a preset.

        Args:
            teacher: identity of the teacher: the digest and seed of its own recipe, or a hash of its file.
            weights: a hash of the file that the network begins with; None where it begins with none.

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
        if settings["model"].pop("checkpoint", None) is not None:
            settings["model"]["weights"] = weights
        if not self.train.first_stage_epochs:
            for key in ("first_stage_norm", "first_stage_counts"):
                settings["train"].pop(key, None)
        if not self.train.milestone_epochs:
            for key in ("milestones", "gamma"):
                settings["train"].pop(key, None)
        for loss, own in zip(settings.get("loss", ()), self.loss, strict=True):
            loss.pop("preset", None)  # what it stands for counts
            if own not in self.beside_main:  # no main gradient bounds it, or stands beside it
                for key in ("clip", "bound", "main_weight"):
                    loss.pop(key, None)
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
