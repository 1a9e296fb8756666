"""A teacher from outside, a network of another library or of one's own: made, and kept as a file of ours."""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from warnings import warn

import torch
from torch import nn

from svdistill import nets
from svdistill.errors import CheckpointError, RecipeError, SvdistillError, SvdistillWarning, one_line
from svdistill.nets import states
from svdistill.nets.fit import fit
from svdistill.nets.libraries.protocol import Configuration
from svdistill.nets.outputs import find_logits
from svdistill.nets.trace import REFUSALS
from svdistill.recipes import normalization, weights
from svdistill.recipes.images import Images
from svdistill.recipes.models import OutsideSettings
from svdistill.recipes.naming import named
from svdistill.recipes.schema import Recipe
from svdistill.recipes.told import told

FOLDER = "teachers"
# Of the arguments, those that a recipe's student may not have: the teacher's classes and channels are its own.
_OWN = ("num_classes", "in_channels")


class Outside(NamedTuple):
    """A teacher from outside.

    Attributes:
        network: in eval mode; it takes images of its own scale and size.
        num_classes: number of logits, 0 for features.
        in_channels: number of its images' channels.
        scale: mean and deviation of its images; None = the student's.
        size: height and width of its images; None = the student's.
        classes: their names, where its file tells them.
    """

    network: nn.Module
    num_classes: int
    in_channels: int
    scale: normalization.Scale | None
    size: tuple[int, int] | None
    classes: tuple[str, ...] | None


def make(recipe: Recipe, images: Images) -> Outside:
    """Make the teacher of a recipe that names a network from outside; the global random numbers are left as they were.

    Args:
        recipe: the student's.
        images: the student's.

    Raises:
        RecipeError: its weights would be random without a word, nobody names the normalization of trained ones, or it
            cannot be made of the arguments.
        CheckpointError: its file is missing or damaged, or does not fit.
    """
    settings = _settings(recipe)
    _check_weights(settings)
    with torch.random.fork_rng(devices=[]), named("teacher.model"):
        torch.default_generator.manual_seed(0)  # the same random weights for every seed of the student
        channels = _channels(settings, images)
        trained = settings.pretrained or settings.checkpoint is not None
        library = normalization.configured(settings, channels) if trained else Configuration()
        classes = _classes(settings, images, library)
        network, classes = _with_weights(recipe, settings, classes, channels)
        network.eval()
    scale = normalization.of_teacher(settings, library, (images.mean, images.std))
    if scale is not None and len(scale[0]) != channels:
        raise RecipeError(f"teacher.model.mean: {len(scale[0])} numbers for {channels} channels; give one for each")
    size, names = _told(settings)
    size = size or library.size
    classes = _counted(classes, network, channels, size or images.shape[1:])
    return Outside(network, classes, channels, scale, size, names)


def ready(made: Outside, images: Images) -> nn.Module:
    """Return the network of a teacher for images that are standardized for the student."""
    scale = None if made.scale is None else (torch.tensor(made.scale[0]), torch.tensor(made.scale[1]))
    return weights.converted(made.network, images, scale=scale, size=made.size, what="teacher.model")


def keep(recipe: Recipe, images: Images, folder: Path) -> Path:
    """Return the file of a teacher from outside, written where it is not there yet.

    By its checksum a run that resumes notices that its teacher, code or what lies on a hub, has become another one.

    Args:
        recipe: the student's.
        images: the student's.
        folder: where to, for instance ``runs/teachers``.

    Raises:
        CheckpointError: what is there is damaged.
    """
    settings, made = _settings(recipe), make(recipe, images)
    extra = {} if made.scale is None else dict(zip(("mean", "std"), map(json.dumps, made.scale), strict=True))
    if made.size is not None:
        extra["input_size"] = json.dumps(made.size)
    if made.classes is not None:
        extra["classes"] = json.dumps(made.classes)
    described: dict[str, Any] = {
        "name": settings.name,
        "num_classes": made.num_classes,
        "in_channels": made.in_channels,
        "width": settings.width,
        "arguments": {key: value for key, value in settings.arguments.items() if key not in _OWN},
        "extra": extra,
    }
    # By its weights too: those of a hub, and what code makes, may be others tomorrow.
    path = folder / f"{slug(settings)}-{_letters(made.network, described)}.safetensors"
    if path.exists():
        nets.spec(path)  # compares its checksum
    else:
        nets.save(made.network, path, **described)
    return path


def _letters(network: nn.Module, described: Mapping[str, Any]) -> str:
    about = json.dumps([described, weights.checksum(network)], sort_keys=True)
    return hashlib.sha256(about.encode()).hexdigest()[:10]


def slug(settings: OutsideSettings) -> str:
    """Return a name for files."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", settings.name).strip("-.")


def warn_of_guesses(recipe: Recipe, made: Outside) -> None:
    """Warn of what is taken from a library's configuration for weights that the library has not trained."""
    settings = _settings(recipe)
    if settings.checkpoint is None or nets.files.is_ours(settings.checkpoint):
        return
    guessed = []
    if settings.mean is None and made.scale is not None:
        mean, std = (", ".join(f"{one:.4g}" for one in numbers) for numbers in made.scale)
        guessed.append(f"mean [{mean}] and deviation [{std}]")
    if settings.image_size is None and made.size is not None:
        guessed.append(f"{made.size[0]} × {made.size[1]} pixels")
    if guessed:
        warn(
            f"teacher.model: its images are taken to have {', '.join(guessed)}, as the configuration of "
            f"{settings.name} says; if {settings.checkpoint} was trained otherwise, give teacher.model.mean, std and "
            "image_size",
            SvdistillWarning,
            stacklevel=2,
        )


def _settings(recipe: Recipe) -> OutsideSettings:
    assert recipe.teacher is not None
    assert recipe.teacher.model is not None
    return recipe.teacher.model


def _check_weights(settings: OutsideSettings) -> None:
    if settings.pretrained is None and settings.checkpoint is None and not nets.foreign.is_code(settings.name):
        raise RecipeError(
            "teacher.model: its weights would be random; give pretrained: true or checkpoint: FILE, or pretrained: "
            "false where that is what you want"
        )


def _channels(settings: OutsideSettings, images: Images) -> int:
    """Return how many channels a teacher takes: libraries train on colour."""
    given = settings.arguments.get("in_channels")
    if given is not None:
        return _number(given, "in_channels", least=1)
    of_colour = bool(settings.pretrained) or settings.name.startswith("torchvision:")
    return 3 if of_colour and images.shape[0] == 1 else images.shape[0]


def _classes(settings: OutsideSettings, images: Images, library: Configuration) -> int | None:
    """Return how many classes a teacher tells apart; None = as its library's weights do."""
    given = settings.arguments.get("num_classes")
    if given is not None:
        return _number(given, "num_classes", least=0)
    return library.num_classes if settings.pretrained else images.train.num_classes


def _number(value: Any, key: str, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RecipeError(f"arguments.{key}: expected a whole number of at least {least}, got {value!r}")
    return value


def _with_weights(
    recipe: Recipe, settings: OutsideSettings, classes: int | None, channels: int
) -> tuple[nn.Module, int | None]:
    """Make the network and load its weights; without a word on classes, those of the file are the network's."""
    network = _network(recipe, settings, classes, channels)
    if settings.checkpoint is None:
        return network, classes
    file = settings.checkpoint
    with named("checkpoint"):
        state = states.read(file)
        free = classes if "num_classes" not in settings.arguments else None
        left = fit(network, state, what=file, num_classes=free)
        if not left:
            return network, classes
        classes = next(len(value) for key, value in state.items() if f".{key}".endswith(f".{left[0]}"))
        network = _network(recipe, settings, classes, channels)
        fit(network, state, what=file)
    return network, classes


def _network(recipe: Recipe, settings: OutsideSettings, classes: int | None, channels: int) -> nn.Module:
    own = {key: value for key, value in settings.arguments.items() if key not in _OWN}
    create = partial(
        nets.foreign.create if classes is None else partial(nets.create, width=settings.width),
        settings.name,
        in_channels=channels,
        arguments=own,
        pretrained=bool(settings.pretrained),
        allow_code=recipe.allow_code,
    )
    return create(num_classes=classes)


def _told(settings: OutsideSettings) -> tuple[tuple[int, int] | None, tuple[str, ...] | None]:
    """Return height and width of a teacher's images, as the recipe or a file of ours says, and its classes' names."""
    side: Any = settings.image_size
    names = None
    if settings.checkpoint is not None and nets.files.is_ours(settings.checkpoint):
        path = Path(settings.checkpoint)
        spec = nets.spec(path)
        names = told(path, spec, "classes")
        side = told(path, spec, "image_size") if side is None else side
    return None if side is None else (int(side), int(side)), names


def _counted(classes: int | None, network: nn.Module, channels: int, size: tuple[int, int]) -> int:
    """Return how many classes there are, counted where nothing says so."""
    if classes is not None:
        return classes
    try:
        with torch.no_grad():
            return find_logits(network(torch.zeros(1, channels, *size)), who="teacher").shape[-1]
    except SvdistillError:
        raise
    except REFUSALS as error:
        reason = one_line(error).rstrip(".") or type(error).__name__
        raise CheckpointError(
            f"teacher.model: cannot take images of {size[0]} × {size[1]} ({reason}); change teacher.model.image_size"
        ) from error
