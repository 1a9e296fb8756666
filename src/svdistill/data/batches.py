"""Shuffled, augmented, standardized batches, whose whole state can be saved."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from svdistill.data.augment import Augmentation, Numbers, Views, draw
from svdistill.data.edits import Edits, edit, plan
from svdistill.data.geometry import pieces_in_cache
from svdistill.data.mixing import NUMBERS, Mix, Mixing, mix_images, partners, plan_mix
from svdistill.data.sets import ImageSet, ImageSource
from svdistill.data.statistics import check_statistics, standardize, unit_range
from svdistill.errors import CheckpointError, DataError, OptionError


class Batch(NamedTuple):
    """What one step learns from.

    Attributes:
        images: (B, C, H, W), float32, augmented and standardized.
        labels: (B,), int64, −1 where an image has none.
        indices: (B,), int64, on the CPU: the image's number in the training set.
        views: (B,), int64, on the CPU: the number of its variant where there are `Views`, else 0.
        others: (B,), int64, the label of the image that each is mixed with; None where images are not mixed.
        share: (B,), float32, the part that the own label keeps, 0 to 1; the other label has the rest.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    views: Tensor
    others: Tensor | None = None
    share: Tensor | None = None


class Draws(NamedTuple):
    """What is drawn at random for batches of one set; the dimension S counts the batches.

    Attributes:
        indices: (S, B), int64: the image's number in the training set.
        views: (S, B), int64: the number of its variant where there are `Views`, else 0.
        edits: how each is varied, (S, B, …); None where images stay as they are.
        mix: how each batch is mixed, (S, …); None where images are not mixed.
    """

    indices: Tensor
    views: Tensor
    edits: Edits | None
    mix: Mix | None = None

    def each(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to each tensor."""
        indices, views, edits, mix = self
        return type(self)(
            function(indices),
            function(views),
            None if edits is None else edits.each(function),
            None if mix is None else mix.each(function),
        )

    @property
    def tensors(self) -> list[Tensor]:
        """All that there are, in the same order whenever the same is drawn."""
        return [self.indices, self.views, *(one for one in (*(self.edits or ()), *(self.mix or ())) if one is not None)]


class _Drawn(NamedTuple):
    """What is drawn for a whole batch, before anything is made of it."""

    rows: Tensor
    views: Tensor
    numbers: Numbers | None
    mix: Tensor | None

    def take(self, part: slice) -> Self:
        """Return what is drawn for some of the images; all of them are mixed alike."""
        rows, views, numbers, mix = self
        return type(self)(rows[part], views[part], None if numbers is None else numbers.take(part), mix)


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
        views: fixed variants, of which one is chosen at random, in place of new ones.
        shard: the part of each batch that this process gets. Order and numbers are those of the whole batch, so that
            all processes together work on what a single one would, and a state fits any number of them.
        first: number of the first image, where the images of another set come before these.
        channels_last: whether the images of a batch lie channels-last in memory.
        mixing: how the images of a batch are mixed, after standardization; None = not. Each process must have an even
            number of images of a batch, so that it has both images of a pair. Whoever learns from them by a loop of
            one's own needs `Batch.others` and `Batch.share` too: ``take_step(learner, Examples(*batch), …)``.

    Raises:
        OptionError: the batch size is not a whole number of at least 1, or cannot be divided evenly, or the
            augmentation needs another number of channels, or views are to be mixed.
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
        channels_last: bool = False,
        mixing: Mixing | None = None,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise OptionError(f"batch_size is {batch_size!r}, expected a whole number of at least 1")
        if batch_size > len(images):
            raise DataError(
                f"a batch of {batch_size} is larger than the {len(images)} training images; "
                f"set batch_size to at most {len(images)}, or take more images"
            )
        check_statistics((batch_size, *images.shape), mean, std)
        augmentation.check(images.shape[0])
        self._images = images
        self._batch_size = batch_size
        self._part = shard.part(batch_size)
        if mixing is not None:
            _check_mixing(self._part, views)
        self._mixing = mixing
        self._augmentation = augmentation
        self._views = views
        self._first = first
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._mean, self._std = mean.to(images.device), std.to(images.device)
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)
        self._position = 0
        # What `upcoming` drew last, and from where.
        self._ahead: tuple[tuple[int, int, bytes], Draws] | None = None

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

    @property
    def device(self) -> torch.device:
        """Where the batches are made."""
        return self._images.device

    @property
    def labels(self) -> Tensor:
        """(N,), int64, of all images; −1 where an image has none."""
        return self._images.labels

    @property
    def in_memory(self) -> bool:
        """Whether the images lie in memory, so that batches can be assembled by `assemble`."""
        return isinstance(self._images, ImageSet)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, so that none of them is what its number and view say."""
        return self._mixing is not None

    def epoch(self, *, labelled_only: bool = False) -> Iterator[Batch]:
        """Hand out the rest of the current epoch, or a new one if the current one is over.

        A batch counts as done from the moment it is handed out.

        Args:
            labelled_only: for `Mixed` alone.

        Yields:
            This process's part of each batch.
        """
        self._begin_if_over()
        left = self._order[self._position * self._batch_size : len(self) * self._batch_size].split(self._batch_size)
        own = [index[self._part] for index in left]
        # Pixels may be read ahead by other processes; random numbers are drawn only here, one batch after the other.
        for mine, pixels in zip(own, self._images.batches(own), strict=True):
            drawn = self._draws(self._draw_numbers().take(self._part))
            yield self._made(pixels, self._images.labels[mine.to(self._images.device)], drawn)

    def advance(self) -> None:
        """Let the next batch count as handed out, without making it."""
        self._next_numbers()

    def upcoming(self, count: int) -> tuple[Draws, ...]:
        """Draw ahead of time what the next batches will draw, which they do all the same: nothing changes here.

        Args:
            count: how many batches, at least 1, through the ends of epochs; asked again before anything was handed
                out, it costs nothing.

        Returns:
            One, of S = ``count``, on the CPU.
        """
        start = (count, self._position, self._generator.get_state().numpy().tobytes())
        if self._ahead is None or self._ahead[0] != start:
            self._ahead = start, self._draw_ahead(count)
        return (self._ahead[1],)

    def _draw_ahead(self, count: int) -> Draws:
        ahead = copy.copy(self)
        ahead._generator = self._generator.clone_state()
        each = [ahead._next_numbers().take(self._part) for _ in range(count)]
        numbers = [one.numbers for one in each if one.numbers is not None]
        # The edits of all at once: one by one they would take longer than the steps on a fast device.
        joined = _Drawn(
            torch.cat([one.rows for one in each]),
            torch.cat([one.views for one in each]),
            Numbers.join(numbers) if numbers else None,
            None,
        )
        draws = self._draws(joined).each(lambda one: one.unflatten(0, (count, -1)))
        mixes = [mix for one in each if (mix := self._planned(one.mix)) is not None]
        return draws._replace(mix=Mix(*map(torch.stack, zip(*mixes, strict=True)))) if mixes else draws

    def assemble(self, drawn: Sequence[Draws], *, labelled_only: bool = False) -> Batch:
        """Make a batch of images in memory from what was drawn for it, all on their device.

        Args:
            drawn: one, without the dimension S.
            labelled_only: for `Mixed` alone.

        Returns:
            The batch, indices and views on the device too.
        """
        (own,) = drawn
        assert isinstance(self._images, ImageSet)
        rows = own.indices - self._first
        return self._made(self._images.images[rows], self._images.labels[rows], own)

    def _begin_if_over(self) -> None:
        if len(self._order) == 0 or self._position >= len(self):
            self._order = torch.randperm(len(self._images), generator=self._generator)
            self._position = 0

    def _next_numbers(self) -> _Drawn:
        self._begin_if_over()
        return self._draw_numbers()

    def _draws(self, drawn: _Drawn) -> Draws:
        """Return the draws of images (n,) of this set, in their views, or with their new numbers."""
        rows, views, numbers, mix = drawn
        indices = rows + self._first
        if self._views is not None:
            numbers = self._views.numbers(indices, views, self._augmentation)
        _, height, width = self.shape
        edits = None if numbers is None else plan(numbers, self._augmentation, height=height, width=width)
        return Draws(indices, views, edits, self._planned(mix))

    def _planned(self, mix: Tensor | None) -> Mix | None:
        """Return how a batch is mixed for which these numbers were drawn."""
        if self._mixing is None or mix is None:
            return None
        _, height, width = self.shape
        return plan_mix(mix, self._mixing, height=height, width=width)

    def _draw_numbers(self) -> _Drawn:
        """Draw the random numbers of the whole next batch, which then counts as handed out."""
        start = self._position * self._batch_size
        index = self._order[start : start + self._batch_size]
        self._position += 1
        if self._views is not None:
            return _Drawn(index, torch.randint(self._views.count, index.shape, generator=self._generator), None, None)
        numbers, mix = draw(len(index), self._augmentation, self._generator), None
        if self._mixing is not None:
            mix = torch.rand(NUMBERS, generator=self._generator, dtype=torch.float64)
        return _Drawn(index, torch.zeros_like(index), numbers, mix)

    def _made(self, pixels: Tensor, labels: Tensor, drawn: Draws) -> Batch:
        """Return the batch that was drawn, of these images as they are."""
        batch = Batch(self._prepared(pixels, drawn.edits), labels, drawn.indices, drawn.views)
        if drawn.mix is None:
            return batch
        share = drawn.mix.share.to(labels.device).expand(len(labels))
        return batch._replace(images=mix_images(batch.images, drawn.mix), others=partners(labels), share=share)

    def _prepared(self, pixels: Tensor, edits: Edits | None) -> Tensor:
        """Return uint8 (B, C, H, W) as float32, varied and standardized."""
        images = torch.empty(pixels.shape, device=pixels.device, memory_format=self._layout)
        for piece in pieces_in_cache(pixels):
            varied = unit_range(pixels[piece])
            if edits is not None:
                varied = edit(varied, edits.take(piece), fill=self._mean)
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


def _check_mixing(part: slice, views: Views | None) -> None:
    """Refuse to mix images that do not pair up, or fixed views."""
    if views is not None:
        raise OptionError(
            "mixing: which images are mixed changes from batch to batch, so that there are no fixed views; give "
            "either views or mixing"
        )
    number = part.stop - part.start
    if number % 2:
        raise OptionError(
            f"mixing: {number} images of a batch in each process cannot be mixed in pairs; take an even number"
        )


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
        views: the fixed variants.
        augmentation: how far images are varied.
        mean: (C,), see `Batches`.
        std: (C,), of the same images as `mean`.
        start: number of the image to begin with, the first of a batch.

    Yields:
        Batches of consecutive images in one view, on the device of the images.
    """
    first = 0
    for images in sets:
        _, height, width = images.shape
        indices = [part for part in torch.arange(len(images))[max(0, start - first) :].split(batch_size) if len(part)]
        for index, pixels in zip(indices, images.batches(indices), strict=True):
            raw, labels = unit_range(pixels), images.labels[index.to(images.device)]
            for number in range(views.count):
                view = torch.full_like(index, number)
                numbers = views.numbers(index + first, view, augmentation)
                edits = None if numbers is None else plan(numbers, augmentation, height=height, width=width)
                varied = raw if edits is None else edit(raw, edits, fill=mean)
                yield Batch(
                    standardize(varied, mean.to(images.device), std.to(images.device)), labels, index + first, view
                )
        first += len(images)
