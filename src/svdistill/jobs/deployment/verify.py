"""How an exported network compares with the trained one: on real images, and in time."""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svdistill.data import ImageSource
from svdistill.data.files import FileSet
from svdistill.errors import ExportError

# Of the largest logit: what rounding in another order comes to, with room. Beyond it, it is another network.
TOLERANCE = 1e-3
_BATCH_SIZE = 64
_WARM_UP, _ROUNDS = 5, 50
_LISTED = 20


@dataclass(frozen=True)
class Differing:
    """An image that two networks take for different things.

    Attributes:
        image: its file, or its number within the set, from 0.
        before: the class that the trained network gives it.
        after: the class that the exported network gives it.
        margin: how far apart the logits of these two were in the trained network.
    """

    image: str
    before: str
    after: str
    margin: float


@dataclass
class Agreement:
    """How the logits of two networks compare, image by image.

    Attributes:
        images: how many were compared.
        agreeing: of how many the most probable class is the same.
        largest_difference: between two logits.
        largest_logit: the largest absolute value of the trained network's.
        differing: the first of the images that are taken for different things.
        right: how many the trained network is right about; None without labels.
        right_after: how many the exported one is right about; None without labels.
        finite: whether all logits of both are.
    """

    images: int = 0
    agreeing: int = 0
    largest_difference: float = 0.0
    largest_logit: float = 0.0
    differing: list[Differing] = field(default_factory=list)
    right: int | None = None
    right_after: int | None = None
    finite: bool = True

    @property
    def agreement(self) -> float:
        """The share of the images whose most probable class is the same, 0 to 1."""
        return self.agreeing / self.images


def compare(
    images: ImageSource,
    before: Callable[[Tensor], Tensor],
    after: Mapping[str, Callable[[Tensor], Tensor]],
    *,
    classes: Sequence[str],
) -> dict[str, Agreement]:
    """Run networks on every image of a set.

    Args:
        images: real ones; labels are used where there are any. Where there are none, a picture that cannot be decoded
            is left out: what stands in for it is there already.
        before: the trained network: pixels (B, C, H, W), uint8, to logits.
        after: others, by name, of the same form.
        classes: the names of the classes.

    Returns:
        How each of `after` compares with `before`.
    """
    found = {name: Agreement() for name in after}
    indices = torch.arange(len(images)).split(_BATCH_SIZE)
    for index, batch in zip(indices, images.batches(indices), strict=True):
        sound = _sound(images, index)
        if not sound.any():
            continue
        pixels = batch[sound]
        logits = before(pixels)
        for name, run in after.items():
            _add(found[name], images, index[sound], logits, run(pixels), classes)
    return found


def check_same(agreement: Agreement, runtime: str, file: Path) -> None:
    """Make sure that two networks are one, but for rounding.

    Args:
        agreement: how they compare.
        runtime: what ran the exported one.
        file: of the trained one.

    Raises:
        ExportError: they are not.
    """
    if not agreement.finite:
        raise ExportError(f"{file} gives values that are not finite on these images; nothing was written")
    if agreement.largest_difference > TOLERANCE * agreement.largest_logit:
        raise ExportError(
            f"{runtime} gives other values than PyTorch: logits differ by up to {agreement.largest_difference:.2g} "
            f"where the largest is {agreement.largest_logit:.3g}, and {agreement.images - agreement.agreeing} of "
            f"{agreement.images} images are taken for another class; nothing was written"
        )


def _add(
    agreement: Agreement,
    images: ImageSource,
    index: Tensor,
    before: Tensor,
    after: Tensor,
    classes: Sequence[str],
) -> None:
    agreement.finite &= bool(before.isfinite().all() and after.isfinite().all())
    agreement.largest_difference = max(agreement.largest_difference, float((before - after).abs().max()))
    agreement.largest_logit = max(agreement.largest_logit, float(before.abs().max()))
    first, second = before.argmax(dim=1), after.argmax(dim=1)
    agreement.images += len(before)
    agreement.agreeing += int((first == second).sum())
    for row in torch.nonzero(first != second).flatten().tolist()[: _LISTED - len(agreement.differing)]:
        one, other = int(first[row]), int(second[row])
        margin = float(before[row, one] - before[row, other])
        agreement.differing.append(Differing(_name(images, int(index[row])), classes[one], classes[other], margin))
    if images.labelled:
        labels = images.labels[index].cpu()
        agreement.right = (agreement.right or 0) + int((first == labels).sum())
        agreement.right_after = (agreement.right_after or 0) + int((second == labels).sum())


def _sound(images: ImageSource, index: Tensor) -> Tensor:
    """Return which of the images just decoded are themselves, not others in place of unreadable ones, (B,)."""
    if images.labelled or not isinstance(images, FileSet):
        return torch.ones(len(index), dtype=torch.bool)
    return torch.tensor([position not in images.files.failures for position in images.positions[index].tolist()])


def _name(images: ImageSource, index: int) -> str:
    if isinstance(images, FileSet):
        return images.files.names[int(images.positions[index])]
    return f"image {index}"


def latency(runs: Mapping[str, tuple[Callable[[Any], Any], Tensor]]) -> dict[str, float]:
    """Measure the median time that networks take for one image.

    They are run in turns, in a random order each time, so that what else the machine does disturbs all of them alike.

    Args:
        runs: by name, a network and the batch of one image that it is given.

    Returns:
        Seconds, by name.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(_WARM_UP + _ROUNDS):
        for name, (run, image) in random.Random(turn).sample(sorted(runs.items()), len(runs)):
            begin = time.perf_counter()
            run(image)
            if turn >= _WARM_UP:
                taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in taken.items()}
