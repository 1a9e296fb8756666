"""The settings of the transfer losses, one class a loss. Knows no torch."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from svdistill.choices import (
    BETA,
    BOUND,
    MAX_FACTOR,
    MAX_RANK,
    PRESETS,
    Assignment,
    Basis,
    Clip,
    Gradient,
    Reduction,
)
from svdistill.recipes.base import Length, Settings, by_name, plain_length


class LossSettings(Settings):
    """What every transfer loss may be told about its part beside the main task.

    In a first stage of the transfer task alone there is no main gradient: a loss that takes part in that stage only has
    no use for ``clip``, ``bound`` and ``main_weight``; ``train.first_stage_norm`` bounds what it does.

    Attributes:
        compares_taps: whether it compares feature maps, so that ``model.taps`` count; not so logits.
        makes: the class that these settings are of, as ``module:class``; imported when a loss is made.
        clip: how its gradient is bounded; ``none``: a plain weighted sum, as the other methods have it.
        bound: what the rule ``own_norm`` holds the norm of the gradient at or below, weight included.
        weight: factor on the transfer loss.
        main_weight: factor on the main loss; in a sum of losses the factors are multiplied.
        warm_up: in how many epochs of a stage (a whole number, or a fraction of the stage's) the weight rises to what
            it is, by the same amount in each: 0.25, 0.5, 0.75 and 1 of it where there are four; 0 = none.
        stage: where training has two stages (``train.first_stage``), in which of them the loss takes part: ``first`` if
            nothing is said; null where there is one stage.
    """

    compares_taps: ClassVar[bool] = True
    makes: ClassVar[str]

    clip: Clip = "none"
    bound: float = Field(default=BOUND, gt=0, le=MAX_FACTOR)
    weight: float = Field(default=1.0, gt=0, le=MAX_FACTOR)
    main_weight: float = Field(default=1.0, ge=0, le=MAX_FACTOR)
    warm_up: Length = 0
    stage: Literal["first", "second", "both"] | None = None

    @field_validator("warm_up", mode="before")
    @classmethod
    def _plain_warm_up(cls, value: Any) -> Any:
        return plain_length(value, none="none")

    @model_validator(mode="after")
    def _bound_of_a_rule(self) -> Self:
        if self.clip != "own_norm" and self.bound != BOUND:
            raise ValueError(f"bound: only clip=own_norm has one, not {self.clip}; take bound={BOUND:g}")
        return self


# What presets differ in, but for the rule of clipping, which is the step's.
OF_PRESETS = frozenset(key for preset in PRESETS.values() for key in preset) - {"clip"}
# What has no meaning in the teacher's basis, where the student is not decomposed, with what it is then.
OF_OWN_VECTORS: dict[str, Any] = {"extra": 1, "assignment": None, "gradient": "exact"}


class SVDLossSettings(LossSettings):
    """KD-SVD: its transfer loss and how the gradient is combined with the main one; see docs/method.md.

    Attributes:
        preset: settings as one of the published sources has them: ``eccv2018``, ``poster``, ``kd-methods`` or
            ``teacher-basis``; each may still be replaced. null = the defaults written here; what we recommend is the
            method ``svd-recommended``.
        rank: kept singular vectors, k.
        extra: how many more the student keeps, of which the alignment chooses.
        beta: width of the radial basis function.
        assignment: which student vector answers which teacher vector; null = by rank.
        gradient: derivative of the truncated SVD.
        basis: ``own``: the student's singular vectors; ``teacher``: its map projected on the teacher's left vectors.
        scaled: whether the loss has its factor ½ √k.
        reduction: over the batch; ``sum`` as published, made for the clipping.
        clip: as published, ``per_variable``.
    """

    makes = "svdistill.losses:SVDLoss"

    name: Literal["svd"]
    preset: Literal["eccv2018", "poster", "kd-methods", "teacher-basis"] | None = None
    rank: int = Field(default=1, ge=1, le=MAX_RANK)
    extra: int = Field(default=1, ge=0, le=MAX_RANK)
    beta: float = Field(default=BETA, gt=0, le=MAX_FACTOR)
    assignment: Assignment | None = None
    gradient: Gradient = "exact"
    basis: Basis = "own"
    scaled: bool = True
    reduction: Reduction = "sum"
    clip: Clip = "per_variable"

    @model_validator(mode="before")
    @classmethod
    def _preset_below(cls, given: Any) -> Any:
        """Lay what the recipe says itself over its preset; an unknown preset is reported as any wrong value is."""
        preset = given.get("preset") if isinstance(given, dict) else None
        if not isinstance(preset, str):
            return given
        meant = PRESETS.get(preset, {})
        if in_teacher_s_basis(given):
            meant = {key: value for key, value in meant.items() if key not in OF_OWN_VECTORS}
        return {**meant, **given}

    @model_validator(mode="after")
    def _vectors_to_choose_from(self) -> Self:
        for key, only in OF_OWN_VECTORS.items():
            if self.basis == "teacher" and getattr(self, key) != only:
                raise ValueError(
                    f"{key}: with basis=teacher the student has no vectors of its own, so it changes nothing; take "
                    f"{key}={'null' if only is None else only}, or basis=own"
                )
        return self


class SoftTargetLossSettings(LossSettings):
    """Soft targets (Hinton et al. 2015): temperature² times the divergence of the softened outputs.

    Attributes:
        temperature: divides both networks' logits.
        standardize: whether z-scores are compared in place of logits (Sun et al. 2024); the method
            ``soft-target-standardized`` has the published temperature and weight for it.
        weight: 0.9 by default.
        main_weight: 0.1 by default.
    """

    compares_taps = False
    makes = "svdistill.losses:SoftTargetLoss"

    name: Literal["soft-target"]
    temperature: float = Field(default=4.0, gt=0, le=MAX_FACTOR)
    standardize: bool = False
    weight: float = Field(default=0.9, gt=0, le=MAX_FACTOR)
    main_weight: float = Field(default=0.1, ge=0, le=MAX_FACTOR)


class FitNetLossSettings(LossSettings):
    """FitNets (Romero et al. 2015): a regressor of 1×1 leads the student's middle map to the teacher's.

    Attributes:
        hint: which of the taps, from 0; null = the middle one.
    """

    makes = "svdistill.losses:FitNetLoss"

    name: Literal["fitnet"]
    hint: int | None = Field(default=None, ge=0, le=MAX_RANK)


class FSPLossSettings(LossSettings):
    """FSP (Yim et al. 2017): the Gram matrices between neighbouring taps."""

    makes = "svdistill.losses:FSPLoss"

    name: Literal["fsp"]


class AttentionLossSettings(LossSettings):
    """Attention transfer (Zagoruyko & Komodakis 2017): where, not what, each tap responds to.

    Attributes:
        power: p of the attention map Σ_c |A_c|^p.
    """

    makes = "svdistill.losses:AttentionLoss"

    name: Literal["attention"]
    power: float = Field(default=2.0, ge=1, le=100)


class RelationalLossSettings(LossSettings):
    """RKD (Park et al. 2019): distances and angles between the images of a batch, at the last tap.

    Attributes:
        distance: factor on the part of distances.
        angle: factor on the part of angles.
    """

    makes = "svdistill.losses:RelationalLoss"

    name: Literal["relational"]
    distance: float = Field(default=25.0, ge=0, le=MAX_FACTOR)
    angle: float = Field(default=50.0, ge=0, le=MAX_FACTOR)


class DKDLossSettings(LossSettings):
    """DKD (Zhao et al. 2022): the probability of the right class, and those of the others among themselves.

    Attributes:
        alpha: factor on the part of the right class.
        beta: factor on the part of the other classes; published from 2 to 8, by pair.
        temperature: divides both networks' logits.
        warm_up: a twelfth of the epochs, as published (20 of 240): at its full weight from the first step the loss,
            much larger than the main loss, can make training diverge.
    """

    compares_taps = False
    makes = "svdistill.losses:DKDLoss"

    name: Literal["dkd"]
    alpha: float = Field(default=1.0, ge=0, le=MAX_FACTOR)
    beta: float = Field(default=2.0, ge=0, le=MAX_FACTOR)
    warm_up: Length = 0.0833
    temperature: float = Field(default=4.0, gt=0, le=MAX_FACTOR)


class DISTLossSettings(LossSettings):
    """DIST (Huang et al. 2022): correlations with the teacher, over the classes and over the images of a batch.

    Attributes:
        beta: factor on the part over the classes.
        gamma: factor on the part over the images.
        temperature: divides both networks' logits.
    """

    compares_taps = False
    makes = "svdistill.losses:DISTLoss"

    name: Literal["dist"]
    beta: float = Field(default=2.0, ge=0, le=MAX_FACTOR)
    gamma: float = Field(default=2.0, ge=0, le=MAX_FACTOR)
    temperature: float = Field(default=4.0, gt=0, le=MAX_FACTOR)


class SimilarityLossSettings(LossSettings):
    """SP (Tung & Mori 2019): how similar the images of a batch are to each other, at the last tap."""

    makes = "svdistill.losses:SimilarityLoss"

    name: Literal["similarity"]


class PKTLossSettings(LossSettings):
    """PKT (Passalis & Tefas 2018): which images of a batch are neighbours, at the last tap."""

    makes = "svdistill.losses:PKTLoss"

    name: Literal["pkt"]


# All losses that a recipe may name: the one list of them, in the order in which messages and tables name them.
AnyLoss = Annotated[
    SVDLossSettings
    | SoftTargetLossSettings
    | FitNetLossSettings
    | FSPLossSettings
    | AttentionLossSettings
    | RelationalLossSettings
    | DKDLossSettings
    | DISTLossSettings
    | SimilarityLossSettings
    | PKTLossSettings,
    Field(discriminator="name"),
]
LOSSES: dict[str, type[LossSettings]] = by_name(AnyLoss)


def in_teacher_s_basis(loss: Mapping[str, Any]) -> bool:
    """Whether settings of a loss, not yet validated, say so themselves or by their preset."""
    return bool(loss.get("basis", PRESETS.get(str(loss.get("preset")), {}).get("basis")) == "teacher")


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
