"""The feature maps that the benchmarks work on: those of the published VGG pair."""

import torch
from torch import Tensor

from svdistill.nets import Taps, create, default_taps


def vgg_maps(batch: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the taps of student (with gradient) and teacher, untrained, full width, on random 32 x 32 images."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, 32, 32)
    maps = []
    for name in ("vgg-student", "vgg-teacher"):
        model = create(name, num_classes=100)
        with torch.no_grad(), Taps(model, default_taps(name)) as taps:
            model(images)
            maps.append([m.clone() for m in taps.collect()])
    return [m.requires_grad_() for m in maps[0]], maps[1]
