"""Tests of what the input pipeline is measured with: both sides of a comparison do the same."""

from pathlib import Path

import numpy as np
import torch
from benchmarks.pictures import picture, write_pictures
from PIL import Image

from benchmarks import plain_input
from svdistill.data import Augmentation, Files, FileSet, augment, channel_statistics


def test_pictures_are_like_photographs(tmp_path: Path) -> None:
    """They have ImageNet's size, wide and upright, differ, come out the same again, and take as many bytes."""
    names = write_pictures(tmp_path, 5)
    sizes = []
    for name in names:
        with Image.open(tmp_path / name) as image:
            sizes.append(image.size)
            assert (image.format, image.mode) == ("JPEG", "RGB")
        assert 20_000 < (tmp_path / name).stat().st_size < 150_000
    assert sizes == [(500, 375), (500, 369), (500, 363), (500, 357), (375, 500)]
    again, other = np.asarray(picture(1, 60, 80)), np.asarray(picture(3, 60, 80))
    assert np.array_equal(again, np.asarray(picture(1, 60, 80)))
    assert not np.array_equal(again, other)


def test_both_decode_the_same(tmp_path: Path) -> None:
    """The plain way gives the same pictures, 256 / 224 times larger."""
    names = write_pictures(tmp_path, 2)
    ours = FileSet(Files(tmp_path, names), torch.arange(2), torch.zeros(2, dtype=torch.int64), ("a",), 224)
    plain = plain_input.loader(plain_input.Photographs(tmp_path, names), batch=2, workers=0)
    (first,), (second,) = list(ours.batches([torch.arange(2)])), list(plain)
    assert first.shape == second.shape == (2, 3, 224, 224)
    assert first.dtype == second.dtype == torch.uint8
    middle = torch.nn.functional.interpolate(first.float(), size=256, mode="bilinear")[..., 16:240, 16:240]
    assert (middle - second.float()).abs().mean() < 5


def test_both_vary_alike() -> None:
    """White images leave black gaps at the same places, and the numbers have the same scale."""
    white = torch.full((400, 3, 12, 12), 255, dtype=torch.uint8)
    settings = Augmentation(flip=True, rotation=15.0, shift=2)
    plain = plain_input.Pixels(white, settings, torch.zeros(3), torch.ones(3))
    torch.manual_seed(0)
    theirs = torch.stack([plain[i] for i in range(len(plain))])
    ours = augment(white.float() / 255, settings, torch.Generator().manual_seed(0))
    assert theirs.shape == ours.shape
    assert theirs.dtype == ours.dtype
    assert set(theirs.unique().tolist()) == set(ours.unique().tolist()) == {0.0, 1.0}
    assert (theirs.mean((0, 1)) - ours.mean((0, 1))).abs().max() < 0.15
    pixels = torch.randint(0, 256, (9, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = channel_statistics(pixels)
    still = plain_input.Pixels(pixels, Augmentation(), mean, std)
    assert torch.allclose(still[7], (pixels[7].float() / 255 - mean[:, None, None]) / std[:, None, None])
