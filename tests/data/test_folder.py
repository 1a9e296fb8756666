"""Tests of trees of image files."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.pictures import encoded, tree

from svdistill.data import FileSet, ImageSet, ImageSource, hold_out, load, load_test, load_unlabelled
from svdistill.data.folder import load_image_folder, walk
from svdistill.errors import DataError, OptionError, SvdistillWarning


def greys(source: ImageSource) -> list[int]:
    """The grey of each image."""
    return [int(image[0, 0, 0]) for batch in source.batches([torch.arange(len(source))]) for image in batch]


@pytest.mark.parametrize("test_folder", ["val", "validation", "test"])
def test_tree(tmp_path: Path, test_folder: str) -> None:
    """Every image gets the class of its folder; the classes are sorted; both parts have all."""
    loaded = load("image-folder", root=tree(tmp_path, test_folder=test_folder), image_size=8)
    assert (loaded.name, loaded.flip_allowed) == ("image-folder", True)
    assert loaded.train.classes == loaded.test.classes == ("cat", "dog", "eel")
    assert loaded.train.shape == (3, 8, 8)
    assert loaded.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert greys(loaded.train) == [0, 1, 2, 3, 40, 41, 42, 43, 80, 81, 82, 83]
    assert greys(loaded.test) == [0, 1, 40, 41, 80, 81]


def test_small_trees_are_in_memory_and_large_ones_streamed(tmp_path: Path) -> None:
    """What is too large for memory is read as it is used; the images are the same."""
    root = tree(tmp_path)
    small = load_image_folder(root, image_size=8)
    large = load_image_folder(root, image_size=8, in_memory=6 * 3 * 64)
    assert isinstance(small.train, ImageSet)
    assert isinstance(large.train, FileSet)
    assert isinstance(large.test, ImageSet)
    assert greys(small.train) == greys(large.train)


def test_validation_before_test(tmp_path: Path) -> None:
    """Where there are both, the validation images are measured on: a test folder often has no labels."""
    tree(tmp_path, test_folder="test", test=3)
    shutil.rmtree(tmp_path / "train")
    tree(tmp_path)
    assert len(load("image-folder", root=tmp_path, image_size=8).test) == 6
    shutil.rmtree(tmp_path / "val")
    (tmp_path / "val").mkdir()
    assert len(load("image-folder", root=tmp_path, image_size=8).test) == 9


def test_class_list(tmp_path: Path) -> None:
    """A list selects classes and numbers them, as ImageNet-50 is cut out of ImageNet."""
    root = tree(tmp_path / "data")
    (tmp_path / "list.txt").write_text("eel\ncat\n")
    loaded = load("image-folder", root=root, image_size=8, classes=tmp_path / "list.txt")
    assert loaded.train.classes == ("eel", "cat")
    assert loaded.train.labels.tolist() == [0] * 4 + [1] * 4
    assert greys(loaded.test) == [80, 81, 0, 1]
    with pytest.raises(OptionError, match="no class is called 'eels'; did you mean 'eel'"):
        load("image-folder", root=root, image_size=8, classes=["cat", "eels"])
    with pytest.raises(OptionError, match="'cat' is named twice"):
        load("image-folder", root=root, image_size=8, classes=["cat", "cat"])


def test_grey(tmp_path: Path) -> None:
    """Images can be read as grey."""
    assert load("image-folder", root=tree(tmp_path), image_size=4, channels=1).train.shape == (1, 4, 4)


def test_what_is_no_image_is_left_out_and_said(tmp_path: Path) -> None:
    """Thumbnails, what systems note, pipes, sockets and other files do not count; folders within a class do."""
    root = tree(tmp_path)
    thumbnail = encoded(np.zeros((8, 8, 3), np.uint8))
    for name in (
        *("@eaDir/x/THUMB_S.jpg", "dog/@eaDir/0.png/THUMB_M.jpg", "dog/.@__thumb/0.png", "#recycle/0.png"),
        *(".Trash-1000/0.png", "__MACOSX/cat/._0.png", "cat/._0.png", "cat/.hidden.png", "eel/Thumbs.db"),
        *("eel/desktop.ini", "cat/notes.txt", "readme.md", "eel/page.eps"),
    ):
        (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "train" / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n" if name.endswith("eps") else thumbnail)
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    os.symlink("nowhere.png", root / "train" / "cat" / "lost.png")
    os.symlink("self.png", root / "train" / "cat" / "self.png")
    (root / "train" / "cat" / "more").mkdir()
    (root / "train" / "cat" / "more" / "X.JPEG").write_bytes(encoded(np.full((8, 8, 3), 99, np.uint8), "JPEG"))
    with pytest.warns(SvdistillWarning) as told:
        loaded = load("image-folder", root=root, image_size=8)
    assert loaded.train.classes == ("cat", "dog", "eel")
    assert greys(loaded.train) == [0, 1, 2, 3, 99, 40, 41, 42, 43, 80, 81, 82, 83]
    assert [str(one.message) for one in told] == [
        f"left out of {root}/train: hidden, or of the system: 10 (#recycle, .Trash-1000, @eaDir, …); in no folder of a "
        "class: 1 (readme.md); broken links: 2 (cat/lost.png, cat/self.png); no image of a known format: 2 "
        "(cat/notes.txt, eel/page.eps); pipes: 1 (cat/pipe.png)"
    ]


def test_images_are_told_by_their_content(tmp_path: Path) -> None:
    """A suffix that is wrong, missing or of another format does not matter."""
    root = tree(tmp_path, train=1)
    files = {"a.png": "JPEG", "b": "JPEG", "c.jfif": "JPEG", "d.avif": "AVIF", "e.img": "JPEG2000", "f.jpg": "WEBP"}
    files |= {"g.gif": "BMP", "h.dat": "TIFF", "i.x": "GIF", "j.tga": "TGA", "k.bin": "QOI"}
    for number, (name, kind) in enumerate(files.items()):
        (root / "train" / "cat" / name).write_bytes(encoded(np.full((8, 8, 3), 10 + 20 * number, np.uint8), kind))
    found = greys(load("image-folder", root=root, image_size=8).train)[:12]
    assert found == pytest.approx([0, *range(10, 230, 20)], abs=2)


def test_links_are_followed_once(tmp_path: Path) -> None:
    """A link to images elsewhere counts; one round a loop, to a folder around, or to another class, does not."""
    root = tree(tmp_path / "data")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "x.png").write_bytes(encoded(np.full((8, 8, 3), 9, np.uint8)))
    more = "../../../more"
    for name, target in {"l": more, "m": more, "n": ".", "o": "..", "p": "../..", "q": "../dog"}.items():
        os.symlink(target, root / "train" / "cat" / name)
    os.symlink("dog", root / "train" / "fox")
    os.symlink("..", root / "train" / "gnu")
    with pytest.warns(SvdistillWarning, match=r"links to folders that are read already: 7 \(fox, gnu, cat/m, …\)"):
        loaded = load("image-folder", root=root, image_size=8)
    assert loaded.train.classes == ("cat", "dog", "eel")
    assert greys(loaded.train) == [0, 1, 2, 3, 9, 40, 41, 42, 43, 80, 81, 82, 83]


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error that names it: its images would be missing without a word."""
    closed = tree(tmp_path) / "train" / "cat" / "closed"
    closed.mkdir(mode=0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root may read everything
    try:
        with pytest.raises(DataError, match=r"the folder train/cat/closed cannot be read \(Permission denied\); give"):
            walk(Path("train"))
    finally:
        os.seteuid(user)


def test_names_in_any_form(tmp_path: Path) -> None:
    """é of macOS (two characters) is é of Linux (one), in folders and in lists; bytes that are not UTF-8 stay apart."""
    root = tree(tmp_path, classes=["cafe\N{COMBINING ACUTE ACCENT}", "caf\udce9", "dog"])
    (root / "val" / "cafe\N{COMBINING ACUTE ACCENT}").rename(root / "val" / "caf\N{LATIN SMALL LETTER E WITH ACUTE}")
    both = root / "train" / "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    both.mkdir()
    (both / "x.png").write_bytes(encoded(np.full((8, 8, 3), 9, np.uint8)))
    loaded = load("image-folder", root=root, image_size=8)
    assert loaded.train.classes == loaded.test.classes == ("caf\xe9", "caf\udce9", "dog")
    assert greys(loaded.train) == [0, 1, 2, 3, 9, 40, 41, 42, 43, 80, 81, 82, 83]
    assert greys(loaded.test) == [0, 1, 40, 41, 80, 81]
    (tmp_path / "list.txt").write_text("\ufeffcafe\N{COMBINING ACUTE ACCENT}\n", encoding="utf-8")
    chosen = load("image-folder", root=root, image_size=8, classes=tmp_path / "list.txt", in_memory=0)
    assert len(chosen.train) == 5
    assert len(hold_out(loaded, 0.25).test) == 3
    with pytest.raises(OptionError, match=r"no class is called 'cafe'; did you mean .*'caf\\udce9'"):
        load("image-folder", root=root, image_size=8, classes=["cafe"])


def test_test_images_alone(tmp_path: Path) -> None:
    """They need no folder train where the classes are known, or an empty one; another class is refused."""
    root = tree(tmp_path, classes=["cat", "eel"])
    shutil.rmtree(root / "train")
    found = load_test("image-folder", root=root, image_size=8, classes=["eel", "dog", "cat"])
    assert (found.classes, found.labels.tolist(), greys(found)) == (("eel", "dog", "cat"), [0, 0, 2, 2], [40, 41, 0, 1])
    assert load_test("image-folder", root=root, image_size=8).classes == ("cat", "eel")
    with pytest.raises(DataError, match="val has a class 'eel' that is not among the classes"):
        load_test("image-folder", root=root, image_size=8, classes=["cat", "fox"])
    (root / "train").mkdir()
    found = load_test("image-folder", root=root, image_size=8, classes=["eel", "dog", "cat"])
    assert found.labels.tolist() == [0, 0, 2, 2]
    assert load_test("image-folder", root=root, image_size=8).classes == ("cat", "eel")
    assert len(load_test("digits", classes=["3", "5"])) == len(load("digits", classes=["3", "5"]).test)


def test_images_without_classes(tmp_path: Path) -> None:
    """A flat folder, or any tree, is a set without labels; where there is a folder train, its images."""
    root = tree(tmp_path)
    for place, greys_there in ((root / "train" / "dog", [40, 41, 42, 43]), (root / "val", [0, 1, 40, 41, 80, 81])):
        found = load_unlabelled("image-folder", root=place, image_size=8)
        assert (found.labelled, found.num_classes, greys(found)) == (False, 0, greys_there)
        assert len(found.subset(3, seed=0).unlabelled()) == 3
    assert len(load_unlabelled("image-folder", root=root, image_size=8)) == 12
    assert set(load_unlabelled("digits").labels.tolist()) == {-1}
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"there is no image in .*empty; give at least one"):
        load_unlabelled("image-folder", root=tmp_path / "empty", image_size=8)
    with pytest.raises(DataError, match=r"has no folder train; .* images without classes can be data\.unlabelled"):
        load("image-folder", root=root / "val", image_size=8)


def test_damaged_images(tmp_path: Path) -> None:
    """One damaged image is named and made up for; more than a few are an error."""
    root = tree(tmp_path)
    (root / "train" / "dog" / "1.png").write_bytes(b"")
    with pytest.warns(SvdistillWarning, match=r"train/dog/1.png cannot be decoded"):
        loaded = load("image-folder", root=root, image_size=8)
    assert greys(loaded.train)[4:8] == [40, 42, 42, 43]
    for name in ("cat", "dog", "eel"):
        for number in (0, 1):
            (root / "train" / name / f"{number}.png").write_text("<html>")
    with (
        pytest.warns(SvdistillWarning),
        pytest.raises(DataError, match=r"4 images in .*train cannot be decoded, 3 .*cat/0.png, cat/1.png, dog/0.png"),
    ):
        load("image-folder", root=root, image_size=8)


def without(*names: str) -> Any:
    """Remove folders from a tree."""

    def change(root: Path) -> None:
        for name in names:
            shutil.rmtree(root / name)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("."), r"no data folder .*; name one that holds train/CLASS"),
        (without("train"), "has no folder train"),
        (without("val"), r"has no folder val/CLASS \(or test/CLASS\)"),
        (without("train/cat", "train/dog", "train/eel"), "train holds no folders"),
        (without("train/dog"), "val has a class 'dog' that .*train lacks"),
        (lambda root: (root / "val" / "dogs").mkdir(), "val has a class 'dogs' that .*train lacks; did you mean 'dog'"),
        (lambda root: (root / "train" / "fox").mkdir(), r"train/fox holds no image; remove it or fill it"),
        (
            lambda root: [path.unlink() for path in (root / "val").rglob("*.png")],
            "there is no image in .*val; give at least one",
        ),
    ],
)
def test_trees_that_lack_something(tmp_path: Path, change: Any, message: str) -> None:
    """What is missing is named."""
    root = tree(tmp_path / "data")
    change(root)
    with pytest.raises(DataError, match=message):
        load("image-folder", root=root, image_size=8)


def test_a_class_without_test_images(tmp_path: Path) -> None:
    """A class may be absent from the test images."""
    root = tree(tmp_path)
    shutil.rmtree(root / "val" / "dog")
    assert load("image-folder", root=root, image_size=8).test.labels.tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("options", [{"image_size": 0}, {"image_size": 8, "channels": 2}])
def test_impossible_options(tmp_path: Path, options: dict[str, int]) -> None:
    """A size or a number of channels that is none is refused."""
    with pytest.raises(OptionError, match=r"image_size is 0|channels is 2"):
        load("image-folder", root=tree(tmp_path), **options)
