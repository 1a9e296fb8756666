"""The IDX format of the MNIST family: gzip, a magic number, big-endian sizes, then bytes."""

import struct
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from svdistill.data.archives import unzipped
from svdistill.errors import DataError

_MOST = 256 << 20  # bytes unzipped: five times what the largest of these files holds


def read_idx(path: Path, *, dimensions: int) -> Tensor:
    """Read a gzipped IDX file of unsigned bytes.

    Args:
        path: the ``.gz`` file.
        dimensions: how many dimensions it must have: 1 for labels, 3 for images.

    Returns:
        A uint8 tensor of the sizes that the file states.

    Raises:
        DataError: the file is missing, unreadable, not gzip, cut off or damaged, or does not hold what its head states.
    """
    content = b"".join(unzipped(path, most=_MOST))
    head = 4 * (1 + dimensions)
    if len(content) < head:
        raise _damaged(path, f"holds {len(content)} bytes, expected a head of {head}")
    magic, *sizes = struct.unpack(f">{1 + dimensions}I", content[:head])
    expected = 0x800 + dimensions  # 0x08 = unsigned byte, then the number of dimensions
    if magic != expected:
        raise _damaged(path, f"has magic number {magic:#010x}, expected {expected:#010x}")
    if len(content) - head != prod(sizes):
        stated = " × ".join(map(str, sizes))
        raise _damaged(path, f"states {stated} = {prod(sizes)} bytes but holds {len(content) - head}")
    values = np.frombuffer(content, dtype=np.uint8, offset=head).reshape(sizes)
    return torch.from_numpy(values.copy())


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path} {what}; get the file again")
