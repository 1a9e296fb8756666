"""Small trees of real image files."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Random pixels (H, W, C), or (H, W) where grey."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def tree(
    root: Path,
    *,
    classes: Iterable[str] = ("cat", "dog", "eel"),
    train: int = 4,
    test: int = 2,
    size: int = 8,
    test_folder: str = "val",
) -> Path:
    """Write ``train/CLASS/N.png`` and ``val/CLASS/N.png``; every pixel of an image is its class and number."""
    for part, number in (("train", train), (test_folder, test)):
        for place, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(number):
                (folder / f"{i}.png").write_bytes(encoded(np.full((size, size, 3), 40 * place + i, dtype=np.uint8)))
    return root
