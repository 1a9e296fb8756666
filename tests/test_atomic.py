"""Files that are either there as a whole or not at all."""

import os
import subprocess
import sys

import pytest

from svdistill.atomic import clear_leftovers, digest, lock, replacing, write_atomically


def test_write_atomically_replaces_the_whole_file(tmp_path):
    """A shorter content leaves nothing of the longer one, and no other file beside it."""
    path = tmp_path / "new" / "file"
    write_atomically(path, b"a long content")
    write_atomically(path, b"short")
    assert path.read_bytes() == b"short"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    """And no temporary one."""
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def interrupted():
        with replacing(path) as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    """Whatever has been written so far is not to be seen."""
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_permissions_are_those_of_any_new_file(tmp_path):
    """What one user trains, another may read, as far as the umask allows."""
    write_atomically(tmp_path / "ours", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_lock_is_had_once(tmp_path):
    """Whoever comes second does not get it, and gets it when the first file is closed."""
    with (tmp_path / "file").open("a") as second:
        with (tmp_path / "file").open("a") as first:
            assert lock(first, wait=False)
            assert not lock(second, wait=False)
        assert lock(second, wait=True)


def test_digest(tmp_path):
    """The SHA-256 of what is in a file, as published for the text abc (FIPS 180-2, appendix B.1)."""
    (tmp_path / "file").write_bytes(b"abc")
    assert digest(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_old_file_gets_another_name(tmp_path):
    """Where it is to be kept; an error leaves both as they are."""
    file, kept = tmp_path / "a", tmp_path / "kept"
    for content in (b"1", b"2", b"3"):
        with replacing(file, keep=kept) as writing:
            writing.write(content)
    assert (file.read_bytes(), kept.read_bytes()) == (b"3", b"2")
    with pytest.raises(ZeroDivisionError), replacing(file, keep=kept) as writing:
        writing.write(bytes([1 // 0]))
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {"a": b"3", "kept": b"2"}


def test_leftovers(tmp_path):
    """Those of processes that are gone, and nothing else."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    gone, own = child.pid, os.getpid()
    stay = [
        f".a.{own}.tmp",
        ".a.1.tmp",
        f".a.{2**70}.tmp",
        f".a.{gone}x.tmp",
        f"a.{gone}.tmp",
        f".a.{gone}",
        ".a.0.tmp",
    ]
    for name in [*stay, f".a.{gone}.tmp", f".a.b.{gone}.tmp"]:
        (tmp_path / name).write_bytes(b"")
    clear_leftovers(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(stay)
    clear_leftovers(tmp_path / "missing")
