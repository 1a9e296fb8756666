"""Augmented and mixed images on the device against those on the CPU."""

import torch
from tests.gpu.small import EVERYTHING, image_set

from svdistill.data import Batches, Mixing, channel_statistics


def test_images_are_those_of_the_cpu(device):
    """Everything at once, many times; only rounding differs, and now and then a level, which decides on a bin."""
    images = image_set(64)
    mean, std = channel_statistics(images.images)
    options = {"augmentation": EVERYTHING, "mixing": Mixing(mixup=0.5, cutmix=1.0), "mean": mean, "std": std}
    here, there = (Batches(one, 16, seed=3, **options) for one in (images, images.to(device)))
    for _ in range(8):
        for expected, found in zip(here.epoch(), there.epoch(), strict=True):
            for one, other in zip(found[1:], expected[1:], strict=True):
                assert torch.equal(one.cpu(), other)
            off = (found.images.cpu() - expected.images).abs() > 1e-4
            assert off.float().mean() <= (0 if device.type == "cpu" else 0.02)
