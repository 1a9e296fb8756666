"""Shuffled, augmented, standardized batches, whose whole state can be saved."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from svdistill.data.augment import Augmentation, augment
from svdistill.data.sets import ImageSet
from svdistill.data.statistics import check_statistics, standardize, unit_range
from svdistill.errors import CheckpointError, DataError, RecipeError


class Batches:
    """Goes through an image set in shuffled batches, epoch after epoch.

    One CPU generator gives the order and the augmentation. Its state, the order of the current epoch and the position
    in it are all there is to know: whoever restores them gets, bit for bit, the batches that would have come.

    Args:
        images: the training images; the batches are made on their device.
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
        self, images: ImageSet, batch_size: int, *, seed: int, augmentation: Augmentation, mean: Tensor, std: Tensor
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise RecipeError(f"batch_size is {batch_size!r}, expected a whole number of at least 1")
        if batch_size > len(images):
            raise DataError(
                f"a batch of {batch_size} is larger than the {len(images)} training images; "
                f"set batch_size to at most {len(images)}, or take more images"
            )
        check_statistics(images.images, mean, std)
        self._images = images
        self._batch_size = batch_size
        self._augmentation = augmentation
        self._mean, self._std = mean.to(images.images.device), std.to(images.images.device)
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

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Hand out the rest of the current epoch, or a new one if the current one is over.

        A batch counts as done from the moment it is handed out.

        Yields:
            images (batch_size, C, H, W) float32, augmented and standardized, and labels (batch_size,) int64.
        """
        if len(self._order) == 0 or self._position >= len(self):
            self._order = torch.randperm(len(self._images), generator=self._generator)
            self._position = 0
        while self._position < len(self):
            start = self._position * self._batch_size
            index = self._order[start : start + self._batch_size].to(self._images.images.device)
            raw = unit_range(self._images.images[index])
            varied = augment(raw, self._augmentation, self._generator)
            self._position += 1
            yield standardize(varied, self._mean, self._std), self._images.labels[index]

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
