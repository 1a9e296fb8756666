"""Tests of downloads, from a server on this machine that misbehaves in every known way."""

import hashlib
import threading
from pathlib import Path

import pytest

from svdistill.data import cache_folder, download
from svdistill.data.download import Remote, check_file, download_all
from svdistill.errors import DataError

CONTENT = bytes(range(256)) * 400
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def fetch(server, tmp_path):
    """Return a function that downloads the content, or whatever the server has for it."""
    server.files["file.bin"] = CONTENT

    def fetch(*, size: int = len(CONTENT), digest: str = DIGEST) -> Path:
        path = tmp_path / "deep" / "file.bin"
        download(server.url + "file.bin", path, size=size, digest=digest)
        return path

    return fetch


def part(tmp_path: Path) -> Path:
    """Where the beginning of the file is kept."""
    return tmp_path / "deep" / "file.bin.part"


def test_download(fetch, server, tmp_path):
    """The file comes, whole, into a folder that is made for it, and is not asked for again."""
    assert fetch().read_bytes() == CONTENT
    assert not part(tmp_path).exists()
    fetch()
    assert server.asked == [None]


def test_other_hashes(fetch):
    """MD5, which older data sets publish, is understood too."""
    assert fetch(digest="md5:" + hashlib.md5(CONTENT).hexdigest()).read_bytes() == CONTENT


@pytest.mark.parametrize("sizes", [True, False])
def test_a_broken_connection_is_taken_up_again(fetch, server, sizes):
    """Each further connection asks for the rest, and for no more."""
    server.sizes = sizes
    server.cuts = [1000, 50_000]
    assert fetch().read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=51000-"]


def test_an_interrupted_download_continues(fetch, server, tmp_path):
    """What came before a failure is kept, told, and used by the next call."""
    server.cuts = [3000, 0]
    with pytest.raises(DataError, match=rf"failed \(.*\), 3,000 of {len(CONTENT):,} bytes are kept; try again"):
        fetch()
    assert part(tmp_path).read_bytes() == CONTENT[:3000]
    server.asked.clear()
    assert fetch().read_bytes() == CONTENT
    assert server.asked == ["bytes=3000-"]


def test_a_server_without_ranges(fetch, server):
    """Such a server sends the whole again, which replaces the part."""
    server.cuts = [3000]
    server.ranges = False
    assert fetch().read_bytes() == CONTENT
    assert server.asked == [None, "bytes=3000-"]


def test_a_server_without_ranges_nor_luck(fetch, server):
    """If it never comes to its end, that is an error and not an endless loop."""
    server.ranges = False
    server.cuts = [3000] * 100
    with pytest.raises(DataError, match="failed"):
        fetch()
    assert len(server.cuts) > 80


def test_a_part_that_does_not_belong(fetch, server, tmp_path):
    """A part of an older version is noticed by the hash, thrown away, and the whole is fetched once more."""
    part(tmp_path).parent.mkdir()
    part(tmp_path).write_bytes(b"old" * 500)
    assert fetch().read_bytes() == CONTENT
    assert server.asked == ["bytes=1500-", None]


@pytest.mark.parametrize("excess", [0, 7])
def test_a_part_that_is_complete_or_too_long(fetch, server, tmp_path, excess):
    """A complete part needs no connection; one that is too long is dropped."""
    part(tmp_path).parent.mkdir()
    part(tmp_path).write_bytes(CONTENT + b"x" * excess)
    assert fetch().read_bytes() == CONTENT
    assert server.asked == ([None] if excess else [])


def test_a_file_that_became_shorter(fetch, server, tmp_path):
    """A server that has nothing after the part is asked for the whole, which then has the wrong size."""
    server.files["file.bin"] = CONTENT[:100]
    part(tmp_path).parent.mkdir()
    part(tmp_path).write_bytes(CONTENT[:200])
    with pytest.raises(DataError, match=rf"has 100 bytes, expected {len(CONTENT):,}"):
        fetch()
    assert server.asked == ["bytes=200-", None]


def test_wrong_hash(fetch, tmp_path):
    """Another file is refused, with both hashes, and nothing of it is kept."""
    with pytest.raises(DataError, match=rf"hash {DIGEST}, expected sha256:0+; it was not kept"):
        fetch(digest="sha256:" + "0" * 64)
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize("sizes", [True, False])
@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_size(fetch, server, change, sizes):
    """A file of another size is refused, before it is fetched where the server tells."""
    server.sizes = sizes
    with pytest.raises(DataError, match=r"bytes|failed"):
        fetch(size=len(CONTENT) + change)


def test_a_page_that_is_not_there(fetch, server, tmp_path):
    """An error page is not taken for data."""
    server.files.clear()
    with pytest.raises(DataError, match="404"):
        fetch()
    assert list((tmp_path / "deep").iterdir()) == []


def test_no_server(tmp_path, monkeypatch):
    """Without a network the reason is told in one line."""
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/a failed \(URLError") as caught:
        download("http://127.0.0.1:9/a", tmp_path / "a", size=1, digest=DIGEST)
    assert "\n" not in str(caught.value)


def test_no_address(tmp_path):
    """What is not an address is not asked for."""
    with pytest.raises(DataError, match="'nowhere' is not an address"):
        download("nowhere", tmp_path / "a", size=1, digest=DIGEST)


def test_folder_that_cannot_be_made(fetch, tmp_path):
    """A file in the way of the folder is one line."""
    (tmp_path / "deep").write_text("in the way")
    with pytest.raises(DataError, match="cannot write"):
        fetch()


def test_no_room(fetch, monkeypatch):
    """A disk that is too small is noticed before the download."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match=r"cannot write .* are needed and 10 are free"):
        fetch()


def test_two_at_once(fetch, server):
    """Of two that download the same file at the same time, one does and the other waits for it."""
    failures = []

    def run() -> None:
        try:
            fetch()
        except DataError as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert server.asked == [None]


def test_only_what_is_missing(server, tmp_path):
    """Files that are there already are left alone; if one cannot be had, the message says what to put where."""
    server.files.update({"a": b"A", "b": b"B"})
    remotes = {
        name: Remote(server.url + name, 1, "sha256:" + hashlib.sha256(name.upper().encode()).hexdigest())
        for name in "abc"
    }
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(DataError) as caught:
        download_all("Letters", remotes, tmp_path)
    assert (tmp_path / "a").read_bytes() == b"mine"
    assert (tmp_path / "b").read_bytes() == b"B"
    message = str(caught.value)
    assert "\n" not in message
    assert all(words in message for words in ("Letters could not be downloaded", "404", f"put a, b, c in {tmp_path}"))


def test_check_file(tmp_path):
    """A file that is there can be checked by size and hash."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    check_file(path, size=len(CONTENT), digest=DIGEST)
    with pytest.raises(DataError, match=r"has 102,400 bytes, expected 5; remove it"):
        check_file(path, size=5, digest=DIGEST)
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DataError, match=r"has hash sha256:.*, expected"):
        check_file(path, size=len(CONTENT), digest=DIGEST)


def test_cache_folder(monkeypatch):
    """The user's cache is where the system says."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder("digits") == Path("/somewhere/svdistill/digits")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder("digits").is_relative_to(Path.home())


def test_name_of_a_remote_file():
    """The last part of its address."""
    assert Remote("https://host/folder/file.zip", 1, DIGEST).name == "file.zip"
