"""A trained teacher in a few small files: weights in half precision, so that a later call need not train it again."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from svdistill import nets

PART_BYTES = 15 * 2**20
PATTERN = "gpu-teacher-*.safetensors"
SPEC = ("name", "num_classes", "in_channels", "width")


def store(source: Path, folder: Path) -> list[Path]:
    """Write a network of `svdistill.nets.save` in pieces of at most 15 MiB; vectors stay in float32.

    Args:
        source: the file of a run's student.
        folder: where the pieces go; those of an earlier teacher are replaced.

    Returns:
        The pieces.
    """
    spec = {key: str(value) for key, value in nets.spec(source).items()}
    pieces: list[dict[str, Tensor]] = [{}]
    for name, value in nets.load(source).state_dict().items():
        narrow = value.half() if value.dim() > 1 else value  # batch norm's statistics may not fit into half precision
        if _bytes(pieces[-1]) + narrow.nbytes > PART_BYTES:
            pieces.append({})
        pieces[-1][name] = narrow.contiguous()
    for old in folder.glob(PATTERN):
        old.unlink()
    written = []
    for number, piece in enumerate(pieces, start=1):
        path = folder / PATTERN.replace("*", str(number))
        path.write_bytes(safetensors.torch.save(piece, {"of": str(len(pieces)), "spec": json.dumps(spec)}))
        written.append(path)
    return written


def restore(folder: Path, target: Path) -> Path | None:
    """Put the pieces of a folder together to a file that `svdistill.nets.load` reads, in float32.

    Args:
        folder: where `store` has written.
        target: the file.

    Returns:
        The file; None where there is no teacher, or a piece is missing.
    """
    tensors: dict[str, Tensor] = {}
    paths = sorted(folder.glob(PATTERN))
    spec: dict[str, Any] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if int(metadata["of"]) != len(paths):
            return None
        spec = json.loads(metadata["spec"])
    if not spec:
        return None
    kinds = (str, int, int, float)
    settings = {key: kind(spec.pop(key)) for key, kind in zip(SPEC, kinds, strict=True)}
    network = nets.create(settings["name"], **{key: settings[key] for key in SPEC[1:]})
    wide = {name: value.float() if value.dtype == torch.float16 else value for name, value in tensors.items()}
    network.load_state_dict(wide)
    nets.save(network, target, **settings, extra=spec)
    return target


def _bytes(piece: dict[str, Tensor]) -> int:
    return sum(value.nbytes for value in piece.values())
