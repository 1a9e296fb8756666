"""Weights that somebody else has saved: read without running code, and unwrapped."""

import argparse
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svdistill.errors import CheckpointError, SvdistillWarning, one_line
from svdistill.nets import files
from svdistill.nets.fit import State, averaged
from svdistill.unpickle import TENSORS, WRONG, ForbiddenNameError, Name, follow_archive

_WRAPPERS = ("state_dict", "model_state_dict", "model", "model_state", "network", "net", "module", "weights", "student")
_DEEPEST = 4
_WHOLE_FILE = "save model.state_dict() alone, by torch.save or safetensors"


def find(path: str | os.PathLike[str]) -> Path:
    """Return where a file of weights is, without a look into it; CheckpointError where it is missing."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise CheckpointError(f"no weights at {path}; give a file (.pt, .pth, .ckpt or .safetensors)")
    return file


def read(path: str | os.PathLike[str]) -> State:
    """Read the weights of a network from a file of torch or safetensors; no code from the file runs.

    Of what wraps them (``state_dict``, ``model``, …) all is left out; where there are averaged weights (EMA) beside the
    others they are taken, and a warning says so.

    Args:
        path: a ``.pt``, ``.pth`` or ``.ckpt`` that ``torch.save`` wrote, or a safetensors file, of `nets.save` or not.

    Returns:
        Names, as they stand in the file, and tensors, on the CPU.

    Raises:
        CheckpointError: the file is missing or damaged, or holds no weights, or more than may be read.
    """
    file = find(path)
    if zipfile.is_zipfile(file):
        return _unwrapped(_read_archive(file), file)
    with file.open("rb") as opened:
        beginning = opened.read(2)
    if beginning[:1] == b"\x80":  # as torch wrote before 1.6, and pickle writes
        raise CheckpointError(f"{path} is a plain pickle, which is not read; {_WHOLE_FILE}")
    if beginning == b"PK":
        raise CheckpointError(f"{path} is damaged: its end is lacking, as of a copy that was cut off; copy it again")
    try:
        return files.tensors(file)
    except CheckpointError as error:
        if file.suffix == ".safetensors":
            raise
        raise CheckpointError(f"{path} is damaged, or of neither torch nor safetensors; {_WHOLE_FILE}") from error


def _read_archive(file: Path) -> Any:
    try:
        follow_archive(file, allows=_may_be_named)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except ForbiddenNameError as error:
        raise CheckpointError(
            f"{file} holds {one_line(error)} beside its weights, which is not read; {_WHOLE_FILE}"
        ) from error
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError, *WRONG) as error:
        raise CheckpointError(f"{file} is damaged or not of torch ({one_line(error)}); {_WHOLE_FILE}") from error
    except Exception as error:  # a pickle can be made to fail in any way
        raise CheckpointError(f"{file} cannot be read ({one_line(error)}); {_WHOLE_FILE}") from error


def _may_be_named(name: Name) -> bool:
    """Whether a file may hold what is made by this: tensors, and the options of a script that saved them."""
    return name.module in TENSORS or name == Name("argparse", "Namespace")


def _unwrapped(held: Any, file: Path, depth: int = 0) -> State:
    """Find the weights in what a file holds."""
    if not isinstance(held, Mapping) or depth > _DEEPEST:
        raise CheckpointError(f"{file} holds a {type(held).__name__}, expected weights by name; {_WHOLE_FILE}")
    found = {key: value for key, value in held.items() if isinstance(key, str) and isinstance(value, Tensor)}
    inside = [key for key, value in held.items() if isinstance(key, str) and _holds_weights(value)]
    # A best accuracy, or a number of steps, may stand beside what holds the weights.
    if found and not (inside and all(value.dim() == 0 for value in found.values())):
        return found
    averages = [key for key in inside if averaged(key)]
    if averages and len(inside) > 1:
        warnings.warn(
            f"{file} holds {' and '.join(inside)}; the averaged weights, {averages[0]}, are taken",
            SvdistillWarning,
            stacklevel=2,
        )
    known = [key for key in _WRAPPERS if key in inside]
    chosen = averages or known or inside
    if not chosen or (not averages and not known and len(inside) > 1):
        told = f"weights under {', '.join(inside)}" if inside else "no weights by name"
        raise CheckpointError(f"{file} holds {told}; {_WHOLE_FILE}")
    return _unwrapped(held[chosen[0]], file, depth + 1)


def _holds_weights(value: Any, depth: int = 0) -> bool:
    if not isinstance(value, Mapping) or depth > _DEEPEST:
        return False
    # The state of an optimizer is numbered.
    return any(
        isinstance(key, str) and (isinstance(one, Tensor) or _holds_weights(one, depth + 1))
        for key, one in value.items()
    )
