"""Image sets whose pixels stay on disk: decoded by worker processes when a batch needs them."""

import math
import multiprocessing
import os
import stat
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from svdistill.data.decoding import BLACK, WHITE, Pixels, decode
from svdistill.data.file_digests import file_digests
from svdistill.data.progress import progress_bar
from svdistill.data.sets import (
    UNLABELLED,
    ImageSet,
    check_channels,
    check_image_size,
    check_labels,
    choose,
    left_out,
    others_of_class,
    selection,
)
from svdistill.errors import DataError, OptionError, SvdistillWarning
from svdistill.machine import usable_cores
from svdistill.ranks import find_ranks

_MOST_WORKERS = 16
# Up to this many images are decoded sooner than worker processes can be started.
_FEW = 64
# What a worker is asked for at a time, twice: all workers share each batch, so that the first one is there soon, and
# what is read ahead is two batches, or 64 images a worker where that is more.
_PIECE = 32
_AHEAD = 2
# Of a file of one image, so that none takes the memory.
_MOST_BYTES = 1 << 29
BACKGROUNDS = {"white": WHITE, "black": BLACK}


class Files:
    """Image files of a folder or a zip archive, and which of them turned out to be unreadable.

    Args:
        base: the folder, or the archive.
        names: the files, relative to it, with slashes.

    Attributes:
        base: see above.
        names: see above.
        failures: why a file could not be decoded, by its position in `names`; grows as files are read.
    """

    def __init__(self, base: Path, names: Sequence[str]) -> None:
        self.base = base
        self.names = tuple(names)
        self.failures: dict[int, str] = {}
        self._archive: tuple[int, zipfile.ZipFile] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}

    @property
    def tolerated(self) -> int:
        """How many unreadable files are replaced; one more is an error."""
        return max(3, min(20, len(self) // 1000))

    def read(self, position: int) -> bytes:
        """Return the content of a file.

        Raises:
            DataError: it is not a regular file, or too large for an image.
            OSError: it cannot be read; zipfile.BadZipFile, or whatever else zipfile raises, for one in an archive.
        """
        if self.base.is_dir():
            path = self.base / self.names[position]
            about = path.stat()
            if not stat.S_ISREG(about.st_mode):  # a pipe, for instance, which would be waited for
                raise DataError("it is not a regular file")
            _check_size(about.st_size)
            return path.read_bytes()
        # A handle that a forked process shares with its parent would share its position too.
        if self._archive is None or self._archive[0] != os.getpid():
            self._archive = (os.getpid(), zipfile.ZipFile(self.base))
        _check_size(self._archive[1].getinfo(self.names[position]).file_size)
        return self._archive[1].read(self.names[position])

    def decoded(self, position: int, image_size: int, channels: int, background: int = WHITE) -> Pixels:
        """Read and decode one image; see `decode`.

        Raises:
            DataError: why it cannot be read or decoded, in a few words.
        """
        try:
            return decode(self.read(position), image_size, channels, background)
        except Exception as error:  # a damaged file can make a decoder fail in any way; each is told to the user
            raise DataError(_reason(error)) from error

    def note(self, position: int, reason: str) -> None:
        """Note, and say, that a file cannot be decoded.

        Raises:
            DataError: by now there are more such files than are tolerated.
        """
        if position in self.failures:
            return
        self.failures[position] = reason
        if len(self.failures) > self.tolerated:
            named = ", ".join(self.names[failed] for failed in list(self.failures)[:5])
            raise DataError(
                f"{len(self.failures)} images in {self.base} cannot be decoded, {self.tolerated} are tolerated: {named}"
                f"{', …' if len(self.failures) > 5 else ''} ({reason}); mend or remove them"
            )
        warnings.warn(
            f"{self.base}/{self.names[position]} cannot be decoded ({reason}); another image, of its class if it has "
            f"one, stands in; {len(self.failures)} so far, {self.tolerated} are tolerated",
            SvdistillWarning,
            stacklevel=2,
        )


@dataclass(frozen=True, eq=False)
class FileSet:
    """Images on disk with one label each, with the interface of `ImageSet`.

    Every image is scaled, smoothed, until it just covers a square, whose middle is kept; and becomes grey or coloured.
    One that cannot be decoded is named in a warning, and the next one of its class in the set stands in for it; more
    than a few are an error. Batches come out the same whatever the number of worker processes.

    Attributes:
        files: where the images are.
        positions: (N,), int64, on the CPU: each image's position in `files`; N ≥ 1.
        labels: (N,), int64, each an index into `classes`, or −1 without labels; on the device of the batches.
        classes: the name of each class.
        image_size: height and width in pixels.
        channels: 1 or 3.
        labelled: whether the images have labels.
        background: ``white`` or ``black``, what shows through where an image is transparent.
        workers: processes that decode; None = one a CPU, at most 16, shared among the training processes that torchrun
            started on this machine; 0 = this one.

    Raises:
        DataError: there is no image, or a label is outside the classes.
        OptionError: image_size, channels or background is out of range.
    """

    files: Files
    positions: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    image_size: int
    channels: int = 3
    labelled: bool = True
    background: str = field(default="white", kw_only=True)
    workers: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_image_size(self.image_size)
        check_channels(self.channels)
        check_background(self.background)
        if len(self.positions) != len(self.labels):
            raise DataError(
                f"{len(self.positions)} images came with {len(self.labels)} labels; each image needs one label"
            )
        if not len(self.positions):
            raise DataError(f"there is no image in {self.files.base}; give at least one")
        check_labels(self.labels, self.classes, labelled=self.labelled)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.channels, self.image_size, self.image_size

    @property
    def num_classes(self) -> int:
        """How many classes there are, with or without images."""
        return len(self.classes)

    @property
    def device(self) -> torch.device:
        """Where the batches are handed out."""
        return self.labels.device

    @property
    def bytes(self) -> int:
        """How many bytes the pixels would take in memory."""
        return len(self) * self.channels * self.image_size**2

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decode the images of each index (B,), in order, two batches ahead.

        Yields:
            (B, C, H, W), uint8, on `device`.

        Raises:
            DataError: more than a few images cannot be decoded, or a worker process died.
        """
        own = [index.cpu() for index in indices]
        pieces = [list(index.split(_PIECE)) for index in own]
        decoded = self._decoded(pieces)
        for index, parts in zip(own, pieces, strict=True):
            batch = torch.empty(len(index), *self.shape, dtype=torch.uint8, device=self.device)
            done = 0
            for part in parts:
                pixels, failures = next(decoded)
                for position, reason in failures:
                    self.files.note(int(self.positions[part[position]]), reason)
                    pixels[position] = self._stand_in(int(part[position]))
                batch[done : done + len(part)].copy_(pixels, non_blocking=True)
                done += len(part)
            yield batch

    def loaded(self, title: str) -> ImageSet:
        """Decode all images once into memory, under a progress bar where standard error is a terminal.

        Args:
            title: what stands before the bar.

        Returns:
            The same images and labels.
        """
        # Before they are decoded: of a file that is replaced in between, the digest must not be that of the new one.
        origins = self.digests()
        images = torch.empty(len(self), *self.shape, dtype=torch.uint8, device=self.device)
        done = 0
        with progress_bar(title, total=len(self), unit="images") as show:
            for batch in self.batches(torch.arange(len(self)).split(_PIECE)):
                images[done : done + len(batch)] = batch
                done += len(batch)
                show(done)
        failed = torch.tensor(sorted(self.files.failures), dtype=torch.int64)
        broken = torch.isin(self.positions, failed) if len(failed) else None
        return ImageSet(images, self.labels, self.classes, self.labelled, origins=origins, broken=broken)

    def digests(self) -> Tensor:
        """Return a digest of the content of each file, (N, 16), uint8, on the CPU; see `file_digests`."""
        return file_digests(self.files, self.positions)

    def to(self, device: torch.device | str) -> Self:
        """Return the set with labels, and batches, on another device; the pixels stay on disk."""
        return replace(self, labels=self.labels.to(device))

    def take(self, index: Tensor) -> Self:
        """Return the set of the images with these indices (M,), in this order; DataError where there are none."""
        return replace(self, positions=self.positions[index.cpu()], labels=self.labels[index.to(self.device)])

    sample = take

    def subset(self, size: int, *, seed: int) -> Self:
        """Choose images at random, equally many of each class; see `choose`."""
        return self.take(choose(self, size, seed=seed))

    def rest(self, size: int, *, seed: int) -> Self:
        """Return the images that `subset` of this size and seed leaves out, with their labels; see `left_out`."""
        return self.take(left_out(self, size, seed=seed))

    def unlabelled(self) -> Self:
        """Return the same images with the label −1, which says that there is none."""
        return replace(self, labels=torch.full_like(self.labels, UNLABELLED), labelled=False)

    def select(self, names: Sequence[str]) -> Self:
        """Return the images of some classes only, which are numbered in the order of `names`.

        Raises:
            OptionError: no class is named, an unknown one, or one named twice.
            DataError: none of them has an image.
        """
        index, labels = selection(self, names)
        return replace(self, positions=self.positions[index], labels=labels.to(self.device), classes=tuple(names))

    def _decoded(self, batches: Sequence[Sequence[Tensor]]) -> Iterator[tuple[Tensor, list[tuple[int, str]]]]:
        tasks = [self.positions[piece].tolist() for batch in batches for piece in batch]
        decoder = _Decoder(self.files, self.image_size, self.channels, BACKGROUNDS[self.background])
        workers = self._workers(tasks)
        if workers == 0:
            yield from (decoder[task] for task in tasks)
            return
        loader: DataLoader[tuple[Tensor, list[tuple[int, str]]]] = DataLoader(
            decoder,
            batch_size=None,
            sampler=tasks,  # each element is what the decoder is asked for: a list of positions
            num_workers=workers,
            prefetch_factor=max(2, math.ceil(_AHEAD * max(map(len, batches)) / workers)),
            collate_fn=_as_it_is,
            pin_memory=self.device.type == "cuda",
            # Its own, or else each epoch would draw from torch's global random numbers.
            generator=torch.Generator(),
        )
        try:
            decoded = iter(loader)
            while True:
                try:
                    piece = next(decoded)
                except StopIteration:
                    return
                yield piece
        except RuntimeError as error:
            raise DataError(f"a process that reads images from {self.files.base} died ({_why_died(error)}") from error

    def _workers(self, tasks: Sequence[Sequence[int]]) -> int:
        # A daemon, as a pool's process may be one, must not start processes itself.
        if sum(map(len, tasks)) <= _FEW or multiprocessing.current_process().daemon:
            return 0
        wanted = min(_MOST_WORKERS, max(1, usable_cores() // _neighbours())) if self.workers is None else self.workers
        return min(wanted, len(tasks))

    def _stand_in(self, index: int) -> Tensor:
        """Return the next image of the same class that can be decoded."""
        decoder = _Decoder(self.files, self.image_size, self.channels, BACKGROUNDS[self.background])
        for position in self.positions[others_of_class(self.labels, index)].tolist():
            if position in self.files.failures:
                continue
            pixels, failures = decoder[[position]]
            if not failures:
                return pixels[0]
            self.files.note(position, failures[0][1])
        name = self.files.names[int(self.positions[index])]
        raise DataError(
            f"{self.files.base}/{name} cannot be decoded and nothing can stand in for it; mend or remove it"
        )


class _Decoder(Dataset[tuple[Tensor, list[tuple[int, str]]]]):
    """Decodes the files at a list of positions; runs in worker processes."""

    def __init__(self, files: Files, image_size: int, channels: int, background: int) -> None:
        self._files, self._image_size, self._channels, self._background = files, image_size, channels, background

    def __getitem__(self, positions: list[int]) -> tuple[Tensor, list[tuple[int, str]]]:
        """Return the images (B, C, H, W), black where one cannot be decoded, and which and why."""
        images = np.zeros((len(positions), self._channels, self._image_size, self._image_size), dtype=np.uint8)
        failures = []
        for index, position in enumerate(positions):
            try:
                images[index] = self._files.decoded(position, self._image_size, self._channels, self._background)
            except DataError as error:
                failures.append((index, str(error)))
        return torch.from_numpy(images), failures


def check_background(background: str) -> None:
    """Raise `OptionError` unless the background of transparent images is ``white`` or ``black``."""
    if background not in BACKGROUNDS:
        raise OptionError(f"background is {background!r}, expected {' or '.join(BACKGROUNDS)}")


def _check_size(size: int) -> None:
    if size > _MOST_BYTES:
        raise DataError(f"it has {size:,} bytes, at most {_MOST_BYTES:,} are read")


def _why_died(error: RuntimeError) -> str:
    """Return the end of the message about a process that ended, or could not be started: why, and what to do."""
    reason = str(error).strip().splitlines()[0]
    if multiprocessing.get_start_method() != "fork" and "is killed by signal" not in reason:
        return (
            "where processes are spawned, each first imports the main script); guard what the script does with "
            'if __name__ == "__main__":'
        )
    return f"{reason}); is memory, or /dev/shm, too small? take a smaller batch"


def _as_it_is(batch: Any) -> Any:
    return batch


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":  # of pillow; its own text names an object in memory
        return "it holds no image of a known format"
    if isinstance(error, DataError):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]


def _neighbours() -> int:
    """Return how many training processes use these cores, this one included; Slurm gives each task its own."""
    ranks = find_ranks()
    return ranks.local_world if ranks.launcher == "torchrun" else 1
