"""Trained networks on disk: what a student's file says beside its weights, and a teacher read back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svdistill import data, nets
from svdistill.errors import CheckpointError
from svdistill.plain import parse_json
from svdistill.recipes.images import Images
from svdistill.recipes.schema import Recipe

# What a file says as lists, and of what.
_LISTS: Mapping[str, type] = {"classes": str, "turned": str, "taps": str, "mean": float, "std": float}


def metadata(recipe: Recipe, images: Images) -> dict[str, str]:
    """Return what a student's file says beside its weights: how to prepare images for it, and what its outputs mean.

    Args:
        recipe: its name, data set and taps are read.
        images: give the classes, the statistics and the size.

    Returns:
        ``recipe``, ``data``, and as JSON ``image_size``, ``classes``, ``mean``, ``std`` and, where the recipe names
        them, ``taps`` and ``held_out``. With the task ``rotation`` also ``task``, and ``turned``, the classes of the
        images that were turned. Where it is not white, ``background`` as it is.
    """
    settings, named = recipe.data, {}
    if recipe.model.taps is not None:
        named["taps"] = json.dumps(recipe.model.taps)
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
    nets.save(
        model,
        path,
        name=recipe.model.name,
        num_classes=images.train.num_classes,
        in_channels=images.shape[0],
        width=recipe.model.width,
        extra=metadata(recipe, images),
    )


def load_teacher(path: Path, images: Images) -> nn.Module:
    """Load a trained teacher for images that are standardized for the student.

    A teacher that was trained with another mean and deviation gets its images converted to its own.

    Args:
        path: its safetensors file.
        images: the student's images.

    Returns:
        The teacher in eval mode, with (B, C, H, W) → logits.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    network = nets.load(path)
    spec = nets.spec(path)
    if "mean" not in spec or "std" not in spec:
        return network
    own_mean, own_std = statistics(path, spec)
    if own_mean.shape != images.mean.shape:
        raise CheckpointError(
            f"{path} expects images of {len(own_mean)} channels, but the data have {len(images.mean)}; take another one"
        )
    if torch.equal(own_mean, images.mean) and torch.equal(own_std, images.std):
        return network
    scale = (images.std / own_std)[:, None, None]
    offset = ((images.mean - own_mean) / own_std)[:, None, None]

    def convert(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first = inputs[0]
        return (first * scale.to(first.device, first.dtype) + offset.to(first.device, first.dtype), *inputs[1:])

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


def told(path: Path, spec: Mapping[str, Any], key: str) -> Any:
    """Read what a network's file says beside its weights, of the keys that hold JSON.

    Args:
        path: the file, for the message.
        spec: what ``nets.spec`` returned.
        key: one of those that `metadata` writes as JSON.

    Returns:
        A tuple of texts (``classes``, ``turned``, ``taps``) or of numbers (``mean``, ``std``), or a number
        (``image_size``, ``held_out``); None where nothing is said.

    Raises:
        CheckpointError: something else stands there.
    """
    try:
        value = parse_json(spec.get(key, "null"))
    except ValueError as error:
        raise CheckpointError(f"{path} has a damaged description ({key}: {error}); save the network again") from error
    if value is None:
        return None
    kind = _LISTS.get(key)
    if kind is not None and isinstance(value, list) and all(_is(one, kind) for one in value):
        return tuple(value)
    if kind is None and _is(value, float):
        return value
    raise CheckpointError(f"{path} has a damaged description ({key}); save the network again")


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
