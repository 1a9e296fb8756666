"""The settings of networks: the one that is trained, and a teacher from outside. Knows no torch."""

import hashlib
import json
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, Strict, model_validator

from svdistill.choices import LAYOUTS, MAX_RANK, Layout
from svdistill.errors import brief
from svdistill.recipes.base import Settings

Taps = Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]


def _plain_layouts(value: Any) -> Any:
    """Say in one sentence what layouts are: the union's own error has one line for each member."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not words or not all(word in LAYOUTS for word in words):
        raise ValueError(f"expected {' or '.join(LAYOUTS)}, or a list of one for each tap; got {brief(value)}")
    return value if isinstance(value, str) else tuple(value)


# One word for all taps, or one for each.
Layouts = Annotated[Layout | tuple[Layout, ...], BeforeValidator(_plain_layouts)]


def _colours(least: float, most: float) -> BeforeValidator:
    """Return what checks one number for each channel, above a least (0: above it) and at most another."""

    def check(value: Any) -> Any:
        numbers = value if isinstance(value, list | tuple) else []
        right = all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers)
        if not numbers or not right or not all(least <= one <= most for one in numbers):
            raise ValueError(
                f"expected a list of one number for each channel, {least:g} to {most:g} for images in [0, 1]; got "
                f"{brief(value)}"
            )
        return tuple(map(float, numbers))

    return BeforeValidator(check)


Mean = Annotated[tuple[float, ...], _colours(0.0, 1.0)]
Deviation = Annotated[tuple[float, ...], _colours(1e-3, 10.0)]


class ModelSettings(Settings):
    """A network by name.

    Attributes:
        name: e.g. ``vgg-bn-student``, ``timm:resnet18``, ``torchvision:resnet18``, ``transformers:vit``, or code of
            one's own, ``package.module:callable``, which runs only where ``allow_code`` says so.
        width: factor on every channel count; 1 for a network from outside.
        arguments: further keyword arguments for what makes a network from outside.
        pretrained: begin with the weights of the network's library, from its own cache or hub.
        checkpoint: begin with the weights in this file: ``.pt``, ``.pth`` or ``.ckpt`` of torch, or safetensors.
        mean: standardize all images with this mean, one number for each channel of images in [0, 1]; null = as the
            configuration of trained weights says, else that of the training images.
        std: the standard deviation, as for the mean.
        taps: dotted names of the submodules whose outputs are compared, in order; null = the network's own, the
            last hidden features among them.
        drop_tokens: how many tokens at the front of a (B, N, D) tap are not image positions: 1 for a class token.
        layout: where the channels of the maps are, for all taps or a list of one for each: ``channels_first`` for
            (B, C, H, W) and (B, C, T), ``channels_last`` for (B, H, W, C) and (B, N, D); null = as the maps show.
    """

    name: str
    width: float = Field(default=1.0, gt=0, le=64)
    arguments: dict[str, Any] = Field(default_factory=dict)
    pretrained: bool = False
    checkpoint: str | None = None
    mean: Mean | None = None
    std: Deviation | None = None
    taps: Taps | None = None
    drop_tokens: int = Field(default=0, ge=0, le=MAX_RANK)
    layout: Layouts | None = None

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("checkpoint: the weights come from it or from the library; take pretrained=false")
        _check_scale(self.mean, self.std)
        return self

    @property
    def trained(self) -> bool:
        """Whether it begins with weights that have been trained."""
        return self.pretrained or self.checkpoint is not None


class OutsideSettings(Settings):
    """A teacher that was trained elsewhere: a network by name, and its weights.

    Attributes:
        name: as for the model.
        width: as for the model.
        arguments: as for the model; ``num_classes`` and ``in_channels`` among them are the teacher's own, for instance
            ``num_classes: 0`` for a backbone without its classifier.
        pretrained: with the weights of the network's library; ``false``, said explicitly, with random ones.
        checkpoint: with the weights in this file, as for the model.
        image_size: its copy of the images is resized to this many pixels a side; null = as the configuration of
            trained weights says.
        mean: its copy of the images is standardized with this mean; null = as the configuration of trained weights
            says, that of the student's images with random ones.
        std: the standard deviation, as for the mean.
    """

    name: str
    width: float = Field(default=1.0, gt=0, le=64)
    arguments: dict[str, Any] = Field(default_factory=dict)
    pretrained: bool | None = None
    checkpoint: str | None = None
    image_size: int | None = Field(default=None, ge=1, le=4096)
    mean: Mean | None = None
    std: Deviation | None = None

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("checkpoint: the weights come from it or from the library; leave pretrained out")
        _check_scale(self.mean, self.std)
        return self

    def identity(self, *, checkpoint: str | None) -> str:
        """Return what tells this teacher from others: its settings, and the checksum of its file."""
        settings = self.model_dump(mode="json", exclude_defaults=True, exclude={"checkpoint"})
        canonical = json.dumps([settings, checkpoint], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def _check_scale(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
    if (mean is None) != (std is None):
        raise ValueError("mean: mean and std belong together; give both or none")
    if mean is not None and std is not None and len(mean) != len(std):
        raise ValueError("std: expected as many numbers as in mean, one for each channel")
