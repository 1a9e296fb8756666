"""The images of a recipe, compared with each other by content."""

import hashlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from svdistill.data import ImageSource
from svdistill.jobs.doctor.findings import ImageFindings
from svdistill.recipes import Recipe
from svdistill.recipes.images import Images

SECONDS = 20.0  # that comparing images may take: those on disk have to be read for it
_AT_ONCE = 500


def look_at_images(recipe: Recipe, images: Images) -> ImageFindings:
    """Count images and classes, and find those that are there twice, blank, or both trained on and measured with.

    Sets that lie on disk and take too long to be read are compared as far as time allows; ``looked_at`` tells.

    Args:
        recipe: names the data set.
        images: of the recipe, on the CPU.
    """
    train, test, others = images.train, images.test, images.unlabelled
    counts = train.labels.bincount(minlength=train.num_classes)
    tested = test.labels.bincount(minlength=test.num_classes)
    fewest, most = int(counts.argmin()), int(counts.argmax())
    seen: dict[bytes, set[int]] = {}
    both = twice = contradicting = blank = looked = 0
    until = time.monotonic() + SECONDS
    for part in (train, others, test):
        if part is None:
            continue
        for digest, label, empty in _contents(part, until=until):
            looked += 1
            blank += empty
            known = seen.get(digest)
            if part is test:
                both += known is not None
                continue
            if known is not None and part is train:
                twice += 1
                contradicting += label not in known
            seen.setdefault(digest, set()).add(label)
    return ImageFindings(
        name=recipe.data.name,
        shape=train.shape,
        train=len(train),
        test=len(test),
        unlabelled=0 if others is None else len(others),
        classes=train.num_classes,
        fewest=(train.classes[fewest], int(counts[fewest])),
        most=(train.classes[most], int(counts[most])),
        untrained=tuple(train.classes[i] for i in torch.nonzero(counts == 0).flatten().tolist()),
        untested=tuple(test.classes[i] for i in torch.nonzero(tested == 0).flatten().tolist()),
        looked_at=looked,
        in_both=both,
        twice=twice,
        contradicting=contradicting,
        blank=blank,
        bytes=images.bytes,
    )


def _contents(part: ImageSource, *, until: float) -> Iterator[tuple[bytes, int, bool]]:
    """Hand out digest and label of each image, and whether it is blank, in an order that no class comes first in."""
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
    chunks = order.split(_AT_ONCE)
    for index, pixels in zip(chunks, part.batches(iter(chunks)), strict=True):
        flat: Tensor = pixels.cpu().flatten(1)
        blank = (flat.amax(1) == flat.amin(1)).tolist()
        labels = part.labels[index].tolist()
        for row, label, empty in zip(flat.numpy(), labels, blank, strict=True):
            yield hashlib.blake2b(row.tobytes(), digest_size=16).digest(), label, empty
        if time.monotonic() > until:
            return
