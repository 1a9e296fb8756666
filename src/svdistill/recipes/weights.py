"""Trained networks on disk: what a student's file says beside its weights, and a teacher read back."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill import data, nets
from svdistill.errors import CheckpointError, SvdistillWarning
from svdistill.nets import states
from svdistill.nets.fit import fit
from svdistill.recipes.images import Images
from svdistill.recipes.schema import Recipe
from svdistill.recipes.told import told as told


def metadata(recipe: Recipe, images: Images) -> dict[str, str]:
    """Return what a student's file says beside its weights: how to prepare images for it, and what its outputs mean.

    Args:
        recipe: its name, data set and taps are read.
        images: give the classes, the statistics and the size.

    Returns:
        ``recipe``, ``data``, and as JSON ``image_size``, ``classes``, ``mean``, ``std`` and, where the recipe names
        them, ``taps``, with ``drop_tokens`` where there are any, and ``held_out``. With the task ``rotation`` also
        ``task``, and ``turned``, the classes of the images that were turned. Where it is not white, ``background`` as
        it is.
    """
    settings, named = recipe.data, {}
    if recipe.model.taps is not None or recipe.found is not None:
        named["taps"] = json.dumps(recipe.model.taps if recipe.found is None else recipe.found.student)
        found = 0 if recipe.found is None else recipe.found.student_drop_tokens
        if drop := recipe.model.drop_tokens or found:
            named["drop_tokens"] = json.dumps(drop)
    if settings.held_out is not None:
        named["held_out"] = json.dumps(settings.held_out)
    if settings.background != "white":
        named["background"] = settings.background
    if settings.task == "rotation":
        turned = None if settings.classes is None else data.read_classes(settings.classes)
        named |= {"task": settings.task, "turned": json.dumps(turned)}
    return {
        **named,
        "recipe": recipe.name,
        "data": recipe.data.name,
        "image_size": json.dumps(images.shape[1]),
        "classes": json.dumps(images.train.classes),
        "mean": json.dumps(images.mean.tolist()),
        "std": json.dumps(images.std.tolist()),
    }


def save(model: nn.Module, path: Path, *, recipe: Recipe, images: Images) -> None:
    """Write a trained network with all that is needed to rebuild and to use it.

    Args:
        model: a network of this recipe.
        path: the safetensors file to be written, atomically.
        recipe: what it was made from.
        images: what it was trained on.
    """
    nets.save(model, path, **_described(recipe, images), extra=metadata(recipe, images))


def check_savable(model: nn.Module, *, recipe: Recipe, images: Images) -> None:
    """Make sure before work starts that a network can be saved at its end; a warning tells what would be lost.

    Args:
        model: a network of this recipe.
        recipe: what it was made from.
        images: what it is trained on.

    Raises:
        CheckpointError: it holds what a file cannot, or its recipe does not build the same network again.
    """
    _, settings = nets.files.packed(model, **_described(recipe, images))
    if lost := nets.files.drawn(model, settings):
        warnings.warn(
            f"{recipe.model.name!r} keeps {lost} out of its state_dict and has another one each time it is built: "
            "where it is used as it is, a network that is loaded is another one than was trained; let it be saved as a "
            "buffer, or drawn with a seed of its own",
            SvdistillWarning,
            stacklevel=2,
        )


def _described(recipe: Recipe, images: Images) -> dict[str, Any]:
    return {
        "name": recipe.model.name,
        "num_classes": images.train.num_classes,
        "in_channels": images.shape[0],
        "width": recipe.model.width,
        "arguments": recipe.model.arguments,
    }


def checksum(model: nn.Module) -> str:
    """Return the SHA-256, in hexadecimal, of all that is in a network's state."""
    found = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        found.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def begin(model: nn.Module, recipe: Recipe, *, num_classes: int) -> tuple[str, ...]:
    """Load the weights that a recipe's network begins with, where it names a file.

    Args:
        model: the network.
        recipe: its part ``model`` is read.
        num_classes: the network's; a last layer of another number of classes is left as it is.

    Returns:
        The names of what was left.

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit.
    """
    file = recipe.model.checkpoint
    if file is None:
        return ()
    return fit(model, states.read(file), what=file, num_classes=num_classes)


def load_teacher(path: Path, images: Images, *, allow_code: bool = False) -> nn.Module:
    """Load a trained teacher for images that are standardized for the student.

    A teacher that was trained with another mean and deviation, or on images of another size where its file says that
    it wants that size, gets its own copy of the images, made of the student's.

    Args:
        path: its safetensors file.
        images: the student's images.
        allow_code: whether the code that the file names may run.

    Returns:
        The teacher in eval mode, with (B, C, H, W) → logits.

    Raises:
        CheckpointError: the file is missing or damaged.
        OptionError: the file names code, which may not run.
    """
    network = nets.load(path, allow_code=allow_code)
    spec = nets.spec(path)
    scale = None if "mean" not in spec or "std" not in spec else statistics(path, spec)
    return converted(network, images, scale=scale, size=told(path, spec, "input_size"), what=str(path))


def converted(
    network: nn.Module,
    images: Images,
    *,
    scale: tuple[Tensor, Tensor] | None,
    size: tuple[int, int] | None,
    what: str,
) -> nn.Module:
    """Let a network convert images that are standardized for the student to what it was trained on.

    Args:
        network: the teacher.
        images: the student's.
        scale: mean (C,) and deviation (C,) of the teacher's images; None = the student's. Grey images are taken for
            colour by a teacher of three channels.
        size: height and width of the teacher's images; None = the student's.
        what: the teacher, for the message.

    Returns:
        The same network.

    Raises:
        CheckpointError: the student's images have other channels.
    """
    own_mean, own_std = (images.mean, images.std) if scale is None else scale
    if len(own_mean) != len(images.mean) != 1:
        raise CheckpointError(
            f"{what} expects images of {len(own_mean)} channels, but the data have {len(images.mean)}; take another one"
        )
    same_scale = torch.equal(own_mean, images.mean) and torch.equal(own_std, images.std)
    if same_scale and size in (None, images.shape[1:]):
        return network
    factor = (images.std / own_std)[:, None, None]
    offset = ((images.mean - own_mean) / own_std)[:, None, None]

    def convert(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first = inputs[0]
        if not same_scale:
            first = first * factor.to(first.device, first.dtype) + offset.to(first.device, first.dtype)
        if size is not None and tuple(first.shape[2:]) != size:
            resized = F.interpolate(first.float(), size, mode="bilinear", antialias=True, align_corners=False)
            first = resized.to(first.dtype)
        return first, *inputs[1:]

    network.register_forward_pre_hook(convert)
    return network


def statistics(path: Path, spec: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Read mean and deviation from what a student's file says.

    Args:
        path: the file, for the message.
        spec: what ``nets.spec`` returned.

    Returns:
        mean (C,) and std (C,), float32, in units of [0, 1].

    Raises:
        CheckpointError: they are missing or are not lists of numbers.
    """
    mean, std = told(path, spec, "mean"), told(path, spec, "std")
    if mean is None or std is None:
        raise CheckpointError(f"{path} does not say how its images are standardized; give a file of a run")
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
