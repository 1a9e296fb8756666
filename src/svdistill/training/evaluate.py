"""How good a network is on an image set."""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill.data import ImageSet, ImageSource, Shard, standardize
from svdistill.data.batches import WHOLE
from svdistill.errors import DataError, ShapeError
from svdistill.nets import eval_mode
from svdistill.nets.outputs import find_logits
from svdistill.training.engine import Engine
from svdistill.training.reduce import all_reduce

_BATCH_SIZE = 250
_PIXELS_ON_GPU = 2**21  # 2,048 images of 32×32: enough that a GPU does not wait for Python


@torch.inference_mode()
def evaluate(
    engine: Engine | None,
    model: nn.Module,
    test: ImageSource,
    *,
    mean: Tensor,
    std: Tensor,
    batch_size: int | None = None,
    confusion: bool = False,
    shard: Shard = WHOLE,
) -> dict[str, Any]:
    """Measure a network on every image of a set, in eval mode; the mode it was in comes back afterwards.

    Args:
        engine: whose device and precision to use; None stays where the images are, in the model's own precision.
        model: images (B, C, H, W) to logits (B, classes), on that device. The logits are found in a tuple, a dict
            and the like where there is no doubt; a distiller knows which part of its student's output they are.
        test: the images to measure on, in memory or on disk, with labels.
        mean: (C,), of the training set.
        std: (C,), of the training set.
        batch_size: images at a time; changes the speed and nothing else. None = 250; on a GPU as many as have
            two million pixels together, where these are more.
        confusion: whether to count also what was taken for what.
        shard: where n processes measure together, which of them this is. Each takes every n-th image, none takes one
            twice, and all get the result of the whole set. Otherwise this process measures alone and waits for no
            other, also where there are several.

    Returns:
        ``accuracy`` in 0 to 1, ``loss`` (mean cross-entropy) and, if asked for, ``confusion``: rows are true classes.

    Raises:
        ShapeError: the network has another number of classes than the set.
        DataError: the images have no labels, or cannot be read.
        TrainingError: another process that should measure has ended.
    """
    if not test.labelled:
        raise DataError("the images to measure on have no labels; give a set that has them")
    device = test.device if engine is None else engine.device
    size = batch_size or _batch_size(test, device)
    tally = _Tally(engine, model, mean.to(device), std.to(device), classes=test.num_classes, device=device)
    with eval_mode(model):
        own = torch.arange(shard.rank, len(test), shard.of)
        labels = test.labels[own.to(test.labels.device)].to(device)
        # Images on disk are looked up on the CPU, whatever device they are handed out on.
        indices = own.to(test.device if isinstance(test, ImageSet) else "cpu").split(size) if len(own) else ()
        for raw, mine in zip(test.batches(indices), labels.split(size), strict=False):  # nothing splits into one piece
            tally.add(raw.to(device), mine)
    sums, counts = tally.sums, tally.counts
    if shard.of > 1:
        all_reduce(sums)
        if confusion:
            all_reduce(counts)
    accuracy, mean_loss = (sums / len(test)).tolist()
    result: dict[str, Any] = {"accuracy": accuracy, "loss": mean_loss}
    return {**result, "confusion": counts.tolist()} if confusion else result


class _Tally:
    """What is counted over the batches, on the device, which nothing here waits for.

    Attributes:
        sums: (2,), float64: how many are right, and the sum of the losses.
        counts: (classes, classes), int64: rows are true classes, columns predicted ones.
    """

    def __init__(
        self, engine: Engine | None, model: nn.Module, mean: Tensor, std: Tensor, *, classes: int, device: torch.device
    ) -> None:
        self._engine = engine
        self._model = model
        self._mean, self._std = mean, std
        self._layout = _layout(model, device)
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        self.counts = torch.zeros(classes, classes, dtype=torch.int64, device=device)

    def add(self, raw: Tensor, labels: Tensor) -> None:
        """Run the model on images (B, C, H, W), uint8, and compare with their labels (B,)."""
        images = standardize(raw, self._mean, self._std).to(memory_format=self._layout)
        with nullcontext() if self._engine is None else self._engine.autocast():
            logits = find_logits(self._model(images)).float()
        classes = len(self.counts)
        if logits.ndim != 2 or logits.shape[1] != classes:
            expected = f"expected (B, {classes}); take the network that was made for this data set"
            raise ShapeError(f"the network's logits have shape {tuple(logits.shape)}, {expected}")
        predicted = logits.argmax(dim=1)
        self.sums[0] += (predicted == labels).sum()
        self.sums[1] += F.cross_entropy(logits, labels, reduction="sum")
        cells = labels * classes + predicted
        # bincount would wait for a GPU in each batch: it looks at the values to find out how many bins there are.
        self.counts.view(-1).index_add_(0, cells, torch.ones_like(cells))


def _batch_size(test: ImageSource, device: torch.device) -> int:
    _, height, width = test.shape
    return _BATCH_SIZE if device.type == "cpu" else max(_BATCH_SIZE, _PIXELS_ON_GPU // (height * width))


def _layout(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Return how a model's images are best laid out on a device: as its weights are, on a CPU as they come."""
    kernels = [parameter for parameter in model.parameters() if parameter.ndim == 4 and not parameter.is_contiguous()]
    last = any(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    return torch.channels_last if last and device.type != "cpu" else torch.preserve_format
