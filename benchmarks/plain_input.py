"""Input as one would write it down: one image at a time is opened, cut, varied and standardized. The baseline."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from svdistill.data import Augmentation


class Photographs(Dataset[Tensor]):
    """JPEG files scaled to 256 pixels on the shorter side, of which the middle 224 are kept: (3, 224, 224), uint8."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.paths = [folder / name for name in names]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """Decode one file."""
        with Image.open(self.paths[index]) as opened:
            image = opened.convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize(
            (round(image.width * scale), round(image.height * scale)), resample=Image.Resampling.BILINEAR
        )
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        image = image.crop((left, top, left + 224, top + 224))
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous()


class Pixels(Dataset[Tensor]):
    """Images in memory, varied and standardized one by one: (C, H, W), float32.

    Args:
        images: (N, C, H, W), uint8.
        augmentation: how far they are varied.
        mean: (C,).
        std: (C,).
    """

    def __init__(self, images: Tensor, augmentation: Augmentation, mean: Tensor, std: Tensor) -> None:
        self.images = [Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()) for image in images]
        self.augmentation = augmentation
        self.mean, self.std = mean[:, None, None], std[:, None, None]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        """Vary and standardize one image."""
        return (vary(self.images[index], self.augmentation) - self.mean) / self.std


def vary(image: Image.Image, augmentation: Augmentation) -> Tensor:
    """Mirror, turn and shift an image at random: (C, H, W), float32, 0 to 1."""
    flip, angle, right, down = torch.rand(4).tolist()
    if augmentation.flip and flip < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    limit = augmentation.shift
    shift = (int(right * (2 * limit + 1)) - limit, int(down * (2 * limit + 1)) - limit)
    image = image.rotate((2 * angle - 1) * augmentation.rotation, translate=shift)
    pixels = torch.from_numpy(np.asarray(image).reshape(image.height, image.width, -1).copy())
    return pixels.permute(2, 0, 1).float() / 255


def loader(images: Dataset[Tensor], *, batch: int, workers: int, shuffle: bool = False) -> DataLoader[Tensor]:
    """Return a loader with torch's settings."""
    return DataLoader(images, batch, shuffle=shuffle, num_workers=workers)
