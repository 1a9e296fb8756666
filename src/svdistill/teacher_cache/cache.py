"""What the losses need of a teacher, stored for fixed views of the training images: training without the teacher.

A folder holds ``manifest.json`` and for each tensor that a loss packs a ``.npy`` file of shape (views, images, …),
read through a memory map. It is there as a whole or not at all, and knows of which teacher, images and views it is.
The manifest carries a checksum and has the SHA-256 of every other file.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from svdistill import checksums
from svdistill.atomic import digest
from svdistill.errors import DataError, OptionError, ShapeError
from svdistill.losses.protocol import Losses, Settings
from svdistill.plain import parse_json, read_text
from svdistill.teacher import Request, Teacher
from svdistill.teacher_cache.key import Key, difference, listed

FORMAT = 2
MANIFEST = "manifest.json"
DIGESTS = "sha256"  # where the manifest has that of each file
_FRESH = "store it again (svdistill cache RECIPE --fresh)"

# What reading JSON of another form raises.
WRONG_FORM = (ValueError, KeyError, TypeError, AttributeError)

# What numpy raises where it cannot read the head of a file, which is a piece of Python.
_BROKEN_HEADER = (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, SyntaxError, TokenError)

# By loss and name: what losses pack, and where it is stored.
Packed = Mapping[str, Mapping[str, Tensor]]
Arrays = Mapping[str, Mapping[str, NDArray[Any]]]


class TeacherCache(Teacher):
    """What is stored of a teacher for fixed views of the training images; `Distiller` takes it as teacher.

    Made by :func:`store`, found again by :meth:`open`, or kept in memory by :meth:`in_memory`.

    Attributes:
        path: its folder; None = in memory.
        tap_shapes: the shape of each of the teacher's taps, without the batch.
    """

    def __init__(
        self,
        arrays: Arrays,
        *,
        tap_shapes: Sequence[Sequence[int]] = (),
        path: Path | None = None,
        settings: Mapping[str, Settings] | None = None,
    ) -> None:
        self.path = path
        self.tap_shapes = tuple(tuple(shape) for shape in tap_shapes)
        self._arrays = arrays
        # Of each loss those that decide what is stored, where they are known.
        self._settings = dict(settings or {})
        # What `bring` has brought, and where.
        self._brought: dict[str, dict[str, Tensor]] = {}

    @classmethod
    def in_memory(
        cls,
        known: Packed,
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
            The cache. Every file was read once, to be compared with its checksum, and is read again as it is needed.

        Raises:
            DataError: there is none, it is damaged, or it is of something else; the message says of what.
        """
        path = Path(folder)
        try:
            text = read_text(path / MANIFEST)
            manifest = parse_json(text)
            if manifest.get("format") != FORMAT:
                raise DataError(f"the teacher cache in {path} was written by another version of svdistill; {_FRESH}")
            if not checksums.unseal(text, manifest):
                raise ValueError("no checksum")
            spec, found, known = Spec.of(manifest), dict(manifest["key"]), dict(manifest[DIGESTS])
        except DataError:
            raise
        except FileNotFoundError as error:
            if path.exists():
                raise DataError(f"{path / MANIFEST} is missing; {_FRESH}") from error
            raise DataError(f"{path} holds no teacher cache; make it (svdistill cache RECIPE)") from error
        except (OSError, *WRONG_FORM) as error:
            raise DataError(f"{path / MANIFEST} is damaged; {_FRESH}") from error
        if key is not None and (reason := difference(found, key)) is not None:
            raise DataError(f"the teacher cache in {path} is {reason}; {_FRESH}, or use another folder of runs")
        arrays = map_files(path, spec, mode="r")
        for file in spec.files:
            if known.get(file) != digest(path / file):
                raise DataError(f"{path / file} has changed since it was written; {_FRESH}")
        return cls(arrays, tap_shapes=spec.tap_shapes, path=path, settings=found.get("losses"))

    def __repr__(self) -> str:
        size = f"{self.images} images x {self.views} views, {self.bytes} bytes"
        return f"TeacherCache({'in memory' if self.path is None else str(self.path)!r}, {size})"

    @property
    def taps(self) -> int:
        """How many taps of the teacher there are."""
        return len(self.tap_shapes)

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

    @property
    def stored(self) -> bool:
        """That answers are read by the numbers of images and views."""
        return True

    def check(self, losses: Losses) -> None:
        """Make sure that what these losses need is there.

        Args:
            losses: by name.

        Raises:
            OptionError: what one of them needs is too large to be stored, is not there, or was stored for other
                settings.
        """
        for name, loss in losses.items():
            if not loss.storable:
                raise OptionError(
                    f"{name} needs too much of the teacher to be stored; give the teacher itself, or take another loss"
                )
            if name not in self.losses:
                raise OptionError(
                    f"what {name!r} needs of the teacher is not stored, only what is needed by "
                    f"{', '.join(self.losses)}; store it with this loss"
                )
            if (found := self._settings.get(name)) not in (None, wanted := dict(loss.extracts)):
                raise OptionError(
                    f"what is stored of the teacher is for {name} with {listed(found)}, not {listed(wanted)}; store it "
                    "again, or take the loss that it was stored for"
                )

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return a map of zeros for each tap, of the shape that the teacher's has for such images."""
        return [images.new_zeros(len(images), *shape) for shape in self.tap_shapes]

    @torch.no_grad()
    def check_sizes(self, requests: Mapping[str, Request], images: Tensor) -> None:
        """Make sure that it was stored for a student with maps of these sizes, which the goals are pooled to.

        Args:
            requests: what each loss asks, by name.
            images: (B, C, H, W); only their number and their device matter.

        Raises:
            ShapeError: it was stored for another.
        """
        for name, (loss, student) in requests.items():
            if loss.reads == "logits":
                continue
            wanted = loss.pack(loss.extract(self.maps(images), student))
            there = self._arrays[name]
            for part, one in wanted.items():
                known = there[part].shape[2:] if part in there else ()
                if tuple(one.shape[1:]) != known:
                    raise ShapeError(
                        f"what is stored of the teacher for {name} was stored for a student with maps of other sizes "
                        f"({part} is {known}, needed is {tuple(one.shape[1:])}); store it again for this one"
                    )

    def goals(
        self,
        requests: Mapping[str, Request],
        images: Tensor,
        *,
        indices: Tensor | None = None,
        views: Tensor | None = None,
    ) -> dict[str, Any]:
        """Read the goals of some images.

        Args:
            requests: what each loss asks, by name.
            images: (B, C, H, W); only their number and their device matter.
            indices: (B,), int64, numbers of the images; best on the CPU, or where `bring` has brought all, and then
                they are not looked at: see `check_rows`.
            views: (B,), int64, numbers of their views, on the same device.

        Raises:
            OptionError: which images and views these are is not said.
            ShapeError: they are not as many as the images, or nothing is stored of one of them.
        """
        if indices is None or views is None:
            raise OptionError(
                "what is stored of the teacher is found by image and view; give indices= and views= of "
                f"{len(images)} images"
            )
        for what, numbers in (("indices", indices), ("views", views)):
            whole = isinstance(numbers, Tensor) and not numbers.is_floating_point() and numbers.dtype != torch.bool
            if not whole or numbers.ndim != 1:
                form = f"{tuple(numbers.shape)} {numbers.dtype}" if isinstance(numbers, Tensor) else type(numbers)
                raise ShapeError(f"{what} must be a tensor (B,) of whole numbers, got {form}")
        indices, views = indices.long(), views.long()
        if not len(images) == len(indices) == len(views):
            raise ShapeError(
                f"{len(images)} images came with {len(indices)} indices and {len(views)} views; give one of each for "
                "every image"
            )
        if self._brought and indices.device == images.device:
            if indices.device.type == "cpu":  # elsewhere that would mean to wait for it
                self.check_rows(indices, views)
            stored = {
                loss: {name: one[views, indices].float() for name, one in self._brought[loss].items()}
                for loss in requests
            }
        else:
            stored = self.read(requests.keys(), indices, views, device=images.device)
        return {name: one.loss.unpack(stored[name]) for name, one in requests.items()}

    def bring(self, device: torch.device) -> None:
        """Copy all that is stored to a device; see :meth:`goals`.

        Args:
            device: where indices and views will lie.
        """
        if self.lacking(device):
            self._brought = {}  # what lies elsewhere goes first
            self._brought = {
                loss: {name: torch.from_numpy(np.array(array)).to(device) for name, array in tensors.items()}
                for loss, tensors in self._arrays.items()
            }

    def lacking(self, device: torch.device) -> int:
        """Return how many bytes :meth:`bring` would have to bring: all, or none where they are there.

        Args:
            device: where to.
        """
        there = {one.device for tensors in self._brought.values() for one in tensors.values()}
        return 0 if there == {device} else self.bytes

    def check_rows(self, indices: Tensor, views: Tensor) -> None:
        """Make sure that these images are stored in these views.

        Args:
            indices: int64, numbers of images.
            views: int64, of the same shape, numbers of their views.

        Raises:
            ShapeError: an image or a view that is not there.
        """
        for what, given, count in zip(("view", "image"), (views, indices), self._any.shape, strict=False):
            numbers = given.cpu().numpy()
            wrong = numbers[(numbers < 0) | (numbers >= count)]
            if wrong.size:
                raise ShapeError(
                    f"what is stored of the teacher is of {what}s 0 to {count - 1}, asked for {int(wrong[0])}; "
                    "take the images and views that it was taken of"
                )

    def read(
        self, names: Collection[str], indices: Tensor, views: Tensor, *, device: torch.device | str = "cpu"
    ) -> dict[str, dict[str, Tensor]]:
        """Read what is stored for some images.

        Args:
            names: losses.
            indices: (B,), int64, numbers of the images, best on the CPU.
            views: (B,), int64, numbers of their views, best on the CPU.
            device: where the result is wanted; the host does not wait for it.

        Returns:
            For each loss its tensors by name, (B, …), float32.

        Raises:
            ShapeError: an image or a view that is not there.
        """
        self.check_rows(indices, views)
        rows = views.cpu().numpy(), indices.cpu().numpy()
        target = torch.device(device)
        return {
            loss: {name: _to(np.asarray(array[rows]), target) for name, array in self._arrays[loss].items()}
            for loss in names
        }

    @property
    def _any(self) -> NDArray[Any]:
        return next(iter(next(iter(self._arrays.values())).values()))


class StoredTensor(NamedTuple):
    """One stored tensor: its file, its type, and its shape (views, images, …)."""

    file: str
    dtype: str
    shape: tuple[int, ...]


class Spec(NamedTuple):
    """What lies in a folder: by loss and name its tensors, and the shapes of the teacher's taps."""

    tensors: Mapping[str, Mapping[str, StoredTensor]]
    tap_shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """Read it from the content of a file; what is of another form raises one of `WRONG_FORM`."""
        tensors = {
            loss: {
                name: StoredTensor(str(one["file"]), one["dtype"], tuple(one["shape"])) for name, one in parts.items()
            }
            for loss, parts in plain["tensors"].items()
        }
        if not tensors or not all(tensors.values()):
            raise ValueError("a loss of which nothing is stored")
        return cls(tensors, tuple(tuple(shape) for shape in plain["tap_shapes"]))

    @property
    def files(self) -> list[str]:
        """The names of all files."""
        return [one.file for parts in self.tensors.values() for one in parts.values()]

    def plain(self) -> dict[str, Any]:
        """Return it as it is written to a file."""
        tensors = {loss: {name: one._asdict() for name, one in parts.items()} for loss, parts in self.tensors.items()}
        return {"tensors": tensors, "tap_shapes": self.tap_shapes}


def map_files(folder: Path, spec: Spec, *, mode: str) -> dict[str, dict[str, NDArray[Any]]]:
    """Map the files of a folder into memory, and make sure that they are what they should be.

    Args:
        folder: where they lie.
        spec: what they should be.
        mode: ``r`` to read, ``r+`` to write.

    Raises:
        DataError: a file is missing, damaged, or holds something else.
    """
    arrays: dict[str, dict[str, NDArray[Any]]] = {}
    for loss, parts in spec.tensors.items():
        for name, one in parts.items():
            file = folder / one.file
            try:
                array = open_memmap(file, mode=mode)
            except _BROKEN_HEADER as error:
                raise DataError(f"{file} is missing, too short or damaged; {_FRESH}") from error
            # The order of bytes and of axes is none that we write.
            plain = array.dtype.isnative and array.flags.c_contiguous
            if not plain or (array.dtype.name, array.shape) != (one.dtype, one.shape):
                raise DataError(f"{file} holds {array.dtype} {array.shape}, expected {one.dtype} {one.shape}; {_FRESH}")
            arrays.setdefault(loss, {})[name] = array
    return arrays


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
