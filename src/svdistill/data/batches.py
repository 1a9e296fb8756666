"""Shuffled, augmented, standardized batches, whose whole state can be saved."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from svdistill.data.augment import Augmentation, Views, Warps, draw, pieces_in_cache, warp
from svdistill.data.sets import UNLABELLED, ImageSource
from svdistill.data.statistics import check_statistics, standardize, unit_range
from svdistill.errors import CheckpointError, DataError, OptionError, ShapeError


class Batch(NamedTuple):
    """What one step learns from.

    Attributes:
        images: (B, C, H, W), float32, augmented and standardized.
        labels: (B,), int64, −1 where an image has none.
        indices: (B,), int64, on the CPU: the image's number in the training set.
        views: (B,), int64, on the CPU: the number of its warp where there are `Views`, else 0.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    views: Tensor


@dataclass(frozen=True)
class Shard:
    """The part of every batch that one of several processes works on.

    Attributes:
        rank: which process, from 0.
        of: how many there are.
    """

    rank: int = 0
    of: int = 1

    def part(self, batch_size: int) -> slice:
        """Return where the part lies in a batch.

        Raises:
            OptionError: the batch cannot be divided evenly.
        """
        if batch_size % self.of:
            nearest = max(self.of, round(batch_size / self.of) * self.of)
            raise OptionError(
                f"a batch of {batch_size} cannot be divided evenly by {self.of} processes; take {nearest}, or another "
                "number of processes"
            )
        size = batch_size // self.of
        return slice(self.rank * size, (self.rank + 1) * size)


WHOLE = Shard()


class Batches:
    """Goes through an image set in shuffled batches, epoch after epoch.

    One CPU generator gives the order and the augmentation. Its state, the order of the current epoch and the position
    in it are all there is to know: whoever restores them gets, bit for bit, the batches that would have come.

    Args:
        images: the training images, in memory or on disk; the batches are made on their device.
        batch_size: images a batch; the few that are left over at the end of an epoch are dropped.
        seed: seeds the generator.
        augmentation: how far images are varied, before standardization.
        mean: (C,), of the training set, as `channel_statistics` gives it.
        std: (C,), of the same images as `mean`.
        views: fixed warps, of which one is chosen at random, in place of new ones.
        shard: the part of each batch that this process gets. Order and warps are those of the whole batch, so that
            all processes together work on what a single one would, and a state fits any number of them.
        first: number of the first image, where the images of another set come before these.

    Raises:
        OptionError: the batch size is not a whole number of at least 1, or cannot be divided evenly.
        DataError: a batch is larger than the data.
        ShapeError: mean or std do not fit the number of channels.
    """

    def __init__(
        self,
        images: ImageSource,
        batch_size: int,
        *,
        seed: int,
        augmentation: Augmentation,
        mean: Tensor,
        std: Tensor,
        views: Views | None = None,
        shard: Shard = WHOLE,
        first: int = 0,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise OptionError(f"batch_size is {batch_size!r}, expected a whole number of at least 1")
        if batch_size > len(images):
            raise DataError(
                f"a batch of {batch_size} is larger than the {len(images)} training images; "
                f"set batch_size to at most {len(images)}, or take more images"
            )
        check_statistics((batch_size, *images.shape), mean, std)
        self._images = images
        self._batch_size = batch_size
        self._part = shard.part(batch_size)
        self._augmentation = augmentation
        self._views = views
        self._first = first
        self._mean, self._std = mean.to(images.device), std.to(images.device)
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)
        self._position = 0

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._images) // self._batch_size

    @property
    def position(self) -> int:
        """How many batches of the current epoch have been handed out; `len` between two epochs."""
        return self._position

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self._images.shape

    def epoch(self) -> Iterator[Batch]:
        """Hand out the rest of the current epoch, or a new one if the current one is over.

        A batch counts as done from the moment it is handed out.

        Yields:
            This process's part of each batch.
        """
        if len(self._order) == 0 or self._position >= len(self):
            self._order = torch.randperm(len(self._images), generator=self._generator)
            self._position = 0
        left = self._order[self._position * self._batch_size : len(self) * self._batch_size].split(self._batch_size)
        own = [index[self._part] for index in left]
        # Pixels may be read ahead by other processes; random numbers are drawn only here, one batch after the other.
        for index, mine, pixels in zip(left, own, self._images.batches(own), strict=True):
            view, warps = self._warps(index)
            self._position += 1
            labels = self._images.labels[mine.to(self._images.device)]
            yield Batch(self._prepared(pixels, warps), labels, mine + self._first, view)

    def _warps(self, index: Tensor) -> tuple[Tensor, Warps | None]:
        """Draw for the whole batch, and return view (B,) and warps of the own part."""
        if self._views is None:
            drawn = draw(len(index), self._augmentation, self._generator)
            view, warps = torch.zeros_like(index[self._part]), drawn and drawn.take(self._part)
        else:
            view = torch.randint(self._views.count, index.shape, generator=self._generator)[self._part]
            warps = self._views.warps(index[self._part] + self._first, view, self._augmentation)
        return view, warps

    def _prepared(self, pixels: Tensor, warps: Warps | None) -> Tensor:
        """Return uint8 (B, C, H, W) as float32, warped and standardized."""
        images = torch.empty(pixels.shape, device=pixels.device)
        for piece in pieces_in_cache(pixels):
            varied = unit_range(pixels[piece])
            if warps is not None:
                varied = warp(varied, **warps.take(piece)._asdict())
            images[piece] = standardize(varied, self._mean, self._std)
        return images

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state: generator, order, position, and the sizes that it is for."""
        return {
            "generator": self._generator.get_state(),
            "order": self._order.clone(),
            "position": self._position,
            "images": len(self._images),
            "batch_size": self._batch_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a state that `state_dict` returned.

        Args:
            state: of batches of the same number of images and the same batch size.

        Raises:
            CheckpointError: an entry is missing, or the state is for other sizes.
        """
        missing = sorted(self.state_dict().keys() - state.keys())
        if missing:
            raise CheckpointError(f"the saved state of the batches lacks {', '.join(missing)}; start the run afresh")
        came = (state["images"], state["batch_size"])
        expected = (len(self._images), self._batch_size)
        if came != expected:
            raise CheckpointError(
                f"the saved state is for {came[0]} images in batches of {came[1]}, but there are {expected[0]} in "
                f"batches of {expected[1]}; restore the settings or start the run afresh"
            )
        self._generator.set_state(state["generator"].cpu())
        self._order = state["order"].cpu().clone()
        self._position = int(state["position"])


def every_view(
    sets: Sequence[ImageSource],
    batch_size: int,
    *,
    views: Views,
    augmentation: Augmentation,
    mean: Tensor,
    std: Tensor,
    start: int = 0,
) -> Iterator[Batch]:
    """Hand out all views of all images, in order: those of the first batch of images, view by view, and so on.

    Each image is read once. What comes is, pixel by pixel, what `Batches` makes of the same image and view.

    Args:
        sets: their images are numbered in this order, one set after the other.
        batch_size: images a batch; the last batch of a set may be smaller.
        views: the fixed warps.
        augmentation: how far images are varied.
        mean: (C,), see `Batches`.
        std: (C,), of the same images as `mean`.
        start: number of the image to begin with, the first of a batch.

    Yields:
        Batches of consecutive images in one view, on the device of the images.
    """
    first = 0
    for images in sets:
        numbers = [part for part in torch.arange(len(images))[max(0, start - first) :].split(batch_size) if len(part)]
        for index, pixels in zip(numbers, images.batches(numbers), strict=True):
            raw, labels = unit_range(pixels), images.labels[index.to(images.device)]
            for number in range(views.count):
                view = torch.full_like(index, number)
                warps = views.warps(index + first, view, augmentation)
                varied = raw if warps is None else warp(raw, **warps._asdict())
                yield Batch(
                    standardize(varied, mean.to(images.device), std.to(images.device)), labels, index + first, view
                )
        first += len(images)


class Mixed:
    """Labelled batches, to each of which a batch of images without labels is added.

    An epoch is one pass over the labelled images. The unlabelled ones run beside them, epoch after epoch of their
    own, wherever the labelled ones stand. It has the interface of `Batches`.

    Args:
        labelled: they come first in each batch.
        unlabelled: they follow, with the label −1, whatever label they have.

    Raises:
        ShapeError: the images of the two have different shapes.
    """

    def __init__(self, labelled: Batches, unlabelled: Batches) -> None:
        if labelled.shape != unlabelled.shape:
            raise ShapeError(
                f"labelled images have shape {labelled.shape} and unlabelled ones {unlabelled.shape}; "
                "load both with the same image_size and channels"
            )
        self._labelled = labelled
        self._unlabelled = unlabelled
        self._stream: Iterator[Batch] = iter(())

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._labelled)

    @property
    def position(self) -> int:
        """How many batches of the current epoch have been handed out; `len` between two epochs."""
        return self._labelled.position

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self._labelled.shape

    def epoch(self) -> Iterator[Batch]:
        """Hand out the rest of the current epoch, or a new one if the current one is over.

        Yields:
            This process's part of each batch: first the labelled images, then those without labels, with the label −1.
        """
        for batch in self._labelled.epoch():
            others = self._next_unlabelled()
            without = batch.labels.new_full((len(others.images),), UNLABELLED)
            yield Batch(
                torch.cat([batch.images, others.images]),
                torch.cat([batch.labels, without]),
                torch.cat([batch.indices, others.indices]),
                torch.cat([batch.views, others.views]),
            )

    def state_dict(self) -> dict[str, Any]:
        """Return everything on which the further batches depend, as tensors and plain values."""
        return {"labelled": self._labelled.state_dict(), "unlabelled": self._unlabelled.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a state that `state_dict` returned.

        Args:
            state: of the same two kinds of batches.

        Raises:
            CheckpointError: an entry is missing, or the state is for other sizes.
        """
        missing = [name for name in ("labelled", "unlabelled") if name not in state]
        if missing:
            raise CheckpointError(
                f"the saved state of the batches lacks {' and '.join(missing)}; it is of a run with other data: "
                "restore the settings or start the run afresh"
            )
        self._unlabelled.load_state_dict(state["unlabelled"])
        self._labelled.load_state_dict(state["labelled"])
        self._stream = iter(())  # what was read ahead belongs to the state before

    def _next_unlabelled(self) -> Batch:
        batch = next(self._stream, None)
        if batch is None:
            self._stream = self._unlabelled.epoch()
            batch = next(self._stream)
        return batch
