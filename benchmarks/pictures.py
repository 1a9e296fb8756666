"""Pictures of the size that ImageNet has, made from one photograph, for what reads image files."""

import io
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import cbook
from PIL import Image

QUALITY = 90


def picture(seed: int, height: int, width: int) -> Image.Image:
    """Return a crop of a photograph, perhaps mirrored, in another light, with the noise of a sensor.

    The photograph is Grace Hopper's portrait, which matplotlib ships: a crop of it compresses as photographs do, which
    smoothed noise or a drawing does not.
    """
    draw = np.random.default_rng(seed)
    whole = _photograph()
    part = draw.uniform(0.6, 1.0) * min(whole.width / width, whole.height / height)
    w, h = part * width, part * height
    left, top = draw.uniform(0, whole.width - w), draw.uniform(0, whole.height - h)
    crop = whole.resize((width, height), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
    pixels = np.asarray(crop, dtype=np.float32) * draw.uniform(0.7, 1.2, 3) + draw.normal(0, 4, (height, width, 1))
    if draw.random() < 0.5:
        pixels = pixels[:, ::-1]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_pictures(folder: Path, number: int) -> list[str]:
    """Write `number` JPEG files, about 500 × 375 pixels, a fifth of them upright, and return their names."""
    names = []
    for seed in range(number):
        height, width = (500, 375) if seed % 5 == 4 else (375 - seed % 7 * 6, 500)
        buffer = io.BytesIO()
        picture(seed, height, width).save(buffer, format="JPEG", quality=QUALITY)
        names.append(f"{seed:04}.jpg")
        (folder / names[-1]).write_bytes(buffer.getvalue())
    return names


@cache
def _photograph() -> Image.Image:
    return Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
