"""Tests of the IDX format."""

import gzip
import struct
from pathlib import Path

import pytest
import torch

from svdistill.data.idx import read_idx
from svdistill.errors import DataError

CONTENT = bytes(i * i % 251 for i in range(1000))


def idx(sizes: tuple[int, ...], content: bytes, *, magic: int | None = None) -> bytes:
    """An IDX file, not yet compressed."""
    return struct.pack(f">{1 + len(sizes)}I", 0x800 + len(sizes) if magic is None else magic, *sizes) + content


def write(folder: Path, content: bytes) -> Path:
    """Write a gzipped file."""
    path = folder / "file.gz"
    path.write_bytes(gzip.compress(content))
    return path


def test_values(tmp_path: Path) -> None:
    """Images and labels come back in their sizes, row by row, as memory of their own."""
    images = read_idx(write(tmp_path, idx((2, 2, 3), bytes(range(244, 256)))), dimensions=3)
    assert images.tolist() == [[[244, 245, 246], [247, 248, 249]], [[250, 251, 252], [253, 254, 255]]]
    assert images.dtype == torch.uint8
    images += 1
    assert read_idx(write(tmp_path, idx((3,), b"\x00\x09\x05")), dimensions=1).tolist() == [0, 9, 5]
    assert read_idx(write(tmp_path, idx((0,), b"")), dimensions=1).shape == (0,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds 0 bytes, expected a head of 16"),
        (idx((2, 2, 2), b"")[:15], "holds 15 bytes"),
        (idx((8,), bytes(16)), "magic number 0x00000801, expected 0x00000803"),
        (idx((2, 2, 2), bytes(8), magic=0xD03), "magic number 0x00000d03"),
        (idx((2, 2, 2), bytes(7)), "states 2 × 2 × 2 = 8 bytes but holds 7"),
        (idx((2, 2, 2), bytes(9)), "states 2 × 2 × 2 = 8 bytes but holds 9"),
        (idx((2**32 - 1,) * 3, bytes(9)), "but holds 9"),
    ],
    ids=["nothing", "half a head", "labels", "no bytes", "too short", "too long", "huge"],
)
def test_wrong_content(content: bytes, message: str, tmp_path: Path) -> None:
    """A head that is not one of images, or states what is not there, is refused, and the file named."""
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, dimensions=3)
    assert str(caught.value).startswith(str(path))
    assert "get the file again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_gzip(tmp_path: Path) -> None:
    """A file that is not gzip is called so: unzipped, a web page, or empty."""
    for content in (idx((2,), b"\0\0"), b"<html>404</html>"):
        (tmp_path / "file.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"file\.gz is not a gzip file"):
            read_idx(tmp_path / "file.gz", dimensions=1)


@pytest.mark.parametrize("keep", [0, 5, 12, 40, -1])
def test_cut_off(keep: int, tmp_path: Path) -> None:
    """A file that ends too early is refused wherever it was cut."""
    path = write(tmp_path, idx((1000,), CONTENT))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"file\.gz (is cut off or damaged|holds 0 bytes|is not a gzip)"):
        read_idx(path, dimensions=1)


@pytest.mark.parametrize("place", [10, 15, 200, -6, -2])
def test_damaged(place: int, tmp_path: Path) -> None:
    """A file in which one byte differs is refused: gzip's checksum or its stream shows it."""
    path = write(tmp_path, idx((1000,), CONTENT))
    content = bytearray(path.read_bytes())
    content[place] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"file\.gz .*get the file again"):
        read_idx(path, dimensions=1)


def test_missing(tmp_path: Path) -> None:
    """A file that is not there, or is a folder, cannot be read and is named."""
    for path in (tmp_path / "none.gz", tmp_path):
        with pytest.raises(DataError, match=f"{path} cannot be read"):
            read_idx(path, dimensions=1)
