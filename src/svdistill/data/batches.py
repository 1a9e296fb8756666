"""Shuffled, augmented, standardized batches, whose whole state can be saved."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from svdistill.data.augment import Augmentation, augment
from svdistill.data.sets import UNLABELLED, ImageSource
from svdistill.data.statistics import check_statistics, standardize, unit_range
from svdistill.errors import CheckpointError, DataError, RecipeError, ShapeError


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
        std: (C,), likewise.

    Raises:
        RecipeError: the batch size is no whole number of at least 1.
        DataError: a batch is larger than the data.
        ShapeError: mean or std do not fit the number of channels.
    """

    def __init__(
        self, images: ImageSource, batch_size: int, *, seed: int, augmentation: Augmentation, mean: Tensor, std: Tensor
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise RecipeError(f"batch_size is {batch_size!r}, expected a whole number of at least 1")
        if batch_size > len(images):
            raise DataError(
                f"a batch of {batch_size} is larger than the {len(images)} training images; "
                f"set batch_size to at most {len(images)}, or take more images"
            )
        check_statistics((batch_size, *images.shape), mean, std)
        self._images = images
        self._batch_size = batch_size
        self._augmentation = augmentation
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

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Hand out the rest of the current epoch, or a new one if the current one is over.

        A batch counts as done from the moment it is handed out.

        Yields:
            images (batch_size, C, H, W) float32, augmented and standardized, and labels (batch_size,) int64, −1 where
            an image has none.
        """
        if len(self._order) == 0 or self._position >= len(self):
            self._order = torch.randperm(len(self._images), generator=self._generator)
            self._position = 0
        left = self._order[self._position * self._batch_size : len(self) * self._batch_size].split(self._batch_size)
        # Pixels may be read ahead by other processes; random numbers are drawn only here, one batch after the other.
        for index, pixels in zip(left, self._images.batches(left), strict=True):
            varied = augment(unit_range(pixels), self._augmentation, self._generator)
            self._position += 1
            labels = self._images.labels[index.to(self._images.device)]
            yield standardize(varied, self._mean, self._std), labels

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


class Mixed:
    """Labelled batches, to each of which a batch of images without labels is added.

    An epoch is one pass over the labelled images. The unlabelled ones go on beside them, epoch after epoch of their
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
        self._stream: Iterator[tuple[Tensor, Tensor]] = iter(())

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

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Hand out the rest of the current epoch, or a new one if the current one is over.

        Yields:
            images (batch_size + unlabelled batch_size, C, H, W) float32, augmented and standardized, and labels, int64,
            −1 for those of the second part.
        """
        for images, labels in self._labelled.epoch():
            others = self._next_unlabelled()
            without = labels.new_full((len(others),), UNLABELLED)
            yield torch.cat([images, others]), torch.cat([labels, without])

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

    def _next_unlabelled(self) -> Tensor:
        batch = next(self._stream, None)
        if batch is None:
            self._stream = self._unlabelled.epoch()
            batch = next(self._stream)
        return batch[0]
