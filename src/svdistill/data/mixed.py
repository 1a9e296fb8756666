"""Labelled batches, with images without labels beside them."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from svdistill.data.batches import Batch, Batches, Draws
from svdistill.data.sets import UNLABELLED
from svdistill.errors import CheckpointError, ShapeError


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

    @property
    def device(self) -> torch.device:
        """Where the batches are made."""
        return self._labelled.device

    @property
    def labels(self) -> Tensor:
        """(N,), int64, of the labelled images."""
        return self._labelled.labels

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, each with another one of its own kind."""
        return self._labelled.mixes or self._unlabelled.mixes

    @property
    def in_memory(self) -> bool:
        """Whether all images lie in memory, so that batches can be assembled by `assemble`."""
        return self._labelled.in_memory and self._unlabelled.in_memory

    def epoch(self, *, labelled_only: bool = False) -> Iterator[Batch]:
        """Hand out the rest of the current epoch, or a new one if the current one is over.

        Args:
            labelled_only: leave out the images without labels, which pass by all the same.

        Yields:
            This process's part of each batch: first the labelled images, then those without labels, with the label −1.
        """
        for batch in self._labelled.epoch():
            if labelled_only:
                self._advance_unlabelled()
                yield batch
            else:
                yield _together(batch, self._next_unlabelled())

    def advance(self) -> None:
        """Let the next batch count as handed out, without making it."""
        self._labelled.advance()
        self._advance_unlabelled()

    def upcoming(self, count: int) -> tuple[Draws, ...]:
        """Draw ahead of time; see `Batches.upcoming`.

        Returns:
            Two: those of the labelled images, and those of the others.
        """
        return (*self._labelled.upcoming(count), *self._unlabelled.upcoming(count))

    def assemble(self, drawn: Sequence[Draws], *, labelled_only: bool = False) -> Batch:
        """Make a batch of images in memory from what was drawn for it; see `Batches.assemble`.

        Args:
            drawn: two, without the dimension S.
            labelled_only: leave out the images without labels.
        """
        first, second = drawn
        batch = self._labelled.assemble((first,))
        return batch if labelled_only else _together(batch, self._unlabelled.assemble((second,)))

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

    def _advance_unlabelled(self) -> None:
        self._unlabelled.advance()
        self._stream = iter(())  # what was read ahead has passed by


def _together(batch: Batch, others: Batch) -> Batch:
    """Put images without labels behind labelled ones."""
    without = batch.labels.new_full((len(others.images),), UNLABELLED)
    mixed, share = batch.others, batch.share
    if mixed is not None and share is not None:
        mixed, share = torch.cat([mixed, without]), torch.cat([share, torch.ones_like(without, dtype=share.dtype)])
    return Batch(
        torch.cat([batch.images, others.images]),
        torch.cat([batch.labels, without]),
        torch.cat([batch.indices, others.indices]),
        torch.cat([batch.views, others.views]),
        mixed,
        share,
    )
