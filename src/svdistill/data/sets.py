"""Image sets: what they all can do, and the one whose pixels lie in memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.data.digest import pixel_digests
from svdistill.errors import DataError, OptionError, nearest

UNLABELLED = -1
# ITU-R BT.601: how much red, green and blue count for brightness.
_LUMA = (0.299, 0.587, 0.114)


def spread(count: int, most: int) -> Tensor:
    """Return at most so many of the indices 0 to `count` − 1, evenly over all, as sets are often sorted by class."""
    return torch.linspace(0, count - 1, min(most, count)).round().long()


def others_of_class(labels: Tensor, index: int) -> Tensor:
    """Return the other images of an image's class, those behind it first: the order in which they stand in for it.

    Args:
        labels: (N,), int64.
        index: which image.

    Returns:
        Their indices (M,), int64, on the CPU.
    """
    of_class = torch.nonzero(labels == labels[index]).flatten().cpu()
    return torch.cat([of_class[of_class > index], of_class[of_class < index]])


def stand_ins(labels: Tensor, broken: Tensor, classes: Sequence[str]) -> Tensor:
    """Return which image of a set is shown for each: itself, or for one that cannot be decoded the next of its class.

    Args:
        labels: (N,), int64; −1 where there are none: then any image stands in.
        broken: (N,), bool, on the CPU: which images cannot be decoded.
        classes: the names of the labels.

    Returns:
        (N,), int64, on the CPU.

    Raises:
        DataError: of some class no image can be decoded.
    """
    shown = torch.arange(len(labels))
    for index in torch.nonzero(broken).flatten().tolist():
        others = others_of_class(labels, index)
        sound = others[~broken[others]]
        if not len(sound):
            of = "" if labels[index] < 0 else f" of {classes[int(labels[index])]!r}"
            raise DataError(
                f"an image{of} that cannot be decoded is in a part of the images with no sound one to stand in for it; "
                "mend or remove the file"
            )
        shown[index] = sound[0]
    return shown


class ImageSource(Protocol):
    """What batches, evaluation and statistics need of an image set, in memory (`ImageSet`) or on disk (`FileSet`)."""

    @property
    def labels(self) -> Tensor:
        """(N,), int64, each an index into `classes`, or −1 for every image of an unlabelled set; on `device`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class."""

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""

    @property
    def num_classes(self) -> int:
        """How many classes there are, with or without images."""

    @property
    def device(self) -> torch.device:
        """Where the batches are handed out."""

    def __len__(self) -> int: ...

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """Hand out the images of each index (B,), in order: (B, C, H, W), uint8, on `device`."""

    def take(self, index: Tensor) -> Self:
        """Return the set of the images with these indices (M,), in this order."""

    def sample(self, index: Tensor) -> Self:
        """Return such a set to look at, not to divide the images: what stands in for another one may come from all."""

    def subset(self, size: int, *, seed: int) -> Self:
        """Choose images at random, equally many of each class; see `choose`."""

    def rest(self, size: int, *, seed: int) -> Self:
        """Return the images that `subset` of this size and seed leaves out, in the order of the whole set."""

    def unlabelled(self) -> Self:
        """Return the same images without their labels."""

    def select(self, names: Sequence[str]) -> Self:
        """Return the images of some classes only, which are numbered in the order of `names`."""

    def to(self, device: torch.device | str) -> Self:
        """Return the set with labels, and batches, on another device."""

    def digests(self) -> Tensor:
        """Return a digest of each image as it was read, (N, 16), uint8, on the CPU; see `svdistill.data.digest`."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in memory with one label each, checked when made.

    Attributes:
        images: (N, C, H, W), uint8, 0 to 255; N ≥ 1.
        labels: (N,), int64, each an index into `classes`; on the device of `images`.
        classes: the name of each class.
        labelled: False = a set without labels: each label must then be −1.
        origins: (N, 16), uint8, on the CPU: a digest of each image before it was decoded, resized or turned; None =
            the images are as they were read.
        broken: (N,), bool, on the CPU: which images could not be decoded, and show the next one of their class; in
            each part that is taken, the next one in that part. None = no image.

    Raises:
        DataError: a shape, dtype or device does not fit, there is no image, or a label is outside the classes.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    labelled: bool = True
    origins: Tensor | None = field(default=None, kw_only=True)
    broken: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise DataError(f"images are {_kind(images)}, expected torch.uint8 (N, C, H, W); convert them first")
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise DataError(f"labels are {_kind(labels)}, expected torch.int64 (N,); convert them first")
        if images.device != labels.device:
            raise DataError(f"images are on {images.device}, labels on {labels.device}; move both to one device")
        if len(images) != len(labels):
            raise DataError(f"{len(images)} images came with {len(labels)} labels; each image needs one label")
        if self.origins is not None and len(self.origins) != len(images):
            raise DataError(f"{len(images)} images came with {len(self.origins)} digests; each image needs one")
        if self.broken is not None and len(self.broken) != len(images):
            raise DataError(f"{len(images)} images came with {len(self.broken)} marks of broken ones; each needs one")
        if images.numel() == 0:
            raise DataError(f"the image set is empty (shape {tuple(images.shape)}); give at least one image")
        check_labels(labels, self.classes, labelled=self.labelled)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """How many classes there are, with or without images."""
        return len(self.classes)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """Hand out the images of each index (B,), in order.

        Yields:
            (B, C, H, W), uint8, on the device of the set.
        """
        for index in indices:
            yield self.images[index.to(self.device)]

    def to(self, device: torch.device | str) -> Self:
        """Return the set on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def digests(self) -> Tensor:
        """Return a digest of each image as it was read: `origins`, or of its pixels."""
        return pixel_digests(self.images) if self.origins is None else self.origins

    def take(self, index: Tensor) -> Self:
        """Return the set of the images with these indices (M,), in this order; DataError where there are none."""
        index = index.cpu()
        labels = self.labels[index.to(self.device)]
        origins, broken = (None if one is None else one[index] for one in (self.origins, self.broken))
        shown = index if broken is None else index[stand_ins(labels, broken, self.classes)]
        return replace(self, images=self.images[shown.to(self.device)], labels=labels, origins=origins, broken=broken)

    def sample(self, index: Tensor) -> Self:
        """Return the same as `take`, but what stands in for a broken image stays, whatever it is of."""
        return replace(self, broken=None).take(index)

    def subset(self, size: int, *, seed: int) -> Self:
        """Choose images at random, equally many of each class; see `choose`.

        Returns:
            The subset, in the order of the whole set.
        """
        return self.take(choose(self, size, seed=seed))

    def rest(self, size: int, *, seed: int) -> Self:
        """Return the images that `subset` of this size and seed leaves out, with their labels; see `left_out`.

        Returns:
            The others, in the order of the whole set.
        """
        return self.take(left_out(self, size, seed=seed))

    def unlabelled(self) -> Self:
        """Return the same images with the label −1, which says that there is none."""
        labels, images = torch.full_like(self.labels, UNLABELLED), self.images
        if self.broken is not None:
            images = images[stand_ins(labels, self.broken, self.classes).to(self.device)]
        return replace(self, images=images, labels=labels, labelled=False)

    def select(self, names: Sequence[str]) -> Self:
        """Return the images of some classes only, which are numbered in the order of `names`.

        Raises:
            OptionError: no class is named, an unknown one, or one named twice.
            DataError: none of them has an image.
        """
        index, labels = selection(self, names)
        return replace(self.take(index), labels=labels.to(self.device), classes=tuple(names))

    def resized(self, image_size: int) -> Self:
        """Return the set with square images of another size, bilinear, smoothed first where they shrink.

        Args:
            image_size: height and width in pixels, at least 1.

        Raises:
            OptionError: the size is not a whole number of at least 1.
        """
        check_image_size(image_size)
        if self.images.shape[2:] == (image_size, image_size):
            return self
        # In pieces: a large set would need several times its memory as float32.
        pieces = [_resize(piece, image_size) for piece in self.images.split(4096)]
        return replace(self, images=torch.cat(pieces), origins=self.digests())

    def with_channels(self, channels: int) -> Self:
        """Return the set as grey (1) or colour (3) images: grey is repeated, colour becomes its brightness.

        Args:
            channels: 1 or 3.

        Raises:
            OptionError: another number.
            DataError: the images have neither 1 nor 3 channels.

        Source: ITU-R BT.601 for the brightness of a colour.
        """
        check_channels(channels)
        own = self.shape[0]
        if own == channels:
            return self
        if own not in (1, 3):
            raise DataError(f"images of {own} channels cannot be given {channels}; leave channels out")
        if channels == 3:
            images = self.images.expand(-1, 3, -1, -1).contiguous()
        else:
            weights = torch.tensor(_LUMA, device=self.device)[:, None, None]
            pieces = [(piece * weights).sum(1, keepdim=True).round() for piece in self.images.split(4096)]
            images = torch.cat([piece.clamp(0, 255).to(torch.uint8) for piece in pieces])
        return replace(self, images=images, origins=self.digests())


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set as it is loaded.

    Attributes:
        name: its name.
        train: the images to learn from.
        test: the images to measure with; same shape and classes.
        flip_allowed: whether a mirrored image still belongs to its class.
    """

    name: str
    train: ImageSource
    test: ImageSource
    flip_allowed: bool


def choose(source: ImageSource, size: int, *, seed: int) -> Tensor:
    """Choose images at random, equally many of each class; without labels, any `size` of them.

    Where `size` is not a multiple of the number of classes, the numbers differ by at most one. With one seed a smaller
    subset lies within every larger one, so that a sweep over sizes only ever adds images.

    Args:
        source: the images to choose from.
        size: how many, from the number of classes (without labels: 1) to `len`.
        seed: fixes the choice.

    Returns:
        Their indices (size,), int64, rising, on the CPU.

    Raises:
        DataError: `size` is below the number of classes or above what is there, or a class has too few images.
    """
    least = source.num_classes if source.labelled else 1
    if isinstance(size, bool) or not isinstance(size, int) or not least <= size <= len(source):
        note = " (one a class)" if source.labelled else ""
        raise DataError(f"a subset of {size} images was asked for, expected {least}{note} to {len(source)}")
    generator = torch.Generator().manual_seed(seed)
    if not source.labelled:
        return torch.randperm(len(source), generator=generator)[:size].sort().values
    labels = source.labels.cpu()
    each, over = divmod(size, source.num_classes)
    chosen: list[Tensor] = []
    for number, label in enumerate(torch.randperm(source.num_classes, generator=generator).tolist()):
        of_class = torch.nonzero(labels == label).flatten()
        wanted = each + (number < over)
        if wanted > len(of_class):
            most = source.num_classes * int(torch.bincount(labels, minlength=source.num_classes).min())
            raise DataError(
                f"class {source.classes[label]!r} has {len(of_class)} images, {wanted} are needed for {size} in "
                f"equal classes; {f'ask for at most {most}' if most else 'leave out the class that has none'}"
            )
        chosen.append(of_class[torch.randperm(len(of_class), generator=generator)[:wanted]])
    return torch.cat(chosen).sort().values


def left_out(source: ImageSource, size: int, *, seed: int) -> Tensor:
    """Return the indices of the images that `choose` leaves out.

    Args:
        source: the images.
        size: how many were chosen.
        seed: with which seed.

    Returns:
        Their indices (len − size,), int64, rising, on the CPU.

    Raises:
        DataError: as `choose`; or all images were chosen and none is left.
    """
    left = torch.ones(len(source), dtype=torch.bool)
    left[choose(source, size, seed=seed)] = False
    if not left.any():
        raise DataError(f"no image is left beside a subset of all {size}; ask for a smaller subset")
    return torch.nonzero(left).flatten()


def selection(source: ImageSource, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Find the images of some classes.

    Args:
        source: the images.
        names: the classes, in the order in which they are to be numbered.

    Returns:
        Indices (M,) of the images, rising, and their new labels (M,); both on the CPU.

    Raises:
        OptionError: no class is named, an unknown one, or one named twice.
        DataError: none of them has an image, or the set has no labels.
    """
    check_class_names(names, source.classes)
    if not source.labelled:
        raise DataError("classes cannot be selected from images without labels; select first, then drop the labels")
    new = torch.full((source.num_classes,), UNLABELLED)
    numbers = {name: number for number, name in enumerate(source.classes)}
    new[[numbers[name] for name in names]] = torch.arange(len(names))
    labels = new[source.labels.cpu()]
    index = torch.nonzero(labels >= 0).flatten()
    if not len(index):
        raise DataError(f"there is no image of the {len(names)} selected classes; select others")
    return index, labels[index]


def check_class_names(names: Sequence[str], known: Sequence[str]) -> None:
    """Raise unless at least one class is named, each of them is known, and none is named twice.

    Raises:
        OptionError: no class is named, an unknown one, with the nearest right ones, or one named twice.
    """
    if not names:
        raise OptionError("the list of classes is empty; name at least one class")
    there = set(known)
    seen: set[str] = set()
    for name in names:
        if name not in there:
            raise OptionError(f"no class is called {name!r}{nearest(name, known)}")
        if name in seen:
            raise OptionError(f"class {name!r} is named twice; name each class once")
        seen.add(name)


def check_labels(labels: Tensor, classes: Sequence[str], *, labelled: bool) -> None:
    """Raise `DataError` unless each label is an index into the classes or, without labels, −1."""
    low, high = int(labels.min()), int(labels.max())
    if not labelled:
        if low != UNLABELLED or high != UNLABELLED:
            wrong = low if low != UNLABELLED else high
            raise DataError(f"label {wrong} came in a set without labels, expected {UNLABELLED}; use unlabelled()")
    elif low < 0 or high >= len(classes):
        wrong = low if low < 0 else high
        raise DataError(
            f"label {wrong} is outside the {len(classes)} classes (0 to {len(classes) - 1}); "
            "mend the labels or name all classes"
        )


def check_image_size(image_size: int) -> None:
    """Raise `OptionError` unless the size is a whole number of pixels of at least 1."""
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
        raise OptionError(f"image_size is {image_size!r}, expected a whole number of pixels of at least 1")


def check_channels(channels: int) -> None:
    """Raise `OptionError` unless the images are to be grey (1) or in colour (3)."""
    if isinstance(channels, bool) or channels not in (1, 3):
        raise OptionError(f"channels is {channels!r}, expected 1 (grey) or 3 (colour)")


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def _resize(images: Tensor, size: int) -> Tensor:
    resized = F.interpolate(images.float(), (size, size), mode="bilinear", align_corners=False, antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
