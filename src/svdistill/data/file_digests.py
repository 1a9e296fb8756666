"""Digests of image files, kept in the user's cache, so that a file is read for its digest once and not at every start.

A kept digest is used while path, size, times and inode of the file are those that it had. The time of its last change
counts besides that of its content, because nobody sets it back: a file that was replaced by one of the same size, and
given the old date, is noticed. What is not noticed: content that changes without the system telling, on a volume that
another with the same names, sizes, times and inodes takes the place of.
"""

import hashlib
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from svdistill.atomic import write_atomically
from svdistill.data.digest import BYTES, as_tensor, content_digest
from svdistill.data.download import cache_folder
from svdistill.data.progress import progress_bar

if TYPE_CHECKING:
    from svdistill.data.files import Files

_MAGIC = b"svdistill digests 1\n"
# What tells a file from what it was before, in 64 bits; then the digest of its content.
_ENTRY = np.dtype([("state", "<u8"), ("digest", "u1", (BYTES,))])
# 100 MB; ImageNet has 1.3 million files.
_MOST_ENTRIES = 1 << 22
# Clocks of file systems tick, the slowest every two seconds: until the next tick a file may change unnoticed.
TICK_SECONDS = 2.0
_THREADS = 8
_PIECE = 64
_NEVER = np.iinfo(np.int64).max

Entries = NDArray[Any]


def file_digests(files: "Files", positions: Tensor, *, tick: float = TICK_SECONDS) -> Tensor:
    """Digest the content of image files; those that have not changed since they were last digested are not read.

    Args:
        files: where they are.
        positions: (N,), int64, on the CPU: of each one in `files`.
        tick: how many seconds old a file's last change must be for its digest to be kept.

    Returns:
        (N, 16), uint8, on the CPU; zeros for a file that cannot be read.
    """
    kept = _Kept(files.base)
    settled = time.time_ns() - int(tick * 1e9)
    states, changed = _states(files, positions)
    digests, known = kept.look_up(states)
    missing = np.flatnonzero(~known & (changed != _NEVER))
    if len(missing):
        digests[missing] = _read(files, positions[torch.from_numpy(missing)])
        lasting = missing[(changed[missing] < settled) & digests[missing].any(axis=1)]
        if len(lasting):
            kept.add(states[lasting], digests[lasting])
    return torch.from_numpy(digests)


class _Kept:
    """What is kept of the files of one folder or archive; a cache that is damaged or cannot be written is as none."""

    def __init__(self, base: Path) -> None:
        self._file: Path | None = None
        with suppress(RuntimeError):  # a user without a home
            self._file = cache_folder("digests") / f"{_sha256(os.path.abspath(base)).hexdigest()[:16]}.bin"
        self._entries = self._read()

    def look_up(self, states: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return the digests (N, 16) of files in these states (N,), and which of them are known."""
        digests = np.zeros((len(states), BYTES), dtype=np.uint8)
        if not len(self._entries):
            return digests, np.zeros(len(states), dtype=bool)
        places = np.searchsorted(self._entries["state"], states).clip(max=len(self._entries) - 1)
        found: NDArray[np.bool_] = self._entries["state"][places] == states
        digests[found] = self._entries["digest"][places[found]]
        return digests, found

    def add(self, states: NDArray[np.uint64], digests: NDArray[np.uint8]) -> None:
        """Keep more of them; what other processes have added meanwhile may be lost, and is digested once more then."""
        more = np.zeros(len(states), dtype=_ENTRY)
        more["state"], more["digest"] = states, digests
        if len(self._entries) + len(more) <= _MOST_ENTRIES:
            more = np.concatenate([self._entries, more])
        more = more[np.unique(more["state"], return_index=True)[1]][:_MOST_ENTRIES]
        if self._file is None:
            return
        body = more.tobytes()
        # A full disk, or a cache that belongs to somebody else: every start reads all files.
        with suppress(OSError):
            write_atomically(self._file, _MAGIC + hashlib.sha256(body).digest() + body)

    def _read(self) -> Entries:
        nothing = np.zeros(0, dtype=_ENTRY)
        if self._file is None:
            return nothing
        start = len(_MAGIC) + hashlib.sha256().digest_size
        try:
            about = self._file.stat()
            if not stat.S_ISREG(about.st_mode) or about.st_size > start + _MOST_ENTRIES * _ENTRY.itemsize:
                return nothing
            content = self._file.read_bytes()
        except OSError:
            return nothing
        body = content[start:]
        if content[:start] != _MAGIC + hashlib.sha256(body).digest() or len(body) % _ENTRY.itemsize:
            return nothing
        return np.frombuffer(body, dtype=_ENTRY)


def _states(files: "Files", positions: Tensor) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return what tells each file from what it was before (N,), and when it was last changed, in ns (N,)."""
    states = np.zeros(len(positions), dtype=np.uint64)
    changed = np.full(len(positions), _NEVER, dtype=np.int64)
    folder = os.path.abspath(files.base)
    archive = None if files.base.is_dir() else _stat(folder)
    for place, position in enumerate(positions.tolist()):
        path = os.path.join(folder, files.names[position])
        about = archive or _stat(path)
        if about is not None:
            states[place] = state_of(path, about)
            changed[place] = max(about.st_mtime_ns, about.st_ctime_ns)
    return states, changed


def state_of(path: str, about: os.stat_result) -> int:
    """Return a number below 2⁶⁴ that is another one once a file has changed."""
    said = f"{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns} {about.st_ino} {path}"
    return int.from_bytes(_sha256(said).digest()[:8], "little")


def _stat(path: str) -> os.stat_result | None:
    """Return what the system knows of a file; None where it is none that can be read."""
    try:
        about = os.stat(path)
    except (OSError, ValueError):  # the second where the name holds a null character
        return None
    return about if stat.S_ISREG(about.st_mode) else None


def _read(files: "Files", positions: Tensor) -> NDArray[np.uint8]:
    """Read and digest files, under a progress bar where standard error is a terminal."""

    def digest(piece: Tensor) -> Tensor:
        return as_tensor([_digest(files, position) for position in piece.tolist()])

    done: list[Tensor] = []
    # Files wait for the disk, more of them at a time; an archive is one file.
    threads = _THREADS if files.base.is_dir() else 1
    with (
        progress_bar(f"digesting {files.base.name}", total=len(positions), unit="images") as show,
        ThreadPoolExecutor(threads) as pool,
    ):
        pieces = [pool.submit(digest, piece) for piece in positions.split(_PIECE)]
        try:
            for piece in pieces:
                done.append(piece.result())
                show(min(len(done) * _PIECE, len(positions)))
        finally:  # an interrupt does not wait for what has not begun
            for piece in pieces:
                piece.cancel()
    return torch.cat(done).numpy()


def _digest(files: "Files", position: int) -> bytes:
    try:
        return content_digest(files.read(position))
    except Exception:  # as where it is decoded: a damaged archive fails in any way, and another image stands in
        return bytes(BYTES)


def _sha256(text: str) -> Any:
    return hashlib.sha256(text.encode(errors="surrogatepass"))  # names of files need not be UTF-8
