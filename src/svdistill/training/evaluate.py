"""How good a network is on an image set."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill.data import ImageSource, Shard, standardize
from svdistill.data.batches import WHOLE
from svdistill.errors import DataError, ShapeError
from svdistill.nets import eval_mode
from svdistill.training.engine import Engine
from svdistill.training.reduce import all_reduce


@torch.inference_mode()
def evaluate(
    engine: Engine | None,
    model: nn.Module,
    test: ImageSource,
    *,
    mean: Tensor,
    std: Tensor,
    batch_size: int = 250,
    confusion: bool = False,
    shard: Shard = WHOLE,
) -> dict[str, Any]:
    """Measure a network on every image of a set, in eval mode; the mode it was in comes back afterwards.

    Args:
        engine: whose device and precision to use; None stays where the images are, in the model's own precision.
        model: images (B, C, H, W) to logits (B, classes), on that device.
        test: the images to measure on, in memory or on disk, with labels.
        mean: (C,), of the training set.
        std: (C,), of the training set.
        batch_size: images at a time; changes the speed and nothing else.
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
    counts = torch.zeros(test.num_classes, test.num_classes, dtype=torch.int64, device=device)
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # right ones, loss
    with eval_mode(model):
        own = torch.arange(shard.rank, len(test), shard.of)
        indices = own.split(batch_size) if len(own) else ()
        for index, raw in zip(indices, test.batches(indices), strict=True):
            labels = test.labels[index.to(test.labels.device)].to(device)
            logits = _logits(engine, model, standardize(raw.to(device), mean, std))
            if logits.ndim != 2 or logits.shape[1] != test.num_classes:
                expected = f"expected (B, {test.num_classes}); take the network that was made for this data set"
                raise ShapeError(f"the network's logits have shape {tuple(logits.shape)}, {expected}")
            sums[0] += (logits.argmax(dim=1) == labels).sum()
            sums[1] += F.cross_entropy(logits, labels, reduction="sum")
            if confusion:
                _count(counts, labels, logits.argmax(dim=1))
    if shard.of > 1:
        all_reduce(sums)
        if confusion:
            all_reduce(counts)
    accuracy, mean_loss = (sums / len(test)).tolist()
    result: dict[str, Any] = {"accuracy": accuracy, "loss": mean_loss}
    return {**result, "confusion": counts.tolist()} if confusion else result


def _count(counts: Tensor, labels: Tensor, predicted: Tensor) -> None:
    """Add a batch to the counts of what was taken for what, in place: rows are true classes, columns predicted ones."""
    cells = labels * len(counts) + predicted
    # bincount would wait for a GPU in each batch: it looks at the values to find out how many bins there are.
    counts.view(-1).index_add_(0, cells, torch.ones_like(cells))


def _logits(engine: Engine | None, model: nn.Module, images: Tensor) -> Tensor:
    if engine is None:
        return torch.as_tensor(model(images)).float()
    with engine.autocast():
        return torch.as_tensor(model(images)).float()
