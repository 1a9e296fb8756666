"""The whole state of a run in one file, written so that a run can be killed at any moment and resume bit for bit.

Such a file is a zip archive, as `torch.save` writes it, whose comment is the SHA-256 of all that stands before it.
"""

import errno
import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from svdistill import checksums
from svdistill.atomic import replacing
from svdistill.errors import CheckpointError
from svdistill.unpickle import TENSORS, follow_archive

FORMAT = 2
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota, or what a file may take
_ADVICE = "restore it, or train afresh (--fresh), which keeps the folder"


# How an archive ends: with the length of its comment, two bytes, which `torch.save` leaves at 0, and the comment.
_DIGITS = 64
_COMMENT = _DIGITS.to_bytes(2, "little")
_BLOCK = 2**20
# What a damaged or hostile archive makes the standard library raise; OSError where the disk itself reports it.
_DAMAGE = (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError, OverflowError, struct.error, zlib.error)


def identity(model: nn.Module) -> dict[str, str]:
    """Return name, shape and dtype of everything in a model's state: what must agree to load a checkpoint."""
    return _identity(model.state_dict())


def save(
    path: str | os.PathLike[str],
    state: Mapping[str, Any],
    *,
    model: nn.Module,
    keep: str | os.PathLike[str] | None = None,
) -> None:
    """Write a checkpoint in one piece: a reader finds the old one or the new one, whole.

    Args:
        path: the file.
        state: tensors, numbers, strings, and lists and mappings of them.
        model: whose identity is kept along with the state, and whose weights are in it.
        keep: the name that the old one gets, in the same folder; None = it is replaced.

    Raises:
        CheckpointError: the file cannot be written, for instance because the disk is full; an old one stays.
    """
    content = {"format": FORMAT, "identity": identity(model), "model": model.state_dict(), **state}
    try:
        with replacing(path, keep=keep) as file:
            torch.save(content, file)
            _seal(file)
    except (OSError, RuntimeError) as error:
        # Where the disk is full, torch speaks of its archive, after what the file said.
        said = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = said.strerror if isinstance(said, OSError) and said.strerror else said
        room = "; make room there, or write elsewhere" if getattr(said, "errno", None) in _FULL else ""
        before = "; the one before it is untouched" if Path(path).exists() else ""
        raise CheckpointError(f"cannot write the checkpoint {path}: {reason}{room}{before}") from error


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Compare a checkpoint with its checksum; one of an earlier version, with those that torch gives its parts.

    Args:
        path: the file; one that is not a checkpoint, or is not there, is not whole.
    """
    try:
        with Path(path).open("rb") as file:
            end, comment = _find_comment(file)
            if comment is not None:
                return comment == _digest(file, end)
            with zipfile.ZipFile(file) as archive:
                return archive.testzip() is None
    except _DAMAGE:
        return False


def _find_comment(file: BinaryIO) -> tuple[int, bytes | None]:
    """Return where the comment begins with its length, and the comment; None in an archive of an earlier version."""
    end = max(0, file.seek(0, os.SEEK_END) - len(_COMMENT) - _DIGITS)
    file.seek(end)
    comment = file.read()
    return end, comment.removeprefix(_COMMENT) if comment.startswith(_COMMENT) else None


def _seal(file: BinaryIO) -> None:
    """Give an archive a comment, the SHA-256 of all before it."""
    end = file.seek(-len(_COMMENT), os.SEEK_END)
    digest = _digest(file, end)
    file.seek(end)
    file.write(_COMMENT + digest)


def _digest(file: BinaryIO, end: int) -> bytes:
    """Return the SHA-256 of a file up to a position, in hexadecimal."""
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(min(_BLOCK, end - file.tell())):
        digest.update(block)
    return digest.hexdigest().encode()


def load(
    path: str | os.PathLike[str], *, model: nn.Module, kinds: Mapping[str, type | tuple[type, ...]] | None = None
) -> dict[str, Any]:
    """Read a checkpoint of this model; no code from the file runs, and the model is left as it is.

    Args:
        path: the file.
        model: the network that the checkpoint must be of.
        kinds: of what must be in it besides, by name.

    Returns:
        What was saved, on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged or foreign, or belongs to another model.
    """
    if not Path(path).exists():
        raise CheckpointError(f"there is no checkpoint {path}; train first")
    if not is_whole(path):
        raise CheckpointError(f"the checkpoint {path} is damaged or not a checkpoint; {_ADVICE}")
    try:
        follow_archive(path, allows=lambda name: name.module in TENSORS)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a pickle can be made to fail in any way
        raise CheckpointError(f"the checkpoint {path} is damaged or not a checkpoint; {_ADVICE}") from error
    wrong = _wrong_kind(state, {"format": int, "model": dict, **(kinds or {})})
    if wrong or state["format"] != FORMAT:
        raise CheckpointError(
            f"{path} is not a checkpoint of this version of svdistill ({wrong or 'its format is another'}); {_ADVICE}"
        )
    difference = _difference(_identity(state["model"]), identity(model))
    if difference:
        raise CheckpointError(f"the checkpoint {path} is of another model: {difference}; {_ADVICE}")
    with Path(path).open("rb") as file:
        if _find_comment(file)[1] is None:
            checksums.note_unsealed()
    found: dict[str, Any] = state
    return found


def random_state() -> dict[str, Any]:
    """Return the state of torch's global random numbers, on the CPU and on every GPU if one is in use."""
    in_use = torch.cuda.is_initialized()  # asking the others would take up memory on each
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if in_use else []}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go back to a state that :func:`random_state` returned; GPUs that are no longer there are passed over."""
    torch.set_rng_state(state["cpu"])
    for index, value in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(value, index)


def _wrong_kind(state: Any, kinds: Mapping[str, type | tuple[type, ...]]) -> str:
    """Say in a few words what a checkpoint lacks or has of another kind; empty where all is there."""
    if not isinstance(state, dict):
        return f"it holds a {type(state).__name__}"
    for name, kind in kinds.items():
        if name not in state:
            return f"it lacks {name!r}"
        if not isinstance(state[name], kind):
            return f"its {name!r} is a {type(state[name]).__name__}"
    return ""


def _identity(state: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        for name, value in state.items()
    }


def _difference(saved: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Say in a few words where two models differ first; empty where they do not."""
    for name in expected:
        if name not in saved:
            return f"it lacks {name!r} {expected[name]}"
        if saved[name] != expected[name]:
            return f"{name!r} is {saved[name]} there and {expected[name]} here"
    extra = [name for name in saved if name not in expected]
    return f"it has {extra[0]!r} {saved[extra[0]]}, which this one has not" if extra else ""
