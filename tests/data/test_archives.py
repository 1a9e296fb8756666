"""Archives that state more than they hold, hold more than they may, or are packed in ways that have no bounds."""

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from svdistill.data.archives import opened_zip, read_tar, read_zip, unzipped
from svdistill.errors import DataError


def tar(path: Path, *members: tuple[str, bytes], form: int = tarfile.GNU_FORMAT) -> Path:
    """Write an archive by Python's own module."""
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_tar(form: int, tmp_path: Path) -> None:
    """What was wanted is there whatever folder it lies in, compressed or not; sizes at and off the block's."""
    members = [("a/one", b"1" * 512), ("b", b"other"), ("a/deep/two", b"2" * 513), ("none", b"")]
    members += [] if form == tarfile.USTAR_FORMAT else [("long" * 60 + "/three", b"3"), ("é" * 60 + "/four", b"4")]
    path = tar(tmp_path / "a.tar", *members, form=form)
    found = {"one": b"1" * 512, "two": b"2" * 513, "none": b"", "three": b"3", "four": b"4"}
    wanted = {name: content for name, content in found.items() if any(one.endswith(name) for one, _ in members)}
    assert read_tar(path, set(found), most=1 << 20) == wanted
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert read_tar(path, set(found), most=1 << 20) == wanted


def test_tar_that_states_more(tmp_path: Path) -> None:
    """A size that is larger than the archive ends the reading at once, octal or binary."""
    path = tar(tmp_path / "a.tar", ("x", b"1"))
    for size in (b"77777777777\0", b"\x80" + b"\x7f" * 11, b"\xff" * 12):
        head = bytearray(path.read_bytes()[:512])
        head[124:136] = size
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        (tmp_path / "b.tar").write_bytes(bytes(head) + bytes(2048))
        for wanted in ({"x"}, {"y"}):
            with pytest.raises(DataError, match="not a complete tar archive"):
                read_tar(tmp_path / "b.tar", wanted, most=1 << 20)


def test_holds_more(tmp_path: Path) -> None:
    """What a few bytes are unpacked to is bounded, in each kind of archive."""
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(1 << 22)))
    with pytest.raises(DataError, match=r"a\.gz holds more than 1,048,576 bytes"):
        list(unzipped(tmp_path / "a.gz", most=1 << 20))
    assert sum(map(len, unzipped(tmp_path / "a.gz", most=1 << 22))) == 1 << 22
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(1 << 22))
    with pytest.raises(DataError, match=r"a\.zip/x holds more than 1,048,576 bytes"):
        read_zip(tmp_path / "a.zip", "x", most=1 << 20)


def test_what_follows_the_end(tmp_path: Path) -> None:
    """Zeros may follow a gzip file's end, nothing else."""
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"content") + bytes(100))
    assert b"".join(unzipped(path, most=100)) == b"content"
    path.write_bytes(gzip.compress(b"content") * 2)
    with pytest.raises(DataError, match="something follows its end"):
        list(unzipped(path, most=100))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packing(method: int, tmp_path: Path) -> None:
    """LZMA may ask for gigabytes to unpack a few bytes."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("x", b"1")
    with pytest.raises(DataError, match=f"packed by method {method}, expected 0 or 8"):
        read_zip(tmp_path / "a.zip", "x", most=100)


@pytest.mark.parametrize(
    ("at", "value"), [(8, b"\1"), (10, b"\x63"), (6, b"\xc8"), (9, b"\x08"), (24, b"\xff\xff\xff\x7f")]
)
def test_damaged_directory(at: int, value: bytes, tmp_path: Path) -> None:
    """Encrypted, packed by an unknown method, of an unknown version, a name that is not UTF-8, a wrong size."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x\xe9".encode().decode("latin-1") if at == 9 else "x", b"1" * 100)
    whole = bytearray(path.read_bytes())
    start = whole.find(b"PK\1\2")
    whole[start + at : start + at + len(value)] = value
    if at == 9:
        whole[start + 46] = 0xFF
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"a\.zip") as caught:
        read_zip(path, "x", most=10)
    assert "\n" not in str(caught.value)


def test_directory_that_states_more(tmp_path: Path) -> None:
    """A directory of gigabytes is not asked for."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", b"1")
    whole = bytearray(path.read_bytes())
    end = whole.rfind(b"PK\5\6")
    whole[end + 12 : end + 16] = struct.pack("<I", 1 << 30)
    path.write_bytes(whole)
    with pytest.raises(DataError, match="not a complete zip archive"), opened_zip(path):
        pass
