"""Tests of CIFAR-10 and CIFAR-100, on small archives of the very same formats."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from svdistill.data import describe, fetch, load
from svdistill.data.cifar import CIFAR10, CIFAR100, Cifar
from svdistill.data.download import Remote
from svdistill.errors import DataError

KINDS = {"cifar10": CIFAR10, "cifar100": CIFAR100}


class Python2(pickle._Pickler):
    """Writes pickles as Python 2 and the NumPy of its time did: byte strings, and NumPy's old module names."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_string(self, value: bytes) -> None:
        """Write a byte string: a short one or a long one."""
        short = len(value) < 256
        self.write((b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))) + value)
        self.memoize(value)

    dispatch[bytes] = save_string

    def save_text(self, value: str) -> None:
        """Write a text of ASCII as the byte string that it was."""
        self.save_string(value.encode())

    dispatch[str] = save_text


def python2(value: Any) -> bytes:
    """Return a pickle as in the official archives."""
    buffer = io.BytesIO()
    Python2(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def pictures(number: int, seed: int) -> np.ndarray:
    """Random images as rows of 3,072 bytes: red, green, blue, each row by row."""
    return np.random.default_rng(seed).integers(0, 256, (number, 3072), dtype=np.uint8)


def parts(kind: Cifar) -> list[tuple[np.ndarray, list[int]]]:
    """The images and labels of each file, training files first."""
    number = kind.classes
    return [
        (pictures(number, seed), [(7 * i + seed) % kind.classes for i in range(number)])
        for seed in range(len(kind.binary.train) + 1)
    ]


def binary(kind: Cifar) -> dict[str, bytes]:
    """The files of a binary version."""
    files = {}
    for name, (images, labels) in zip((*kind.binary.train, kind.binary.test), parts(kind), strict=True):
        heads = [bytes([label]) if kind is CIFAR10 else bytes([label // 5, label]) for label in labels]
        files[name] = b"".join(head + image.tobytes() for head, image in zip(heads, images, strict=True))
    files[kind.binary.names] = "".join(f"class {i}\n" for i in range(kind.classes)).encode() + b"\n"
    files["readme.html"] = b"<html>"
    return files


def python(kind: Cifar) -> dict[str, bytes]:
    """The files of a Python version."""
    files = {}
    for name, (images, labels) in zip((*kind.python.train, kind.python.test), parts(kind), strict=True):
        content = {"data": images, kind.labels: labels, "batch_label": "one", "filenames": ["a.png"] * len(labels)}
        if kind is CIFAR100:
            content["coarse_labels"] = [label // 5 for label in labels]
        files[name] = python2(content)
    classes = [f"class {i}" for i in range(kind.classes)]
    files[kind.python.names] = python2({"num_cases_per_batch": 10_000, kind.names: classes, "num_vis": 3072})
    files["readme.html"] = b"<html>"
    return files


def pack(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    """Write a .tar.gz with a folder."""
    with tarfile.open(path, "w:gz") as archive:
        head = tarfile.TarInfo(folder)
        head.type = tarfile.DIRTYPE
        archive.addfile(head)
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def unpack(path: Path, files: dict[str, bytes]) -> Path:
    """Write the files into a folder."""
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def roots(kind: Cifar, made: str, tmp_path: Path) -> Path:
    """Make a version in one of the ways in which users have it, and return what they would name."""
    version = kind.binary if made.startswith("binary") else kind.python
    files = binary(kind) if made.startswith("binary") else python(kind)
    match made.split()[1]:
        case "archive":
            return pack(tmp_path / version.archive, version.folder, files)
        case "renamed":
            return pack(tmp_path / "other.tgz", version.folder, files)
        case "around":
            pack(tmp_path / version.archive, version.folder, files)
            return tmp_path
        case "unpacked":
            return unpack(tmp_path / version.folder, files)
        case _:
            unpack(tmp_path / version.folder, files)
            return tmp_path


WAYS = [f"{version} {way}" for version in ("binary", "python") for way in ("archive", "around", "unpacked", "outside")]


@pytest.mark.parametrize("made", [*WAYS, "python renamed"])
@pytest.mark.parametrize("name", KINDS)
def test_every_way_gives_the_same(name: str, made: str, tmp_path: Path) -> None:
    """Both versions, packed and unpacked, named or found, become the images and labels that were put in."""
    kind = KINDS[name]
    loaded = load(name, root=roots(kind, made, tmp_path))
    assert (loaded.name, loaded.flip_allowed) == (name, True)
    *train, test = parts(kind)
    for part, expected in ((loaded.train, train), (loaded.test, [test])):
        images = np.concatenate([images for images, _ in expected]).reshape(-1, 3, 32, 32)
        assert torch.equal(next(part.batches([torch.arange(len(part))])), torch.from_numpy(images))
        assert part.labels.tolist() == [label for _, labels in expected for label in labels]
        assert part.classes == tuple(f"class {i}" for i in range(kind.classes))


def test_layout_of_an_image(tmp_path: Path) -> None:
    """Red, green and blue planes come one after the other, each row by row; of CIFAR-100 the fine label counts."""
    files = binary(CIFAR100)
    files["train.bin"] = bytes([3, 42]) + bytes(range(32)) + bytes(992) + bytes(1024) + bytes([9]) * 1024
    loaded = load("cifar100", root=unpack(tmp_path / "data", files)).train
    image = next(loaded.batches([torch.tensor([0])]))[0]
    assert loaded.labels.tolist() == [42]
    assert image[0, 0].tolist() == list(range(32))
    assert [int(plane.max()) for plane in image] == [31, 0, 9]


def test_python_3_pickles(tmp_path: Path) -> None:
    """A folder that someone wrote anew with today's Python is read too."""
    files = python(CIFAR10)
    for name, (images, labels) in zip((*CIFAR10.python.train, CIFAR10.python.test), parts(CIFAR10), strict=True):
        files[name] = pickle.dumps({"data": images, "labels": labels})
    assert len(load("cifar10", root=unpack(tmp_path / "data", files)).train) == 50


def test_options(tmp_path: Path) -> None:
    """Classes, size and channels are cut when loaded."""
    root = unpack(tmp_path / "data", binary(CIFAR10))
    loaded = load("cifar10", root=root, image_size=16, channels=1, classes=["class 3", "class 8"])
    assert loaded.train.shape == (1, 16, 16)
    assert set(loaded.train.labels.tolist()) == {0, 1}
    assert len(loaded.train) == 10


def spoil(name: str, change: Callable[[bytes], bytes]) -> Callable[[Cifar, Path], Path]:
    """A folder with one spoilt file."""

    def make(kind: Cifar, tmp_path: Path) -> Path:
        files = binary(kind) if name in binary(kind) else python(kind)
        return unpack(tmp_path / "data", files | {name: change(files[name])})

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (spoil("data_batch_3.bin", lambda content: content[:-1]), r"data_batch_3.bin has 30729 bytes.* 3073; get"),
        (spoil("data_batch_3.bin", lambda _: b""), "data_batch_3.bin has 0 bytes"),
        (spoil("test_batch.bin", lambda content: b"\x0b" + content[1:]), "label 11 is outside the 10 classes"),
        (spoil("batches.meta.txt", lambda _: b"cat\ndog\n"), "batches.meta.txt names 2 classes, expected 10"),
        (spoil("data_batch_2", lambda content: content[:-5]), "data_batch_2 is not a readable pickle"),
        (spoil("data_batch_2", lambda _: python2({"labels": [1]})), "data_batch_2 has no list 'data'"),
        (
            spoil("data_batch_2", lambda _: python2({"data": pictures(2, 0), "labels": [1]})),
            "data_batch_2 has no 2 labels",
        ),
        (
            spoil("data_batch_2", lambda _: python2({"data": pictures(1, 0), "labels": [10**30]})),
            "data_batch_2 has no 1 labels, 0 to 255",
        ),
        (
            spoil("data_batch_2", lambda _: python2({"data": pictures(1, 0)[:, :100].copy(), "labels": [1]})),
            "no images of 3072 bytes",
        ),
        (spoil("batches.meta", lambda _: python2({"names": []})), "batches.meta has no list 'label_names'"),
        (spoil("test_batch", lambda _: b"cos\nsystem\n(S'true'\ntR."), "test_batch names os.system"),
    ],
)
def test_damaged_files(make: Callable[[Cifar, Path], Path], message: str, tmp_path: Path) -> None:
    """Each damage is one line that names the file."""
    with pytest.raises(DataError, match=message) as caught:
        load("cifar10", root=make(CIFAR10, tmp_path))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_cut_off_archive(tmp_path: Path) -> None:
    """An archive that is cut off anywhere, or no archive, is named."""
    path = pack(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", binary(CIFAR10))
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 2000):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cifar-10-binary.tar.gz is (cut off or damaged|not an archive of CIFAR)"):
            load("cifar10", root=path)
    path.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(DataError, match="is not a complete tar archive"):
        load("cifar10", root=tmp_path)


def test_damaged_archive(tmp_path: Path) -> None:
    """A flipped bit in the packed data never gets through."""
    path = pack(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", binary(CIFAR10))
    whole = path.read_bytes()
    for place in range(40, len(whole), len(whole) // 13):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"cifar-10-binary.tar.gz is (no|cut off|damaged)"):
            load("cifar10", root=path)


def test_archive_that_was_unzipped(tmp_path: Path) -> None:
    """Some programs take the .gz off and leave a tar archive."""
    path = pack(tmp_path / "a.tar.gz", "cifar-10-batches-bin", binary(CIFAR10))
    (tmp_path / "a.tar").write_bytes(gzip.decompress(path.read_bytes()))
    assert len(load("cifar10", root=tmp_path / "a.tar").test) == 10


def test_foreign_archive(tmp_path: Path) -> None:
    """The archive of the other data set is refused, with what is missing."""
    path = pack(tmp_path / "cifar-10-binary.tar.gz", "cifar-100-binary", binary(CIFAR100))
    with pytest.raises(DataError, match=r"is not an archive of CIFAR-10: it lacks data_batch_1.*; name cifar-10"):
        load("cifar10", root=path)


def test_names_in_an_archive_do_no_harm(tmp_path: Path) -> None:
    """Nothing is written where an archive's names and links point to."""
    path = tmp_path / "deep" / "cifar-10-binary.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name, content in binary(CIFAR10).items():
            member = tarfile.TarInfo(f"../../{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert len(load("cifar10", root=path).test) == 10
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["cifar-10-binary.tar.gz", "deep"]


def test_missing(tmp_path: Path) -> None:
    """A folder that is missing, or does not hold the data, is named with what should be in it."""
    with pytest.raises(DataError, match=r"no data folder .*none; name one that holds cifar-10-binary.tar.gz"):
        load("cifar10", root=tmp_path / "none")
    unpack(tmp_path / "cifar-100-binary", {"train.bin": b""})
    with pytest.raises(DataError, match=r"does not hold CIFAR-100; put cifar-100-binary.tar.gz, cifar-100-python"):
        load("cifar100", root=tmp_path)


@pytest.mark.parametrize("name", KINDS)
def test_download(name: str, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The binary archive is downloaded into the cache once and found there; offline, the message says where."""
    kind = KINDS[name]
    content = pack(tmp_path / "a.tar.gz", kind.binary.folder, binary(kind)).read_bytes()
    remote = Remote(server.url + kind.binary.archive, len(content), "sha256:" + hashlib.sha256(content).hexdigest())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    changed = Cifar(**{**kind.__dict__, "remote": remote})
    monkeypatch.setattr(f"svdistill.data.catalogue.{name.upper()}", changed)
    with pytest.raises(DataError) as caught:
        load(name)
    folder = tmp_path / "cache" / "svdistill" / name
    assert all(words in str(caught.value) for words in ("404", f"put {kind.binary.archive} in {folder}"))
    server.files[kind.binary.archive] = content
    assert len(load(name).test) == kind.classes
    asked = len(server.asked)
    assert len(load(name).test) == kind.classes
    assert describe(name).found == folder / kind.binary.archive
    assert fetch(name) == folder
    assert len(server.asked) == asked
