"""What the losses need of a teacher, stored for fixed views of the training images: training without the teacher.

A folder holds ``manifest.json`` and for each tensor that a loss extracts a ``.npy`` file of shape (views, images, …),
read through a memory map. It is there as a whole or not at all, and knows of which teacher, images and views it is.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from svdistill.atomic import locked, write_atomically
from svdistill.data import Batch, FileSet, ImageSet, ImageSource
from svdistill.errors import DataError, ShapeError

FORMAT = 1
MANIFEST, PROGRESS = "manifest.json", "progress.json"
# How often what has been extracted is brought safely to disk; an interruption costs that much at most.
_SAVE_SECONDS = 5.0
_AGAIN = "take it again (svdistill cache RECIPE --fresh)"

# What reading JSON of another form raises.
_WRONG = (ValueError, KeyError, TypeError, AttributeError)

Known = Mapping[str, Mapping[str, Tensor]]
Arrays = Mapping[str, Mapping[str, NDArray[Any]]]


@dataclass(frozen=True, kw_only=True)
class Key:
    """Everything on which a teacher's knowledge of some images depends.

    Attributes:
        teacher: SHA-256 of the file with its weights.
        images: a fingerprint of each set, see :func:`fingerprint`, in the order in which their images are numbered.
        mean: that the images are standardized with.
        std: likewise.
        augmentation: how far views differ from the images.
        views: number of views of an image.
        seed: of the views.
        taps: the teacher's, by name.
        drop_tokens: so many tokens at the front of its taps are left out.
        grids: height and width, or number of positions, of the student's map at each tap, to which some losses pool.
        losses: for each loss the settings that decide what it needs of the teacher.
    """

    teacher: str
    images: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    augmentation: Mapping[str, Any]
    views: int
    seed: int
    taps: Sequence[str]
    drop_tokens: int
    grids: Sequence[Sequence[int]]
    losses: Mapping[str, Mapping[str, int | float | str]]

    def plain(self) -> dict[str, Any]:
        """Return it as it comes back from a file."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


_REASONS = {
    "teacher": "of another teacher: its weights have changed since",
    "images": "of other training images",
    "mean": "of images that were standardized otherwise",
    "std": "of images that were standardized otherwise",
    "augmentation": "of another augmentation",
    "views": "of another number of views",
    "seed": "of other views: their seed is another",
    "taps": "of other taps of the teacher",
    "drop_tokens": "of taps with another number of tokens left out",
    "grids": "for a student whose taps have other sizes",
}


class TeacherCache:
    """A teacher's knowledge of fixed views of the training images; what `Distiller` takes in place of the teacher.

    Made by :func:`store`, found again by :meth:`open`, or kept in memory by :meth:`in_memory`.

    Attributes:
        path: its folder; None = in memory.
        tap_shapes: the shape of each of the teacher's taps, without the batch.
    """

    def __init__(self, arrays: Arrays, *, tap_shapes: Sequence[Sequence[int]] = (), path: Path | None = None) -> None:
        self.path = path
        self.tap_shapes = tuple(tuple(shape) for shape in tap_shapes)
        self._arrays = arrays

    @classmethod
    def in_memory(
        cls,
        known: Known,
        *,
        tap_shapes: Sequence[Sequence[int]] = (),
        precise: Mapping[str, Collection[str]] | None = None,
    ) -> Self:
        """Keep what was extracted from some images, one view of each, for tests and benchmarks.

        Args:
            known: what ``Distiller.extract`` returned.
            tap_shapes: what ``Distiller.teacher_shapes`` returned.
            precise: for each loss the names of what is to be kept in float32, as ``Distiller.precise`` says; the rest
                is kept as `store` would.
        """
        wide = precise or {}
        arrays = {
            loss: {name: _narrow(one, precise=name in wide.get(loss, ()))[None] for name, one in tensors.items()}
            for loss, tensors in known.items()
        }
        return cls(arrays, tap_shapes=tap_shapes)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], key: Key | None = None) -> Self:
        """Open what :func:`store` has written.

        Args:
            folder: where it lies.
            key: what it must be of; losses that are stored beside those asked for do no harm. None = anything.

        Returns:
            The cache; nothing of it has been read yet.

        Raises:
            DataError: there is none, it is damaged, or it is of something else; the message says of what.
        """
        path = Path(folder)
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            spec = _Spec.of(manifest)
            known = dict(manifest["key"])
        except FileNotFoundError as error:
            raise DataError(f"{path} holds no knowledge of a teacher; {_AGAIN.replace(' again', '')}") from error
        except (OSError, *_WRONG) as error:
            raise DataError(f"{path / MANIFEST} is damaged; {_AGAIN}") from error
        if manifest.get("format") != FORMAT:
            raise DataError(f"the knowledge in {path} was written by another version of svdistill; {_AGAIN}")
        if key is not None and (reason := _difference(known, key)) is not None:
            raise DataError(f"the knowledge in {path} is {reason}; {_AGAIN}, or use another folder of runs")
        return cls(_map(path, spec, mode="r"), tap_shapes=spec.tap_shapes, path=path)

    def __repr__(self) -> str:
        size = f"{self.images} images x {self.views} views, {self.bytes} bytes"
        return f"TeacherCache({'in memory' if self.path is None else str(self.path)!r}, {size})"

    @property
    def losses(self) -> Collection[str]:
        """The losses whose teacher's side is there, by name."""
        return self._arrays.keys()

    @property
    def views(self) -> int:
        """Number of views of an image."""
        return int(self._any.shape[0])

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self._any.shape[1])

    @property
    def bytes(self) -> int:
        """What the numbers take on disk."""
        return sum(array.nbytes for tensors in self._arrays.values() for array in tensors.values())

    def read(
        self, names: Collection[str], indices: Tensor, views: Tensor, *, device: torch.device | str = "cpu"
    ) -> dict[str, dict[str, Tensor]]:
        """Read the knowledge of some images.

        Args:
            names: losses.
            indices: (B,), int64, numbers of the images, best on the CPU.
            views: (B,), int64, numbers of their views.
            device: where the result is wanted; the host does not wait for it.

        Returns:
            For each loss its tensors by name, (B, …), float32.

        Raises:
            ShapeError: an image or a view that is not there.
        """
        rows = views.cpu().numpy(), indices.cpu().numpy()
        for what, numbers, count in zip(("view", "image"), rows, self._any.shape, strict=False):
            if numbers.size and not (numbers.min() >= 0 and numbers.max() < count):
                raise ShapeError(
                    f"the teacher's knowledge is of {what}s 0 to {count - 1}, asked for {int(numbers.max())}; take the "
                    "images and views that it was taken of"
                )
        target = torch.device(device)
        return {
            loss: {name: _to(np.asarray(array[rows]), target) for name, array in self._arrays[loss].items()}
            for loss in names
        }

    @property
    def _any(self) -> NDArray[Any]:
        return next(iter(next(iter(self._arrays.values())).values()))


def store(
    folder: str | os.PathLike[str],
    key: Key,
    *,
    extract: Callable[[Tensor], Known],
    tap_shapes: Callable[[Tensor], Sequence[Sequence[int]]],
    batches: Callable[[int], Iterable[Batch]],
    images: int,
    precise: Mapping[str, Collection[str]] | None = None,
    fresh: bool = False,
    progress: Callable[[int], None] | None = None,
    waiting: Callable[[], None] | None = None,
) -> TeacherCache:
    """Take a teacher's knowledge and write it, or find it where another process has done so meanwhile.

    It is written beside its place and takes it when it is complete. A call that was interrupted, also by ``kill -9``,
    goes on where it was, and ends with the same bytes. Numbers are stored in half precision; those of a tensor that
    half precision cannot hold, in float32.

    Args:
        folder: where it is to lie.
        key: what it is of.
        extract: standardized images (B, C, H, W) to what the losses need, for instance ``Distiller.extract``.
        tap_shapes: likewise to the shapes of the teacher's taps, for instance ``Distiller.teacher_shapes``.
        batches: makes the batches of all views from the image with this number on; see ``data.every_view``.
        images: how many there are.
        precise: for each loss the names of what is to be stored in float32, for instance ``Distiller.precise``.
        fresh: take it again, even if it is there; what is there stays until the new one is complete.
        progress: told how many images, each in each view, have just been done, or had been before an interruption.
        waiting: called once where another process is at it, whose end is then awaited.

    Returns:
        The cache, opened.

    Raises:
        DataError: what is there is of something else (and not ``fresh``), or the disk is full.
    """
    path = Path(folder)
    try:
        with locked(path, waiting=waiting):
            if path.exists() and not fresh:
                return TeacherCache.open(path, key)
            task = _Task(path, key, extract, tap_shapes, batches, images, precise or {}, progress or (lambda _: None))
            while not task.fill():
                pass
            task.finish()
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"cannot write the teacher's knowledge to {path} ({reason}); free the disk, take fewer views, or choose "
            "another folder of runs"
        ) from error
    return TeacherCache.open(path, key)


def fingerprint(images: ImageSource) -> str:
    """Return what tells a set of images from others: of a set in memory its pixels, of one on disk names and labels.

    Args:
        images: the set.

    Returns:
        A SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256(json.dumps([len(images), *images.shape]).encode())
    if isinstance(images, ImageSet):
        for part in images.images.split(4096):
            digest.update(part.cpu().contiguous().numpy().data)
        return digest.hexdigest()
    digest.update(images.labels.cpu().numpy().astype("<i8").tobytes())
    if isinstance(images, FileSet):
        names = images.files.names
        digest.update("\0".join(names[place] for place in images.places.tolist()).encode())
    return digest.hexdigest()


class _Tensor(NamedTuple):
    """One stored tensor: its file, its type, and its shape (views, images, …)."""

    file: str
    dtype: str
    shape: tuple[int, ...]


class _Spec(NamedTuple):
    """What lies in a folder."""

    tensors: Mapping[str, Mapping[str, _Tensor]]
    tap_shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        tensors = {
            loss: {name: _Tensor(str(one["file"]), one["dtype"], tuple(one["shape"])) for name, one in parts.items()}
            for loss, parts in plain["tensors"].items()
        }
        if not tensors or not all(tensors.values()):
            raise ValueError("a loss of which nothing is stored")
        return cls(tensors, tuple(tuple(shape) for shape in plain["tap_shapes"]))

    def plain(self) -> dict[str, Any]:
        tensors = {loss: {name: one._asdict() for name, one in parts.items()} for loss, parts in self.tensors.items()}
        return {"tensors": tensors, "tap_shapes": self.tap_shapes}


class _Task:
    """Knowledge that is being written."""

    def __init__(
        self,
        path: Path,
        key: Key,
        extract: Callable[[Tensor], Known],
        tap_shapes: Callable[[Tensor], Sequence[Sequence[int]]],
        batches: Callable[[int], Iterable[Batch]],
        images: int,
        precise: Mapping[str, Collection[str]],
        progress: Callable[[int], None],
    ) -> None:
        self._path, self._work = path, path.with_name(f".{path.name}.partial")
        self._key, self._images = key, images
        self._extract, self._tap_shapes, self._batches = extract, tap_shapes, batches
        self._wide = {(loss, name) for loss, names in precise.items() for name in names}
        self._progress = progress

    def fill(self) -> bool:
        """Extract what is missing; False where a tensor did not fit into half precision, which is then remembered."""
        spec, done = self._begun()
        arrays: Arrays = {} if spec is None else _map(self._work, spec, mode="r+")
        self._progress(done)
        reported, saved = done, time.monotonic()
        for batch in self._batches(done) if done < self._images else ():
            known = self._extract(batch.images)
            if spec is None:
                spec, arrays = self._begin(known, batch)
            late = [which for which in _write(arrays, known, batch) if which not in self._wide]
            if late:
                self._wide.update(late)
                self._progress(-reported)
                shutil.rmtree(self._work)
                return False
            if int(batch.views[0]) < self._key.views - 1:
                continue
            done = int(batch.indices[-1]) + 1
            self._progress(done - reported)
            reported = done
            if time.monotonic() - saved > _SAVE_SECONDS or done == self._images:
                self._save(spec, arrays, done)
                saved = time.monotonic()
        return True

    def finish(self) -> None:
        """Let the folder take its place."""
        old = self._path.with_name(f".{self._path.name}.old")
        shutil.rmtree(old, ignore_errors=True)  # of a call that was killed here
        if self._path.exists():
            self._path.rename(old)  # whoever reads it keeps reading it
        self._work.rename(self._path)
        shutil.rmtree(old, ignore_errors=True)
        (self._path / PROGRESS).unlink(missing_ok=True)

    def _begun(self) -> tuple[_Spec | None, int]:
        """Return what an interrupted call has written, and of how many images; nothing where it cannot be used."""
        try:
            plain = json.loads((self._work / PROGRESS).read_text(encoding="utf-8"))
            spec, done = _Spec.of(plain), int(plain["done"])
            if (plain["format"], plain["key"]) == (FORMAT, self._key.plain()):
                _map(self._work, spec, mode="r")
                return spec, done
        except (OSError, *_WRONG):  # never begun, or killed before the first images were safe
            pass
        shutil.rmtree(self._work, ignore_errors=True)
        return None, 0

    def _begin(self, known: Known, batch: Batch) -> tuple[_Spec, Arrays]:
        """Make the files, of their full size: a full disk is to be noticed now, not by a signal later."""
        self._work.mkdir(parents=True)
        tensors: dict[str, dict[str, _Tensor]] = {}
        for loss, parts in known.items():
            for name, one in parts.items():
                number = sum(map(len, tensors.values()))
                file = f"{number}-{re.sub(r'[^A-Za-z0-9_-]+', '-', f'{loss}-{name}')}.npy"
                dtype = "float32" if (loss, name) in self._wide else "float16"
                shape = (self._key.views, self._images, *one.shape[1:])
                tensors.setdefault(loss, {})[name] = _Tensor(file, dtype, shape)
                open_memmap(self._work / file, mode="w+", dtype=np.dtype(dtype), shape=shape)
                if hasattr(os, "posix_fallocate"):
                    with (self._work / file).open("r+b") as space:
                        os.posix_fallocate(space.fileno(), 0, space.seek(0, os.SEEK_END))
        spec = _Spec(tensors, tuple(tuple(shape) for shape in self._tap_shapes(batch.images)))
        return spec, _map(self._work, spec, mode="r+")

    def _save(self, spec: _Spec, arrays: Arrays, done: int) -> None:
        """Bring everything to disk, then say so."""
        for parts in arrays.values():
            for array in parts.values():
                if isinstance(array, np.memmap):
                    array.flush()
        about = {"format": FORMAT, "key": self._key.plain(), **spec.plain()}
        if done == self._images:
            write_atomically(self._work / MANIFEST, json.dumps(about, indent=1).encode())
        write_atomically(self._work / PROGRESS, json.dumps({**about, "done": done}).encode())


def _map(folder: Path, spec: _Spec, *, mode: str) -> dict[str, dict[str, NDArray[Any]]]:
    """Map the files of a folder into memory, and make sure that they are what they should be."""
    arrays: dict[str, dict[str, NDArray[Any]]] = {}
    for loss, parts in spec.tensors.items():
        for name, one in parts.items():
            file = folder / one.file
            try:
                array = open_memmap(file, mode=mode)
            except (OSError, ValueError, TokenError) as error:  # the last where numpy cannot read the file's header
                raise DataError(f"{file} is missing, too short or damaged; {_AGAIN}") from error
            if (array.dtype.name, array.shape) != (one.dtype, one.shape):
                raise DataError(f"{file} holds {array.dtype} {array.shape}, expected {one.dtype} {one.shape}; {_AGAIN}")
            arrays.setdefault(loss, {})[name] = array
    return arrays


def _write(arrays: Arrays, known: Known, batch: Batch) -> list[tuple[str, str]]:
    """Write the rows of a batch, and return which tensors did not fit into their type."""
    rows = batch.views.numpy(), batch.indices.numpy()
    late = []
    for loss, parts in known.items():
        for name, one in parts.items():
            array = arrays[loss][name]
            values = one.detach().to(torch.float16 if array.dtype == np.float16 else torch.float32)
            if bool((values.isinf() & one.isfinite()).any()):
                late.append((loss, name))
            array[rows] = values.cpu().numpy()
    return late


def _narrow(one: Tensor, *, precise: bool) -> NDArray[Any]:
    """Return a tensor in half precision, or in float32 where half is not enough."""
    one = one.detach().cpu()
    half = one.half()
    array: NDArray[Any] = (one.float() if precise or bool((half.isinf() & one.isfinite()).any()) else half).numpy()
    return array


def _to(rows: NDArray[Any], device: torch.device) -> Tensor:
    """Bring rows to a device as float32; to a GPU by way of pinned memory, so that nobody waits."""
    tensor = torch.from_numpy(rows)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True).float()


def _difference(known: Mapping[str, Any], key: Key) -> str | None:
    """Say what stored knowledge is of instead of what is wanted; None where it can be used."""
    wanted = key.plain()
    for field, reason in _REASONS.items():
        if known.get(field) != wanted[field]:
            return f"{reason} ({known.get(field)}, not {wanted[field]})" if field in ("views", "seed") else reason
    stored = known.get("losses", {})
    for loss, settings in wanted["losses"].items():
        if loss not in stored:
            return f"for {', '.join(stored)}, and lacks what {loss} needs"
        if stored[loss] != settings:
            return f"for {loss} with {_settings(stored[loss])}, not {_settings(settings)}"
    return None


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())
