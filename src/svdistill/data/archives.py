"""Gzip, tar and zip files, read within bounds: nothing is unpacked beyond the size that it may have."""

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from svdistill.errors import DataError, one_line

_CHUNK = 1 << 20
_BLOCK = 512  # bytes: a tar archive consists of such blocks
_MOST_NAME = 1 << 16  # bytes of a tar archive's long name
_MOST_LISTING = 32 << 20  # bytes of a zip archive's directory: some hundred thousand files


def unzipped(path: Path, *, most: int, plain: bool = False) -> Iterator[bytes]:
    """Read a gzip file chunk by chunk.

    Args:
        path: the file.
        most: bytes that it may hold.
        plain: take a file that is not compressed as it is.

    Yields:
        At most 1 MiB at a time.

    Raises:
        DataError: it cannot be read, is damaged or cut off, or holds more.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            if not zipped and not plain:
                raise DataError(f"{path} is not a gzip file or is damaged; get the file again")
            file.seek(0)
            total = 0
            for chunk in _inflated(file, path) if zipped else iter(lambda: file.read(_CHUNK), b""):
                total += len(chunk)
                if total > most:
                    raise DataError(f"{path} holds more than {most:,} bytes; get the file again")
                yield chunk
    except zlib.error as error:
        raise DataError(f"{path} is cut off or damaged ({error}); get the file again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check the file") from error


def _inflated(file: IO[bytes], path: Path) -> Iterator[bytes]:
    inflater = zlib.decompressobj(wbits=31)
    while not inflater.eof:
        waiting = inflater.unconsumed_tail or file.read(_CHUNK)
        chunk = inflater.decompress(waiting, _CHUNK)
        if not waiting and not chunk and not inflater.eof:
            raise DataError(f"{path} is cut off or damaged (it ends too early); get the file again")
        if chunk:
            yield chunk
    if inflater.unused_data.strip(b"\0") or file.read(1):
        raise DataError(f"{path} is damaged (something follows its end); get the file again")


def read_tar(path: Path, wanted: Collection[str], *, most: int) -> dict[str, bytes]:
    """Read some files of a tar archive, compressed by gzip or not, in one pass; nothing is written to disk.

    Args:
        path: the archive.
        wanted: the files' names, whatever folder they lie in there.
        most: bytes that the archive may hold once it is unzipped.

    Returns:
        The content of those that are there, by name.

    Raises:
        DataError: the archive cannot be read, is damaged or holds more.
    """
    stream = _Stream(unzipped(path, most=most, plain=True))
    found: dict[str, bytes] = {}
    long_name = None
    while head := stream.take(_BLOCK).strip(b"\0"):
        head = head.ljust(_BLOCK, b"\0")
        name, size, kind = long_name or head[:100].split(b"\0")[0], _size(head, path), head[156:157]
        long_name = None
        last = name.rsplit(b"/", 1)[-1].decode("utf-8", "replace")
        if kind in (b"L", b"x") and size <= _MOST_NAME:
            long_name = _long_name(kind, stream.take(size))
            came = size
        elif kind in (b"0", b"\0") and last in wanted:
            found[last] = stream.take(size)
            came = len(found[last])
        else:
            came = stream.skip(size)
        if came < size or stream.skip(-size % _BLOCK) < -size % _BLOCK:
            raise DataError(f"{path} is not a complete tar archive (it ends inside {last!r}); get it again")
    stream.skip(most)  # to the end, where gzip keeps its checksum
    return found


class _Stream:
    """Bytes that come in chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk, self._at = b"", 0

    def take(self, size: int) -> bytes:
        """Return the next bytes; fewer at the end."""
        return b"".join(self._parts(size))

    def skip(self, size: int) -> int:
        """Pass over the next bytes, and return how many there were."""
        return sum(map(len, self._parts(size)))

    def _parts(self, size: int) -> Iterator[bytes]:
        while size > 0:
            if self._at == len(self._chunk):
                self._chunk, self._at = next(self._chunks, b""), 0
            if not self._chunk:
                return
            part = self._chunk[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            yield part


def _size(head: bytes, path: Path) -> int:
    """Return the size that a member's head states, once its checksum has shown that it is a head."""
    try:
        stated = int(head[148:156].strip(b" \0"), 8)
        # Large sizes are binary, marked by the first bit.
        size = int.from_bytes(head[125:136]) if head[124] & 0x80 else int(head[124:136].strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise DataError(f"{path} is not a complete tar archive ({error}); get it again") from error
    if stated != sum(head) - sum(head[148:156]) + 8 * ord(" "):
        raise DataError(f"{path} is not a complete tar archive (a head has another checksum); get it again")
    if size < 0:
        raise DataError(f"{path} is not a complete tar archive (a file of {size} bytes); get it again")
    return size


def _long_name(kind: bytes, content: bytes) -> bytes | None:
    """Return the name of the next member, as GNU's tar and the pax format write one that is too long for its head."""
    if kind == b"L":
        return content.rstrip(b"\0")
    record = re.search(rb"(?:^|\n)\d+ path=([^\n]*)\n", content)
    return record[1] if record else None


@contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive; whatever goes wrong while it is listed or read is a DataError.

    Args:
        path: the archive.

    Yields:
        The archive.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(_Careful(file)) as archive:
            yield archive
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check the file") from error
    # For what a damaged archive states, zipfile and what it calls have errors of many kinds.
    except (zipfile.BadZipFile, zlib.error, EOFError, LookupError, RuntimeError, ValueError, struct.error) as error:
        raise DataError(f"{path} is not a complete zip archive ({one_line(error)}); get it again") from error


def read_zip(path: Path, name: str, *, most: int) -> bytes:
    """Read a file of a zip archive.

    Args:
        path: the archive.
        name: the file.
        most: bytes that it may hold.

    Raises:
        DataError: there is no such file, it is damaged, holds more, or is packed in a way that is not bounded.
    """
    with opened_zip(path) as archive:
        if name not in archive.NameToInfo:
            raise DataError(f"{path}/{name} cannot be read (the archive lacks it); get the archive again")
        known = archive.getinfo(name)
        if known.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{path}/{name} is packed by method {known.compress_type}, expected 0 or 8; pack it again")
        with archive.open(known) as file:
            content = file.read(most + 1)
    if len(content) > most:
        raise DataError(f"{path}/{name} holds more than {most:,} bytes; get the archive again")
    return content


class _Careful(io.RawIOBase):
    """A file that refuses to be read in larger pieces than an archive's directory has: it may state any size."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        if size > _MOST_LISTING:
            raise zipfile.BadZipFile(f"a part of {size:,} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True
