"""Tests of Fashion-MNIST, on small files of the same format; one reads the real ones where they are."""

import gzip
import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from svdistill.data import channel_statistics, describe, fashion_mnist, fetch, load
from svdistill.data.download import Remote
from svdistill.errors import DataError


def write(folder: Path, part: str, *, number: int = 20, size: int = 28, labels: list[int] | None = None) -> None:
    """Write one part of a small data set; each image is filled with its number."""
    labels = [i % 10 for i in range(number)] if labels is None else labels
    pixels = b"".join(bytes([i]) * size * size for i in range(number))
    images = struct.pack(">4I", 0x803, number, size, size) + pixels
    (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    content = struct.pack(">2I", 0x801, len(labels)) + bytes(labels)
    (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with four small files."""
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder, "train", number=30)
    write(folder, "t10k", number=20)
    return folder


def test_small_files(root: Path) -> None:
    """Four files in a folder become a data set."""
    loaded = load("fashion-mnist", root=root)
    assert (loaded.name, loaded.flip_allowed) == ("fashion-mnist", True)
    assert loaded.train.images.shape == (30, 1, 28, 28)
    assert loaded.test.images.shape == (20, 1, 28, 28)
    assert loaded.train.images[17].unique().tolist() == [17]
    assert loaded.train.labels[17] == 7
    assert loaded.train.classes[9] == "Ankle boot"
    assert torch.equal(load("fashion-mnist", root=str(root)).test.images, loaded.test.images)


def test_resized(root: Path) -> None:
    """Both parts are resized once, when loaded."""
    loaded = load("fashion-mnist", root=root, image_size=32)
    assert loaded.train.images.shape == (30, 1, 32, 32)
    assert loaded.test.images.shape == (20, 1, 32, 32)
    assert loaded.test.images[13].unique().tolist() == [13]


def test_missing_folder(tmp_path: Path) -> None:
    """A folder that is not there is named, with what should be in it."""
    with pytest.raises(DataError, match=f"no data folder {tmp_path / 'none'}; .*t10k-labels-idx1-ubyte.gz"):
        load("fashion-mnist", root=tmp_path / "none")


def test_folder_that_lacks_files(root: Path) -> None:
    """The files that are missing are named, and no others."""
    (root / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match=f"{root} lacks t10k-images-idx3-ubyte.gz; put them there"):
        load("fashion-mnist", root=root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0] * 19}, "20 images came with 19 labels"),
        ({"labels": [0] * 19 + [10]}, "label 10 is outside the 10 classes"),
        ({"number": 0}, "empty"),
    ],
)
def test_files_that_do_not_fit_together(root: Path, change: dict[str, Any], message: str) -> None:
    """Counts that disagree, a label outside the classes and an empty set are reported with the file."""
    write(root, "t10k", **change)
    with pytest.raises(DataError, match=rf"t10k-\*\.gz: .*{message}") as caught:
        load("fashion-mnist", root=root)
    assert str(root) in str(caught.value)


def test_parts_of_unequal_size(root: Path) -> None:
    """Training and test images of different sizes are refused."""
    write(root, "t10k", size=14)
    with pytest.raises(DataError, match=r"\(28, 28\) pixels and test images of \(14, 14\)"):
        load("fashion-mnist", root=root)


def test_truncated_file(root: Path) -> None:
    """A file that is cut off is named."""
    path = root / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=f"{path} is cut off or damaged"):
        load("fashion-mnist", root=root)


def test_package_folder_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder, the Debian package's files are read where they are."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN", root)
    assert len(load("fashion-mnist").train) == 30


@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
def test_real_files() -> None:
    """The real data set has its known sizes, classes and statistics, and the first image is an ankle boot."""
    loaded = load("fashion-mnist", root=fashion_mnist.DEBIAN)
    assert loaded.train.images.shape == (60_000, 1, 28, 28)
    assert loaded.test.images.shape == (10_000, 1, 28, 28)
    assert loaded.train.labels.bincount().tolist() == [6000] * 10
    assert loaded.test.labels.bincount().tolist() == [1000] * 10
    mean, std = channel_statistics(loaded.train.images)
    assert mean.item() == pytest.approx(0.2860, abs=5e-5)
    assert std.item() == pytest.approx(0.3530, abs=5e-5)
    assert loaded.train.classes[int(loaded.train.labels[0])] == "Ankle boot"


@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
@pytest.mark.parametrize(("name", "time"), [("train", 1504176606), ("t10k", 1504176627)])
def test_pinned_hashes_are_of_the_same_data(name: str, time: int) -> None:
    """The package's label files, given back the file name and time in their heads, have the hashes of the downloads."""
    file = f"{name}-labels-idx1-ubyte"
    content = (fashion_mnist.DEBIAN / f"{file}.gz").read_bytes()
    # gzip: magic 1f 8b, deflate 08, flag 08 = a name follows, time, two bytes, the name, the stream.
    published = b"\x1f\x8b\x08\x08" + struct.pack("<I", time) + content[8:10] + file.encode() + b"\0" + content[10:]
    assert fashion_mnist.FILES[f"{file}.gz"].digest == "sha256:" + hashlib.sha256(published).hexdigest()


@pytest.fixture
def remote(root: Path, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server that has the small files, for a user without the Debian package."""
    server.files.update({path.name: path.read_bytes() for path in root.iterdir()})
    files = {
        name: Remote(server.url + name, len(content), "sha256:" + hashlib.sha256(content).hexdigest())
        for name, content in server.files.items()
    }
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "none")
    monkeypatch.setattr(fashion_mnist, "FILES", files)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return server


def test_download(remote: Any) -> None:
    """Where nothing is there, the files are downloaded into the user's cache once, checked, and read."""
    assert describe("fashion-mnist").found is None
    assert len(load("fashion-mnist").train) == 30
    assert len(remote.asked) == 4
    assert describe("fashion-mnist").found == describe("fashion-mnist").folder
    assert len(load("fashion-mnist").train) == 30
    assert len(remote.asked) == 4


def test_download_of_something_else(remote: Any, tmp_path: Path) -> None:
    """A file whose hash differs is refused and not kept; the message says what to put where."""
    name = "train-labels-idx1-ubyte.gz"
    remote.files[name] = bytes(len(remote.files[name]))
    with pytest.raises(DataError, match=r"Fashion-MNIST could not be downloaded.*hash") as caught:
        load("fashion-mnist")
    folder = tmp_path / "cache" / "svdistill" / "fashion-mnist"
    assert not (folder / name).exists()
    assert all(words in str(caught.value) for words in (str(folder), *fashion_mnist.FILES))
    assert "\n" not in str(caught.value)


def test_fetch(remote: Any, tmp_path: Path) -> None:
    """Fetching puts the files where one says, and checks what it finds there."""
    assert fetch("fashion-mnist", folder=tmp_path / "mine") == tmp_path / "mine"
    assert len(load("fashion-mnist", root=tmp_path / "mine").test) == 20
    assert fetch("fashion-mnist", folder=str(tmp_path / "mine")) == tmp_path / "mine"
    assert len(remote.asked) == 4
    (tmp_path / "mine" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz has 14 bytes, expected .*; remove it"):
        fetch("fashion-mnist", folder=tmp_path / "mine")


def test_nothing_is_fetched_twice(root: Path, remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has the files, fetching leads there, unless another folder is named."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN", root)
    assert fetch("fashion-mnist") == root
    assert not remote.asked
