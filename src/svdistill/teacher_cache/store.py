"""Run a teacher over all views of the training images, and write what the losses need of it."""

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from svdistill import checksums
from svdistill.atomic import clear_leftovers, digest, locked, write_atomically
from svdistill.data import Batch
from svdistill.errors import DataError
from svdistill.plain import parse_json, read_text
from svdistill.teacher_cache.cache import (
    DIGESTS,
    FORMAT,
    MANIFEST,
    WRONG_FORM,
    Arrays,
    Packed,
    Spec,
    StoredTensor,
    TeacherCache,
    map_files,
)
from svdistill.teacher_cache.key import Key

PROGRESS = "progress.json"
# How often what has been extracted is brought safely to disk; an interruption costs that much at most.
_SAVE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the numbers of a teacher cache come from.

    Attributes:
        extract: standardized images (B, C, H, W) to what the losses need, for instance ``Distiller.extract``.
        tap_shapes: standardized images to the shapes of the teacher's taps, for instance ``Distiller.teacher_shapes``.
        batches: makes the batches of all views from the image with this number on; see ``data.every_view``.
        images: how many there are.
        precise: for each loss the names of what is to be stored in float32, for instance ``Distiller.precise``.
    """

    extract: Callable[[Tensor], Packed]
    tap_shapes: Callable[[Tensor], Sequence[Sequence[int]]]
    batches: Callable[[int], Iterable[Batch]]
    images: int
    precise: Mapping[str, Collection[str]] = field(default_factory=dict)


def store(
    folder: str | os.PathLike[str],
    key: Key,
    source: Source,
    *,
    fresh: bool = False,
    progress: Callable[[int], None] | None = None,
    waiting: Callable[[], None] | None = None,
) -> TeacherCache:
    """Make a teacher cache, or find it where another process has made it meanwhile.

    It is written under another name, which is changed when it is complete. A call that was interrupted, also by
    ``kill -9``, is resumed by the next one, which ends with the same bytes. Numbers are stored in half precision; those
    of a tensor that half precision cannot hold, in float32.

    Args:
        folder: where it is to lie.
        key: what it is of.
        source: where its numbers come from.
        fresh: make it again, even if it is there; what is there stays until the new one is complete.
        progress: told how many more images are done, each in all its views; at first those of an interrupted call.
        waiting: called once if another process is making it, before this one waits for that.

    Returns:
        The cache, opened.

    Raises:
        DataError: what is there is of something else (and not ``fresh``), or is not a teacher cache at all, or the disk
            is full.
    """
    path = Path(folder)
    try:
        with locked(path, waiting=waiting):
            if path.exists() and not fresh:
                return TeacherCache.open(path, key)
            _check_replaceable(path)
            clear_leftovers(path.with_name(f".{path.name}.partial"))
            task = _Task(path, key, source, progress or (lambda _: None))
            while not task.fill():
                pass
            task.finish()
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"cannot write the teacher cache to {path} ({reason}); free the disk, take fewer views, or choose "
            "another folder of runs"
        ) from error
    return TeacherCache.open(path, key)


def _check_replaceable(path: Path) -> None:
    """Refuse to replace what is not a teacher cache, whole or damaged: it would be lost."""
    if not path.exists():
        return
    found = [one.name for one in path.iterdir() if not one.name.startswith(".")] if path.is_dir() else [path.name]
    if foreign := sorted(name for name in found if name not in (MANIFEST, PROGRESS) and not name.endswith(".npy")):
        raise DataError(
            f"{path} is to become a teacher cache, but {foreign[0]!r} there is not of one and would be lost; choose "
            "another folder, or move it away"
        )


class _Piece(NamedTuple):
    """Images of which all is safely on disk: those from the end of the piece before up to this end.

    Attributes:
        end: the number after the last one.
        digest: SHA-256 of what is stored of them.
    """

    end: int
    digest: str


class _Task:
    """A teacher cache that is being written."""

    def __init__(self, path: Path, key: Key, source: Source, progress: Callable[[int], None]) -> None:
        self._path, self._work = path, path.with_name(f".{path.name}.partial")
        self._key, self._source = key, source
        self._wide = {(loss, name) for loss, names in source.precise.items() for name in names}
        self._progress = progress
        self._pieces: list[_Piece] = []

    def fill(self) -> bool:
        """Extract what is missing; False where a tensor did not fit into half precision, which is then remembered."""
        spec, done = self._begun()
        images = self._source.images
        arrays: Arrays = {} if spec is None else map_files(self._work, spec, mode="r+")
        self._progress(done)
        reported, saved = done, time.monotonic()
        for batch in self._source.batches(done) if done < images else ():
            known = self._source.extract(batch.images)
            if spec is None:
                spec, arrays = self._begin(known, batch)
            late = [which for which in _write(arrays, known, batch) if which not in self._wide]
            if late:
                self._wide.update(late)
                self._progress(-reported)
                shutil.rmtree(self._work)
                self._pieces = []
                return False
            if int(batch.views[0]) < self._key.views - 1:
                continue
            done = int(batch.indices[-1]) + 1
            self._progress(done - reported)
            reported = done
            if time.monotonic() - saved > _SAVE_SECONDS or done == images:
                self._save(spec, arrays, done)
                saved = time.monotonic()
        return True

    def finish(self) -> None:
        """Put the complete folder where it belongs."""
        old = self._path.with_name(f".{self._path.name}.old")
        shutil.rmtree(old, ignore_errors=True)  # of a call that was killed here
        if self._path.exists():
            self._path.rename(old)  # whoever reads it keeps reading it
        self._work.rename(self._path)
        shutil.rmtree(old, ignore_errors=True)
        (self._path / PROGRESS).unlink(missing_ok=True)

    def _begun(self) -> tuple[Spec | None, int]:
        """Return what an interrupted call has written, and of how many images; nothing where it cannot be used."""
        try:
            text = read_text(self._work / PROGRESS)
            plain = parse_json(text)
            spec, noted = Spec.of(plain), [_Piece(*piece) for piece in plain["pieces"]]
            if checksums.unseal(text, plain) and (plain["format"], plain["key"]) == (FORMAT, self._key.plain()):
                self._pieces = _sound(noted, map_files(self._work, spec, mode="r"))
                if self._pieces:
                    return spec, self._pieces[-1].end
        except (OSError, DataError, *WRONG_FORM):  # never begun, killed before the first images were safe, or damaged
            pass
        shutil.rmtree(self._work, ignore_errors=True)
        self._pieces = []
        return None, 0

    def _begin(self, known: Packed, batch: Batch) -> tuple[Spec, Arrays]:
        """Make the files, of their full size: a full disk is to be noticed now, not by a signal later."""
        self._work.mkdir(parents=True)
        tensors: dict[str, dict[str, StoredTensor]] = {}
        for loss, parts in known.items():
            for name, one in parts.items():
                number = sum(map(len, tensors.values()))
                file = f"{number}-{re.sub(r'[^A-Za-z0-9_-]+', '-', f'{loss}-{name}')}.npy"
                dtype = "float32" if (loss, name) in self._wide else "float16"
                shape = (self._key.views, self._source.images, *one.shape[1:])
                tensors.setdefault(loss, {})[name] = StoredTensor(file, dtype, shape)
                open_memmap(self._work / file, mode="w+", dtype=np.dtype(dtype), shape=shape)
                _reserve(self._work / file)
        spec = Spec(tensors, tuple(tuple(shape) for shape in self._source.tap_shapes(batch.images)))
        return spec, map_files(self._work, spec, mode="r+")

    def _save(self, spec: Spec, arrays: Arrays, done: int) -> None:
        """Bring everything to disk, then say so."""
        for parts in arrays.values():
            for array in parts.values():
                if isinstance(array, np.memmap):
                    array.flush()
        begin = self._pieces[-1].end if self._pieces else 0
        self._pieces.append(_Piece(done, _rows_digest(arrays, begin, done)))
        about = {"format": FORMAT, "key": self._key.plain(), **spec.plain()}
        if done == self._source.images:
            digests = {DIGESTS: {file: digest(self._work / file) for file in spec.files}}
            manifest = checksums.seal(json.dumps({**about, **digests}, indent=1))
            write_atomically(self._work / MANIFEST, manifest.encode())
        write_atomically(self._work / PROGRESS, checksums.seal(json.dumps({**about, "pieces": self._pieces})).encode())


def _sound(pieces: Sequence[_Piece], arrays: Arrays) -> list[_Piece]:
    """Return the first pieces, up to one that has changed since it was brought to disk."""
    sound: list[_Piece] = []
    for piece in pieces:
        if _rows_digest(arrays, sound[-1].end if sound else 0, piece.end) != piece.digest:
            break
        sound.append(piece)
    return sound


def _rows_digest(arrays: Arrays, begin: int, end: int) -> str:
    """Return the SHA-256 of what is stored of some images, in all their views."""
    found = hashlib.sha256()
    for array in (array for parts in arrays.values() for array in parts.values()):
        for view in array:
            found.update(view[begin:end].data)
    return found.hexdigest()


def _reserve(file: Path) -> None:
    """Claim the disk space of a file, where the system can."""
    if sys.platform == "linux":
        with file.open("r+b") as space:
            os.posix_fallocate(space.fileno(), 0, space.seek(0, os.SEEK_END))


def _write(arrays: Arrays, known: Packed, batch: Batch) -> list[tuple[str, str]]:
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
