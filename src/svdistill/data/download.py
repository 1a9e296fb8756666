"""Files from the network: resumed where they were interrupted, and checked before they are used."""

import errno
import hashlib
import http.client
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import IO, Any

from svdistill.atomic import lock
from svdistill.data.progress import progress_bar
from svdistill.errors import DataError

# After a connection that breaks another is opened, as long as each one brings something.
_CONNECTIONS = 8
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Remote:
    """A file on the network.

    Attributes:
        url: where it is.
        size: how many bytes it has.
        digest: its hash, as ``sha256:…`` or ``md5:…``.
    """

    url: str
    size: int
    digest: str

    @property
    def name(self) -> str:
        """The last part of its address."""
        return self.url.rsplit("/", 1)[-1]


class _BrokenError(Exception):
    """A connection that ended early."""


def download(url: str, path: str | os.PathLike[str], *, size: int, digest: str, progress: bool = True) -> None:
    """Download a file, resuming where an earlier attempt stopped, and check its size and hash.

    What has come so far lies beside the file, as ``NAME.part``; the file itself appears when it is complete and
    checked. A server that cannot resume in the middle is asked for the whole file. A second process waits
    for the first.

    Args:
        url: where it comes from.
        path: where to put it; its folder is made where it is missing. Where the file exists, nothing happens.
        size: how many bytes it must have.
        digest: the hash that it must have, as ``sha256:…`` or ``md5:…``.
        progress: whether to show a bar, where standard error is a terminal.

    Raises:
        DataError: the file cannot be downloaded or written, or is not the one that was expected.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _part_of(path) as part:
            if part is None:
                return
            _fill(part, url, path, size=size, digest=digest, progress=progress)
            part.flush()
            os.fsync(part.fileno())
            if os.name == "nt":  # Windows does not rename open files
                part.close()
            os.replace(_part(path), path)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror or error}); make room or name another folder") from error


def download_all(title: str, files: Mapping[str, Remote], folder: Path) -> None:
    """Download the files of a data set that a folder lacks.

    Args:
        title: the data set's name, for the message.
        files: the files by name.
        folder: where to put them.

    Raises:
        DataError: as `download`; the message says what to put where instead.
    """
    for name, remote in files.items():
        if (folder / name).is_file():
            continue
        try:
            download(remote.url, folder / name, size=remote.size, digest=remote.digest)
        except DataError as error:
            raise DataError(
                f"{title} could not be downloaded: {error}; or put {', '.join(files)} in {folder}, or in a folder that "
                "you name as root"
            ) from error


def check_file(path: Path, *, size: int, digest: str) -> None:
    """Raise `DataError` unless a file has this size and hash."""
    came = path.stat().st_size
    if came != size:
        raise DataError(f"{path} has {came:,} bytes, expected {size:,}; remove it and fetch it again")
    with path.open("rb") as file:
        found = _digest(file, digest)
    if found != digest:
        raise DataError(f"{path} has hash {found}, expected {digest}; remove it and fetch it again")


def cache_folder(name: str) -> Path:
    """Return the folder of the user's cache in which a data set is kept; it need not exist."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        base = Path(given)
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path.home() / ".cache"
    return base / "svdistill" / name


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


@contextmanager
def _part_of(path: Path) -> Iterator[IO[bytes] | None]:
    """Open the part of a file that has come, to append to it, alone; None where the file is complete by now."""
    while True:
        if path.is_file():
            yield None
            return
        with _part(path).open("ab+") as part:
            lock(part, wait=True)
            # While waiting, another process may have completed and renamed the file that was opened here.
            if path.is_file() or not _same(part, _part(path)):
                continue
            try:
                yield part
            finally:
                if not part.closed and part.seek(0, os.SEEK_END) == 0 and _same(part, _part(path)):
                    _part(path).unlink()
            return


def _same(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _fill(part: IO[bytes], url: str, path: Path, *, size: int, digest: str, progress: bool) -> None:
    """Bring a part to its full size and check it; a wrong one is emptied and, if it was resumed, downloaded again."""
    resumed = part.seek(0, os.SEEK_END) > 0
    free = shutil.disk_usage(path.parent).free
    if free < size - part.tell():
        raise OSError(errno.ENOSPC, f"{size - part.tell():,} bytes are needed and {free:,} are free")
    _receive(part, url, path.name, size=size, progress=progress)
    part.seek(0)
    found = _digest(part, digest)
    if found == digest:
        return
    part.truncate(0)
    if not resumed:
        raise DataError(f"what came from {url} has hash {found}, expected {digest}; it was not kept")
    _fill(part, url, path, size=size, digest=digest, progress=progress)


def _receive(part: IO[bytes], url: str, name: str, *, size: int, progress: bool) -> None:
    if part.seek(0, os.SEEK_END) > size:
        part.truncate(0)
    with progress_bar(name, total=size, unit="bytes", wanted=progress) as show:
        for connection in range(_CONNECTIONS):
            before = part.seek(0, os.SEEK_END)
            if before == size:
                return
            try:
                _connect(part, url, show, size=size)
            except (
                urllib.error.URLError,
                http.client.HTTPException,
                TimeoutError,
                ConnectionError,
                _BrokenError,
            ) as error:
                if _refused(part, error):
                    continue
                came = part.seek(0, os.SEEK_END)
                if came > before and connection + 1 < _CONNECTIONS:
                    continue
                reason = shorten(f"{type(error).__name__.lstrip('_')}: {error}", 160, placeholder=" …")
                kept = f", {came:,} of {size:,} bytes are kept" if came else ""
                raise DataError(f"{url} failed ({reason}){kept}; try again") from error
            except ValueError as error:
                raise DataError(f"{url!r} is not an address ({error}); give one like https://host/file") from error
        came = part.seek(0, os.SEEK_END)
        if came != size:
            raise DataError(f"{url} failed ({came:,} of {size:,} bytes after {_CONNECTIONS} connections); try again")


def _refused(part: IO[bytes], error: Exception) -> bool:
    """Whether a server would not resume from here, so that the file is to be downloaded from its start."""
    refused = isinstance(error, urllib.error.HTTPError) and error.code == 416 and part.tell() > 0
    if refused:
        part.truncate(0)
    return refused


def _connect(part: IO[bytes], url: str, show: Callable[[int], None], *, size: int) -> None:
    """Open one connection and write what comes to the end of the part."""
    start = part.seek(0, os.SEEK_END)
    headers = {"User-Agent": "svdistill", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as response:
        if start and not (response.headers["Content-Range"] or "").startswith(f"bytes {start}-"):
            part.truncate(0)
            start = 0
        show(start)
        length = response.headers["Content-Length"]
        if length is not None and start + int(length) != size:
            raise DataError(f"{url} has {start + int(length):,} bytes, expected {size:,}; it is another file")
        while chunk := _read(response):
            part.write(chunk)
            start += len(chunk)
            show(start)
            if start > size:
                part.truncate(0)
                raise DataError(f"{url} has more than {size:,} bytes; it is another file")
    if start < size:
        raise _BrokenError(f"the connection ended after {start:,} bytes")


def _read(response: Any) -> bytes:
    try:
        return bytes(response.read(_CHUNK))
    except OSError as error:  # told apart from one of the disk
        raise _BrokenError(str(error)) from error


def _digest(file: IO[bytes], like: str) -> str:
    algorithm = like.partition(":")[0]
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    while chunk := file.read(_CHUNK):
        hasher.update(chunk)
    return f"{algorithm}:{hasher.hexdigest()}"
