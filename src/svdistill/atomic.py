"""Files that are there as a whole or not at all, their digests, and locks between processes."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, two processes are not kept apart.
    _HAS_LOCKS = False
else:
    _HAS_LOCKS = True

# What `replacing` calls its files: the name, and the process that writes it.
_TEMPORARY = re.compile(r"\..+\.([1-9]\d*)\.tmp")


@contextmanager
def replacing(path: str | os.PathLike[str], *, keep: str | os.PathLike[str] | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its place when the block ends, and not before.

    Whoever reads ``path``, at any moment and even after a ``kill -9``, finds the old content or the new, whole.

    Args:
        path: the file to write; its folder is made if need be.
        keep: the name that the old file gets, in the same folder, instead of being lost; between the two renamings
            there is no file at ``path``.

    Yields:
        The temporary file, open for writing bytes and for reading them back. An error inside the block removes it and
        leaves ``path`` as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a whole file so that no reader ever sees a part of it; see :func:`replacing`."""
    with replacing(path) as file:
        file.write(content)


def clear_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files that processes left in a folder when they were killed.

    A file is removed where no process with the number in its name runs on this machine. That says nothing about other
    machines that share the folder: the caller holds a lock (see :func:`locked`) that keeps every other writer away. A
    number that another process has by now costs nothing but the space until a later call.

    Args:
        folder: where they lie; one that is missing has none.
    """
    for file in Path(folder).glob(".*.tmp"):
        made_by = _TEMPORARY.fullmatch(file.name)
        if made_by and not _runs(int(made_by[1])):
            file.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Tell whether a process runs on this machine; True where that cannot be asked."""
    if os.name == "nt":  # there, asking would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's; or no number of a process
        return True
    return True


@contextmanager
def locked(
    path: str | os.PathLike[str], *, wait: bool = True, waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Keep other processes from the same block for the same path.

    The lock is a hidden file beside the path, so that the path itself can be replaced; the system releases it when the
    process ends, however it ends.

    Args:
        path: a file or folder, there or yet to be made; the folder it lies in is made if need be.
        wait: whether to wait while another process is in its block.
        waiting: called once where another process has to be waited for.

    Raises:
        BlockingIOError: another process is in its block, and ``wait`` is False.
        OSError: the folder that the path lies in cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as file:
        if not lock(file, wait=False):
            if not wait:
                raise BlockingIOError(f"another process has locked {path}")
            if waiting is not None:
                waiting()
            lock(file, wait=True)
        yield


def is_locked(path: str | os.PathLike[str]) -> bool:
    """Whether another process is in its block of :func:`locked` for a path; False where that cannot be asked.

    Args:
        path: a file or folder.
    """
    path = Path(path)
    try:
        with path.with_name(f".{path.name}.lock").open() as file:
            return not lock(file, wait=False)
    except OSError:  # never locked, or not ours to read
        return False


def lock(file: IO[Any], *, wait: bool) -> bool:
    """Lock an open file until it is closed.

    Args:
        file: the file.
        wait: whether to wait until whoever has the lock releases it.

    Returns:
        Whether the lock is ours; True where the system has no locks.
    """
    if not _HAS_LOCKS:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Args:
        path: the file; OSError where it cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
