"""How good a network is on an image set."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from svdistill.data import ImageSource, standardize
from svdistill.errors import DataError, ShapeError
from svdistill.train.engine import Fabric


@torch.inference_mode()
def evaluate(
    fabric: Fabric | None,
    model: nn.Module,
    test: ImageSource,
    *,
    mean: Tensor,
    std: Tensor,
    batch_size: int = 250,
    confusion: bool = False,
) -> dict[str, Any]:
    """Measure a network on every image of a set, in eval mode; the mode it was in comes back afterwards.

    Args:
        fabric: whose device and precision to use; None stays where the images are, in the model's own precision.
        model: images (B, C, H, W) to logits (B, classes), on that device.
        test: the images to measure on, in memory or on disk, with labels.
        mean: (C,), of the training set.
        std: (C,), likewise.
        batch_size: images at a time; changes the speed and nothing else.
        confusion: whether to count also what was taken for what.

    Returns:
        ``accuracy`` in 0 to 1, ``loss`` (mean cross-entropy) and, if asked for, ``confusion``: rows are true classes.

    Raises:
        ShapeError: the network has another number of classes than the set.
        DataError: the images have no labels, or cannot be read.
    """
    if not test.labelled:
        raise DataError("the images to measure on have no labels; give a set that has them")
    device = test.device if fabric is None else fabric.device
    # validate_args would look at the values, which waits for the device in each batch.
    accuracy = MulticlassAccuracy(test.num_classes, average="micro", validate_args=False).to(device)
    matrix = MulticlassConfusionMatrix(test.num_classes, validate_args=False).to(device) if confusion else None
    loss = torch.zeros((), dtype=torch.float64, device=device)
    was_training = model.training
    model.eval()
    try:
        indices = torch.arange(len(test)).split(batch_size)
        for raw, given in zip(test.batches(indices), test.labels.split(batch_size), strict=True):
            labels = given.to(device)
            logits = _logits(fabric, model, standardize(raw.to(device), mean, std))
            if logits.ndim != 2 or logits.shape[1] != test.num_classes:
                expected = f"expected (B, {test.num_classes}); take the network that was made for this data set"
                raise ShapeError(f"the network's logits have shape {tuple(logits.shape)}, {expected}")
            accuracy.update(logits, labels)
            loss += F.cross_entropy(logits, labels, reduction="sum")
            if matrix is not None:
                matrix.update(logits, labels)
    finally:
        model.train(was_training)
    result: dict[str, Any] = {"accuracy": float(accuracy.compute()), "loss": float(loss) / len(test)}
    return result if matrix is None else {**result, "confusion": matrix.compute().tolist()}


def _logits(fabric: Fabric | None, model: nn.Module, images: Tensor) -> Tensor:
    if fabric is None:
        return torch.as_tensor(model(images)).float()
    with fabric.autocast():
        return torch.as_tensor(model(images)).float()
