"""Tests of the digests of image files, and of those that are kept."""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from svdistill.data import Files, file_digests
from svdistill.data.file_digests import file_digests as digests

NAMES = ("a.png", "b.png", "c.png")


class Counted(Files):
    """Files that count what is read of them."""

    reads = 0

    def read(self, position: int) -> bytes:
        """Read one."""
        self.reads += 1
        return super().read(position)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "svdistill" / "digests"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three files."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(name.encode() * 100)
    return folder


def read(base: Path, *, tick: float = -1.0, names: tuple[str, ...] = NAMES) -> tuple[Tensor, int]:
    """Digest all files, those of this very moment too, and count how many were read."""
    files = Counted(base, names)
    return digests(files, torch.arange(len(names)), tick=tick), files.reads


def expected(base: Path, names: tuple[str, ...] = NAMES) -> list[bytes]:
    """What must come out."""
    return [hashlib.sha256((base / name).read_bytes()).digest()[:16] for name in names]


def listed(digests: Tensor) -> list[bytes]:
    """The rows of digests."""
    return [bytes(row.tolist()) for row in digests]


def test_read_once(photos: Path) -> None:
    """A file is read for its digest at the first start alone; more of them come beside those that are kept."""
    first = digests(Counted(photos, NAMES), torch.tensor([2, 0]), tick=-1.0)
    assert listed(first) == [expected(photos)[2], expected(photos)[0]]
    second, reads = read(photos)
    assert (listed(second), reads) == (expected(photos), 1)
    third, reads = read(photos)
    assert (listed(third), reads) == (expected(photos), 0)


def test_many_files(tmp_path: Path) -> None:
    """In order, whatever thread reads which."""
    names = tuple(f"{number}.png" for number in range(150))
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    assert listed(read(tmp_path, names=names)[0]) == expected(tmp_path, names)
    assert read(tmp_path, names=names)[1] == 0


def replaced_in_place(file: Path) -> None:
    """Other content of the same size, in the same file."""
    file.write_bytes(b"!" * file.stat().st_size)


def exchanged(file: Path) -> None:
    """Another file of the same size under the same name."""
    other = file.with_name("other")
    other.write_bytes(b"?" * file.stat().st_size)
    os.replace(other, file)


@pytest.mark.parametrize("change", [replaced_in_place, exchanged])
def test_a_replaced_image_of_the_same_size_and_date_is_noticed(photos: Path, change: object) -> None:
    """Nobody sets back when a file was last changed."""
    read(photos)
    file = photos / "b.png"
    about = file.stat()
    change(file)  # type: ignore[operator]
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (about.st_size, about.st_mtime_ns)
    found, reads = read(photos)
    assert (listed(found), reads) == (expected(photos), 1)


def test_each_part_of_a_state_counts() -> None:
    """Size, both times in nanoseconds, inode and path; nothing else."""

    def state(path: str = "a", **changed: int) -> int:
        parts = {"size": 1, "mtime": 2, "ctime": 3, "inode": 4, "links": 5, **changed}
        about = (0, parts["inode"], 0, parts["links"], 0, 0, parts["size"], 0, 0, 0)
        times = {"st_mtime_ns": parts["mtime"], "st_ctime_ns": parts["ctime"]}
        return file_digests.state_of(path, os.stat_result(about, times))

    others = [state(**{key: 9}) for key in ("size", "mtime", "ctime", "inode")]
    assert len({state(), state("b"), *others, state(size=12, mtime=2), state(size=1, mtime=22)}) == 8
    assert state(links=9) == state() < 2**64
    assert state() == int.from_bytes(hashlib.sha256(b"1 2 3 4 a").digest()[:8], "little")


def test_what_changed_a_moment_ago_is_not_kept(photos: Path, cache: Path) -> None:
    """Within a tick of the file system's clock it could change once more, unnoticed."""
    assert read(photos, tick=file_digests.TICK_SECONDS)[1] == 3
    assert not cache.exists()
    for name, ago in (("a.png", 100), ("b.png", -100)):  # its date says nothing, and of the future it says less
        now = (photos / name).stat().st_mtime
        os.utime(photos / name, (now - ago, now - ago))
    assert read(photos, tick=file_digests.TICK_SECONDS)[1] == 3
    assert [read(photos, tick=-1.0)[1] for _ in range(2)] == [3, 1]  # that of the future is read each time


@pytest.mark.parametrize("damage", [b"", b"svdistill digests 1\n", None])
def test_a_damaged_cache_is_as_none(photos: Path, cache: Path, damage: bytes | None) -> None:
    """Wherever it was hit: files are read again, and it is whole again."""
    read(photos)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 9)]
    for content in flipped if damage is None else [damage, whole[:-1], whole + b"\0"]:
        file.write_bytes(content)
        found, reads = read(photos)
        assert (listed(found), reads) == (expected(photos), 3)
        assert read(photos)[1] == 0


def test_a_cache_of_half_an_entry(photos: Path, cache: Path) -> None:
    """Not even its own checksum makes it one."""
    read(photos)
    (file,) = cache.iterdir()
    body = b"\0" * 25
    file.write_bytes(b"svdistill digests 1\n" + hashlib.sha256(body).digest() + body)
    assert read(photos)[1] == 3


def in_the_way(cache: Path) -> None:
    """A file where a folder should be."""
    cache.parent.parent.mkdir()
    cache.parent.write_text("")


def a_folder(cache: Path) -> None:
    """A folder where the file should be."""
    cache.joinpath("taken").mkdir(parents=True)


@pytest.mark.parametrize("obstacle", [in_the_way, a_folder])
def test_a_cache_that_cannot_be_written(photos: Path, cache: Path, obstacle: object) -> None:
    """Every start reads the files."""
    obstacle(cache)  # type: ignore[operator]
    if obstacle is a_folder:
        name = hashlib.sha256(str(photos).encode()).hexdigest()[:16]
        (cache / "taken").rename(cache / f"{name}.bin")
        (cache / f"{name}.bin" / "inside").touch()
    for _ in range(2):
        found, reads = read(photos)
        assert (listed(found), reads) == (expected(photos), 3)


def test_a_pipe_in_place_of_the_cache(photos: Path, cache: Path) -> None:
    """Nobody waits for what never comes, and a cache takes its place."""
    read(photos)
    (file,) = cache.iterdir()
    file.unlink()
    os.mkfifo(file)
    assert [read(photos)[1] for _ in range(2)] == [3, 0]


def test_no_home(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of whom the system knows no home has no cache."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    with pytest.raises(RuntimeError):
        Path.home()
    found, reads = read(photos)
    assert (listed(found), reads) == (expected(photos), 3)


def test_a_cache_has_a_largest_size(photos: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Beyond it the older entries go, and what is longer is not read."""
    read(photos)
    monkeypatch.setattr(file_digests, "_MOST_ENTRIES", 3)
    assert read(photos)[1] == 0
    (photos / "d.png").write_bytes(b"d")
    more = (*NAMES, "d.png")
    assert read(photos, names=more)[1] == 1
    (file,) = cache.iterdir()
    assert file.stat().st_size == len(b"svdistill digests 1\n") + 32 + 24
    read(photos)
    monkeypatch.setattr(file_digests, "_MOST_ENTRIES", 2)
    assert read(photos)[1] == 3


def test_folders_do_not_mix(photos: Path, tmp_path: Path, cache: Path) -> None:
    """Each has a file of its own, and a copy is read for itself."""
    read(photos)
    photos.rename(tmp_path / "elsewhere")
    assert read(tmp_path / "elsewhere")[1] == 3
    assert len(list(cache.iterdir())) == 2


@pytest.fixture
def unreadable(photos: Path) -> Path:
    """A folder with a pipe that nobody writes to, a folder that is called an image, and a link to nowhere."""
    os.mkfifo(photos / "pipe.png")
    (photos / "folder.png").mkdir()
    (photos / "link.png").symlink_to("nowhere")
    return photos


def test_what_cannot_be_read(unreadable: Path) -> None:
    """It has zeros, and nobody waits for it."""
    names = ("a.png", "pipe.png", "folder.png", "link.png", "nul\0.png", "gone.png")
    for left in (1, 0):
        found, reads = read(unreadable, names=names)
        assert listed(found) == [*expected(unreadable, ("a.png",)), *5 * [bytes(16)]]
        assert reads == left


def test_a_file_that_fails_while_it_is_read(photos: Path) -> None:
    """Its zeros are not kept."""

    class Failing(Files):
        def read(self, position: int) -> bytes:
            raise OSError("the network is gone")

    assert not digests(Failing(photos, NAMES), torch.arange(3), tick=-1.0).any()
    assert read(photos)[1] == 3


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """A file of any name."""
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(b"coffee")
    found, _ = read(tmp_path, names=(name,))
    assert listed(found) == [hashlib.sha256(b"coffee").digest()[:16]]
    assert read(tmp_path, names=(name,))[1] == 0


def test_an_archive(photos: Path, tmp_path: Path) -> None:
    """The same images have the same digests in it as unpacked; all are read again when it has changed."""
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in NAMES:
            file.write(photos / name, name)
    assert listed(read(archive)[0]) == expected(photos)
    assert read(archive)[1] == 0
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("d.png", b"d")
    assert read(archive)[1] == 3
