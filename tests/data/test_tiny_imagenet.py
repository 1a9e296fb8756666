"""Tests of Tiny-ImageNet-200, on small folders and archives of the very same layout."""

import hashlib
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.pictures import encoded

from svdistill.data import Dataset, FileSet, describe, fetch, load
from svdistill.data.download import Remote
from svdistill.data.tiny_imagenet import load_tiny_imagenet
from svdistill.errors import DataError, OptionError

# Not in alphabetical order, as in the real file.
IDS = ("n02124075", "n04067472", "n01443537")


def tiny(root: Path, *, train: int = 4, validation: int = 2, size: int = 64) -> Path:
    """Write a folder like the official one; the grey of an image is 60 × its class + its number."""
    base = root / "tiny-imagenet-200"
    lines = []
    for place, name in enumerate(IDS):
        folder = base / "train" / name / "images"
        folder.mkdir(parents=True)
        for i in range(train):
            picture(folder / f"{name}_{i}.JPEG", 60 * place + i, size)
        boxes = "".join(f"{name}_{i}.JPEG\t0\t0\t62\t62\n" for i in range(train))
        (base / "train" / name / f"{name}_boxes.txt").write_text(boxes)
    for part in ("val", "test"):
        (base / part / "images").mkdir(parents=True)
    for i in range(validation * len(IDS)):
        place = (2 * i) % len(IDS)  # the validation images are mixed
        picture(base / "val" / "images" / f"val_{i}.JPEG", 60 * place + i, size)
        lines.append(f"val_{i}.JPEG\t{IDS[place]}\t0\t32\t44\t62\n")
        picture(base / "test" / "images" / f"test_{i}.JPEG", 255, size)
    (base / "val" / "val_annotations.txt").write_text("".join(lines))
    (base / "wnids.txt").write_text("".join(f"{name}\n" for name in IDS))
    (base / "words.txt").write_text("n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\n")
    return base


def picture(path: Path, grey: int, size: int) -> None:
    """Write an image of one grey; a JPEG keeps that exactly."""
    path.write_bytes(encoded(np.full((size, size, 3), grey, dtype=np.uint8), "JPEG"))


def zipped(base: Path, path: Path) -> Path:
    """Pack a folder as the official archive is."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(base.rglob("*")):
            archive.write(file, file.relative_to(base.parent))
    return path


def check(loaded: Dataset, *, size: int = 64) -> None:
    """The small data set, as it should be."""
    assert (loaded.name, loaded.flip_allowed) == ("tiny-imagenet", True)
    assert loaded.train.classes == loaded.test.classes == IDS
    assert loaded.train.shape == loaded.test.shape == (3, size, size)
    for part, number in ((loaded.train, 12), (loaded.test, 6)):
        images = next(part.batches([torch.arange(len(part))]))
        assert len(images) == number
        assert (images[:, :, 0, 0] // 60 == part.labels[:, None]).all()
        assert (images == images[:, :, :1, :1]).all()
        assert part.labels.bincount().tolist() == [number // 3] * 3


def test_folder(tmp_path: Path) -> None:
    """The unpacked folder, named itself or by the folder around it."""
    base = tiny(tmp_path)
    check(load("tiny-imagenet", root=base))
    check(load("tiny-imagenet", root=tmp_path))


def test_archive(tmp_path: Path) -> None:
    """The archive, named itself or by the folder that holds it, is read without being unpacked."""
    base = tiny(tmp_path / "made")
    path = zipped(base, tmp_path / "tiny-imagenet-200.zip")
    shutil.rmtree(tmp_path / "made")
    check(load("tiny-imagenet", root=path))
    check(load("tiny-imagenet", root=str(tmp_path)))
    assert list(tmp_path.iterdir()) == [path]


def test_archive_read_by_workers(tmp_path: Path) -> None:
    """Several processes read one archive without disturbing each other."""
    path = zipped(tiny(tmp_path, train=40, size=16), tmp_path / "a.zip")
    loaded = load_tiny_imagenet(path, image_size=16, in_memory=0)
    assert isinstance(loaded.train, FileSet)
    # One image is read here first, so that the workers inherit an open archive.
    next(loaded.train.batches([torch.tensor([0])]))
    images = torch.cat(list(loaded.train.batches(torch.arange(120).split(7))))
    assert (images[:, 0, 0, 0] // 60 == loaded.train.labels).all()
    assert len(set(images[:, 0, 0, 0].tolist())) == 120


def test_sorted_validation_images(tmp_path: Path) -> None:
    """A val folder that was sorted into classes, as many scripts do it, is understood."""
    base = tiny(tmp_path)
    for line in (base / "val" / "val_annotations.txt").read_text().splitlines():
        name, label = line.split()[:2]
        (base / "val" / label / "images").mkdir(parents=True, exist_ok=True)
        (base / "val" / "images" / name).rename(base / "val" / label / "images" / name)
    (base / "val" / "images").rmdir()
    (base / "val" / "val_annotations.txt").unlink()
    check(load("tiny-imagenet", root=base))


def test_options(tmp_path: Path) -> None:
    """Size, channels and classes."""
    base = tiny(tmp_path)
    check(load("tiny-imagenet", root=base, image_size=32), size=32)
    assert load("tiny-imagenet", root=base, channels=1).test.shape == (1, 64, 64)
    some = load("tiny-imagenet", root=base, classes=[IDS[2], IDS[0]])
    assert some.train.classes == (IDS[2], IDS[0])
    assert some.train.labels.bincount().tolist() == [4, 4]
    assert some.test.labels.bincount().tolist() == [2, 2]
    with pytest.raises(OptionError, match="no class is called 'n02124076'; did you mean 'n02124075'"):
        load("tiny-imagenet", root=base, classes=["n02124076"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("val/val_annotations.txt", None, "val_annotations.txt cannot be read"),
        ("val/val_annotations.txt", "", "val has no image of class 'n02124075'"),
        ("val/val_annotations.txt", "val_0.JPEG\tn09999999\n", "class 'n09999999' that is not in wnids.txt"),
        ("wnids.txt", "", "names no class in wnids.txt"),
        ("wnids.txt", "n02124075\nn04067472\n", "class 'n01443537' that is not in wnids.txt"),
        ("wnids.txt", "\n".join((*IDS, "n05555555")), "train has no image of class 'n05555555'"),
    ],
)
@pytest.mark.parametrize("archive", [False, True])
def test_damaged(tmp_path: Path, name: str, content: str | None, message: str, archive: bool) -> None:
    """A list that is missing, empty or does not fit is named."""
    base = tiny(tmp_path)
    if content is None:
        (base / name).unlink()
    else:
        (base / name).write_text(content)
    root = zipped(base, tmp_path / "a.zip") if archive else base
    with pytest.raises(DataError, match=message) as caught:
        load("tiny-imagenet", root=root)
    assert "\n" not in str(caught.value)


def test_damaged_archives(tmp_path: Path) -> None:
    """A cut-off archive, another one, and no archive."""
    path = zipped(tiny(tmp_path / "made"), tmp_path / "a.zip")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match="is not a complete zip archive"):
        load("tiny-imagenet", root=path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other/readme.txt", "something else")
    with pytest.raises(DataError, match=r"is not an archive of Tiny-ImageNet: it lacks wnids.txt"):
        load("tiny-imagenet", root=path)


def test_missing(tmp_path: Path) -> None:
    """A folder that is missing or holds something else is named with what should be in it."""
    with pytest.raises(DataError, match=r"no data folder .*; name one that holds tiny-imagenet-200.zip or"):
        load("tiny-imagenet", root=tmp_path / "none")
    with pytest.raises(DataError, match=r"does not hold Tiny-ImageNet; put tiny-imagenet-200.zip or the folder"):
        load("tiny-imagenet", root=tmp_path)


def test_download(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive is downloaded into the cache, checked, found there, and read."""
    content = zipped(tiny(tmp_path), tmp_path / "a.zip").read_bytes()
    remote = Remote(server.url + "tiny-imagenet-200.zip", len(content), "sha256:" + hashlib.sha256(content).hexdigest())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("svdistill.data.tiny_imagenet.REMOTE", remote)
    monkeypatch.setattr("svdistill.data.catalogue.REMOTE", remote)
    with pytest.raises(DataError, match=r"Tiny-ImageNet could not be downloaded.*or put tiny-imagenet-200.zip in"):
        load("tiny-imagenet")
    server.files["tiny-imagenet-200.zip"] = content
    check(load("tiny-imagenet"))
    folder = tmp_path / "cache" / "svdistill" / "tiny-imagenet"
    assert describe("tiny-imagenet").found == folder / "tiny-imagenet-200.zip"
    assert fetch("tiny-imagenet") == folder
