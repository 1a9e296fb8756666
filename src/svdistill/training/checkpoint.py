"""The whole state of a run in one file, written so that a run can be killed at any moment and resume bit for bit."""

import os
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from svdistill.atomic import replacing
from svdistill.errors import CheckpointError

FORMAT = 2


def identity(model: nn.Module) -> dict[str, str]:
    """Return name, shape and dtype of everything in a model's state: what must agree to load a checkpoint."""
    return {name: f"{tuple(value.shape)} {value.dtype}" for name, value in model.state_dict().items()}


def save(path: str | os.PathLike[str], state: Mapping[str, Any], *, model: nn.Module) -> None:
    """Write a checkpoint in one piece: a reader finds the old one or the new one, whole.

    Args:
        path: the file.
        state: tensors, numbers, strings, and lists and mappings of them.
        model: whose identity is kept along with the state, and whose weights are in it.

    Raises:
        CheckpointError: the file cannot be written, for instance because the disk is full; an old one stays.
    """
    content = {"format": FORMAT, "identity": identity(model), "model": model.state_dict(), **state}
    try:
        with replacing(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot write the checkpoint {path}: {error}; the one before it is untouched") from error


def load(path: str | os.PathLike[str], *, model: nn.Module, names: Collection[str] = ()) -> dict[str, Any]:
    """Read a checkpoint of this model; no code from the file runs, and the model is left as it is.

    Args:
        path: the file.
        model: the network that the checkpoint must be of.
        names: of what must be in it besides.

    Returns:
        What was saved, on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged or foreign, or belongs to another model.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}; train first") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"the checkpoint {path} is damaged or not a checkpoint; {_advice(path)}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or not state.keys() >= {"model", *names}:
        raise CheckpointError(f"{path} is not a checkpoint of this version of svdistill; {_advice(path)}")
    difference = _difference(state.get("identity", {}), identity(model))
    if difference:
        raise CheckpointError(f"the checkpoint {path} is of another model: {difference}; {_advice(path)}")
    return state


def random_state() -> dict[str, Any]:
    """Return the state of torch's global random numbers, on the CPU and on every GPU if one is in use."""
    in_use = torch.cuda.is_initialized()  # asking the others would take up memory on each
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if in_use else []}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go back to a state that :func:`random_state` returned; GPUs that are no longer there are passed over."""
    torch.set_rng_state(state["cpu"])
    for index, value in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(value, index)


def _advice(path: str | os.PathLike[str]) -> str:
    return f"restore it, or remove {Path(path).name} to train from the start"


def _difference(saved: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Say in a few words where two models differ first; empty where they do not."""
    for name in expected:
        if name not in saved:
            return f"it lacks {name!r} {expected[name]}"
        if saved[name] != expected[name]:
            return f"{name!r} is {saved[name]} there and {expected[name]} here"
    extra = [name for name in saved if name not in expected]
    return f"it has {extra[0]!r} {saved[extra[0]]}, which this one has not" if extra else ""
