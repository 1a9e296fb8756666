"""The mean and deviation that images are standardized with where trained weights were trained with others."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from svdistill import nets
from svdistill.errors import RecipeError
from svdistill.nets.libraries.protocol import Configuration
from svdistill.recipes.models import ModelSettings, OutsideSettings
from svdistill.recipes.naming import named
from svdistill.recipes.told import told

Scale = tuple[tuple[float, ...], tuple[float, ...]]


def of_student(settings: ModelSettings, channels: int, found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean and deviation that a network's images are standardized with.

    Args:
        settings: the network's.
        channels: of its images.
        found: mean (C,) and deviation (C,) of the training images, which serve a network that begins afresh.

    Returns:
        Those of the recipe, else those of the weights that it begins with, else those that were found.

    Raises:
        RecipeError: trained weights of which nobody names them, or of another number of channels.
    """
    scale = None
    if settings.mean is not None and settings.std is not None:
        scale = settings.mean, settings.std
    elif settings.trained:
        if settings.checkpoint is not None:
            with named("model.checkpoint"):
                nets.states.find(settings.checkpoint)
        with named("model"):
            scale = _of_weights(settings, configured(settings, channels))
        if scale is None:
            raise _nobody_names("model", found)
    if scale is None:
        return found
    if len(scale[0]) != channels:
        raise RecipeError(f"model.mean: {len(scale[0])} numbers for images of {channels} channels; give one for each")
    mean, std = scale
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)


def of_teacher(settings: OutsideSettings, told: Configuration, found: tuple[Tensor, Tensor]) -> Scale | None:
    """Return mean and deviation of a teacher's images; None for random weights, which take the student's.

    Args:
        settings: the teacher's.
        told: what ``configured`` returned.
        found: mean (C,) and deviation (C,) of the student's images, for the message.

    Raises:
        RecipeError: trained weights of which nobody names them.
    """
    if settings.mean is not None and settings.std is not None:
        return settings.mean, settings.std
    if settings.pretrained is False and settings.checkpoint is None:
        return None
    if (scale := _of_weights(settings, told)) is None:
        raise _nobody_names("teacher.model", found)
    return scale


def configured(settings: ModelSettings | OutsideSettings, channels: int) -> Configuration:
    """Return what the configuration of a network says of trained weights; nothing where there is none.

    Args:
        settings: the network's.
        channels: of the images that it takes.
    """
    if not nets.foreign.is_of_library(settings.name):
        return Configuration()
    own = {key: value for key, value in settings.arguments.items() if key not in ("num_classes", "in_channels")}
    return nets.foreign.configuration(settings.name, in_channels=channels, arguments=own)


def _of_weights(settings: ModelSettings | OutsideSettings, told: Configuration) -> Scale | None:
    if settings.checkpoint is not None and (own := _of_file(Path(settings.checkpoint))) is not None:
        return own
    return None if told.mean is None or told.std is None else (told.mean, told.std)


def _of_file(path: Path) -> Scale | None:
    """Return what a file of ours says; None for any other."""
    if not nets.files.is_ours(path):
        return None
    spec = nets.spec(path)
    mean, std = told(path, spec, "mean"), told(path, spec, "std")
    return None if mean is None or std is None else (mean, std)


def _nobody_names(key: str, found: tuple[Tensor, Tensor]) -> RecipeError:
    mean, std = (_list(one.tolist()) for one in found)
    return RecipeError(
        f"{key}: nobody names the mean and deviation of the images that its weights were trained on; give {key}.mean "
        f"and {key}.std (those of these images are {mean} and {std})"
    )


def _list(numbers: Sequence[float]) -> str:
    return "[" + ", ".join(f"{one:.4g}" for one in numbers) + "]"
