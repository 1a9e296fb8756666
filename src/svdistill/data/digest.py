"""What tells image sets apart: a digest of each image as it was read, and one of a whole set.

Where images come from files, the bytes of the files count, and pixels only where there are no files. What a file is
decoded to depends on the version of Pillow, and what an image is resized to on torch and the processor, by rounding:
an upgrade, or another machine, would make other images of the same ones, and no interrupted run could be resumed there.
What else decides the pixels, size and channels, stands in the recipe and in a set's shape.
"""

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from svdistill.data.sets import ImageSource

# 128 bits: that two of a billion images have the same by chance is less likely than 1 in 10²⁰.
BYTES = 16


def fingerprint(images: "ImageSource") -> str:
    """Return what tells a set of images from others: what is in each of them, their order and their shape.

    Neither their labels nor their names or the folder that they lie in count. A set that is read from files as it is
    used has the fingerprint that it has once it is read into memory.

    Args:
        images: the set.

    Returns:
        A SHA-256 in hexadecimal.
    """
    whole = hashlib.sha256(json.dumps(images.shape).encode())
    whole.update(images.digests().numpy().tobytes())
    return whole.hexdigest()


def pixel_digests(images: Tensor) -> Tensor:
    """Digest the pixels of each image.

    Args:
        images: (N, C, H, W), uint8.

    Returns:
        (N, 16), uint8, on the CPU.
    """
    pieces = (piece.cpu().contiguous().numpy() for piece in images.split(4096))
    return as_tensor([content_digest(image.data) for piece in pieces for image in piece])


def content_digest(content: bytes | memoryview) -> bytes:
    """Digest the content of a file, or the pixels of an image.

    SHA-256, cut short, because processors have instructions for it: it is faster here than any other of the standard
    library that has no known weakness.
    """
    return hashlib.sha256(content).digest()[:BYTES]


def as_tensor(digests: list[bytes]) -> Tensor:
    """Return digests as the rows of a tensor (N, 16), uint8."""
    return torch.from_numpy(np.frombuffer(bytearray().join(digests), dtype=np.uint8).reshape(-1, BYTES))
