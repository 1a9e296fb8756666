"""Files that are either there as a whole or not at all."""

import pytest

from svdistill.atomic import digest, lock, replacing, write_atomically


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
