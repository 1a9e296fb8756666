"""Labelled images in memory."""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.errors import DataError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with one label each, checked when made.

    Attributes:
        images: (N, C, H, W), uint8, 0 to 255; N ≥ 1.
        labels: (N,), int64, each an index into `classes`; on the device of `images`.
        classes: the name of each class.

    Raises:
        DataError: a shape, dtype or device does not fit, there is no image, or a label is outside the classes.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

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
        if images.numel() == 0:
            raise DataError(f"the image set is empty (shape {tuple(images.shape)}); give at least one image")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            wrong = low if low < 0 else high
            raise DataError(
                f"label {wrong} is outside the {len(self.classes)} classes (0 to {len(self.classes) - 1}); "
                "mend the labels or name all classes"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """How many classes there are, with or without images."""
        return len(self.classes)

    def to(self, device: torch.device | str) -> Self:
        """Return the set on another device."""
        return type(self)(self.images.to(device), self.labels.to(device), self.classes)

    def subset(self, size: int, *, seed: int) -> Self:
        """Choose images at random, equally many of each class.

        Where `size` is no multiple of the number of classes, the numbers differ by at most one. With one seed a smaller
        subset lies within every larger one, so that a sweep over sizes only ever adds images.

        Args:
            size: how many images, from the number of classes to `len`.
            seed: fixes the choice.

        Returns:
            The subset, in the order of the whole set.

        Raises:
            DataError: `size` is below the number of classes or above what is there, or a class has too few images.
        """
        if not self.num_classes <= size <= len(self):
            raise DataError(
                f"a subset of {size} images was asked for, expected {self.num_classes} (one a class) to {len(self)}"
            )
        generator = torch.Generator().manual_seed(seed)
        labels = self.labels.cpu()
        share, rest = divmod(size, self.num_classes)
        chosen: list[Tensor] = []
        for place, label in enumerate(torch.randperm(self.num_classes, generator=generator).tolist()):
            of_class = torch.nonzero(labels == label).flatten()
            wanted = share + (place < rest)
            if wanted > len(of_class):
                smallest = int(torch.bincount(labels, minlength=self.num_classes).min())
                raise DataError(
                    f"class {self.classes[label]!r} has {len(of_class)} images, {wanted} are needed for {size} in "
                    f"equal classes; ask for at most {smallest * self.num_classes}"
                )
            chosen.append(of_class[torch.randperm(len(of_class), generator=generator)[:wanted]])
        index = torch.cat(chosen).sort().values.to(self.images.device)
        return type(self)(self.images[index], self.labels[index], self.classes)

    def resized(self, image_size: int) -> Self:
        """Return the set with square images of another size, bilinear, smoothed first where they shrink.

        Args:
            image_size: height and width in pixels, at least 1.

        Raises:
            DataError: the size is no whole number of at least 1.
        """
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
            raise DataError(f"image_size is {image_size!r}, expected a whole number of pixels of at least 1")
        if self.images.shape[2:] == (image_size, image_size):
            return self
        # In pieces: a large set would need several times its memory as float32.
        pieces = [_resize(piece, image_size) for piece in self.images.split(4096)]
        return type(self)(torch.cat(pieces), self.labels, self.classes)


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
    train: ImageSet
    test: ImageSet
    flip_allowed: bool


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def _resize(images: Tensor, size: int) -> Tensor:
    resized = F.interpolate(images.float(), (size, size), mode="bilinear", align_corners=False, antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
