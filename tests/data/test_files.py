"""Tests of image sets on disk: they hand out what an image set in memory would."""

import multiprocessing
import os
import subprocess
import sys
import warnings
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.pictures import encoded, noise

from svdistill.data import Augmentation, Batch, Batches, Files, FileSet, channel_statistics, load, split
from svdistill.data.decoding import decode
from svdistill.errors import DataError, OptionError, SvdistillWarning

NUMBER = 90
CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random images: colour and grey, PNG and JPEG, wide and high."""
    base = tmp_path_factory.mktemp("files")
    for i in range(NUMBER):
        shape = (9 + i % 5, 12 - i % 4)
        kind = "JPEG" if i % 3 == 0 else "PNG"
        (base / f"{i:03}").write_bytes(encoded(noise(i, *shape, channels=1 if i % 7 == 0 else 3), kind))
    return base


def file_set(folder: Path, *, workers: int | None = None, image_size: int = 8, channels: int = 3) -> FileSet:
    """All images of the folder, of three classes in turn."""
    files = Files(folder, [f"{i:03}" for i in range(NUMBER)])
    labels = torch.arange(NUMBER) % 3
    return FileSet(files, torch.arange(NUMBER), labels, CLASSES, image_size, channels, workers=workers)


def all_of(source: Any, size: int = 32) -> torch.Tensor:
    """The pixels of all images."""
    return torch.cat(list(source.batches(torch.arange(len(source)).split(size))))


def test_sizes(folder: Path) -> None:
    """A set knows its length, shape, classes, and what it would take in memory."""
    whole = file_set(folder)
    assert (len(whole), whole.shape, whole.num_classes) == (NUMBER, (3, 8, 8), 3)
    assert whole.bytes == NUMBER * 3 * 64
    assert whole.device == torch.device("cpu")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [1, 32, 90])
def test_the_same_in_memory_and_from_workers(folder: Path, workers: int, size: int) -> None:
    """However they are read, the images are those that are decoded one by one."""
    expected = np.stack([decode((folder / f"{i:03}").read_bytes(), 8, 3) for i in range(NUMBER)])
    assert torch.equal(all_of(file_set(folder, workers=workers), size), torch.from_numpy(expected))
    loaded = file_set(folder, workers=workers).loaded("reading")
    assert torch.equal(loaded.images, torch.from_numpy(expected))
    assert loaded.labels.tolist() == file_set(folder).labels.tolist()


def test_batches_continue_bit_for_bit(folder: Path) -> None:
    """Training batches are the same from disk, with workers or without, and in memory, also after being restored."""
    mean, std = channel_statistics(file_set(folder))

    def make(source: Any) -> Batches:
        settings = Augmentation(flip=True, rotation=10.0, shift=1)
        return Batches(source, 16, seed=3, augmentation=settings, mean=mean, std=std)

    def epochs(source: Batches) -> list[Batch]:
        return [batch for _ in range(2) for batch in source.epoch()]

    expected = epochs(make(file_set(folder).loaded("reading")))
    for workers in (0, 2):
        source = make(file_set(folder, workers=workers))
        for _, batch in zip(range(2), source.epoch(), strict=False):
            assert batch[0].shape == (16, 3, 8, 8)
        state = source.state_dict()
        other = make(file_set(folder, workers=workers))
        other.load_state_dict(state)
        taken = [*other.epoch(), *other.epoch()]
        assert source.position == 2
        for ours, theirs in zip(taken, expected[2:], strict=True):
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("sizes", [[90], [1, 70, 3, 16], [31, 32, 27], [33, 0, 57]])
def test_batches_of_any_size(folder: Path, sizes: list[int]) -> None:
    """Batches that are larger than what a worker decodes at a time, smaller or empty come out whole and in order."""
    order = torch.randperm(NUMBER, generator=torch.Generator().manual_seed(1))
    expected = file_set(folder, workers=0).loaded("reading").images[order].split(sizes)
    for workers in (0, 2):
        found = list(file_set(folder, workers=workers).batches(order.split(sizes)))
        assert [len(batch) for batch in found] == sizes
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_workers_are_shared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two training processes on one machine start half as many workers each, but one at least."""
    monkeypatch.setattr("svdistill.data.files.usable_cores", lambda: 2)

    def started() -> int:
        batches = file_set(folder).batches(torch.arange(NUMBER).split(9))
        next(batches)
        number = len(multiprocessing.active_children())
        batches.close()  # type: ignore[attr-defined]
        return number

    assert started() == 2
    told = {"TORCHELASTIC_RUN_ID": "run", "RANK": "1", "LOCAL_RANK": "1"}
    for processes, each in (("2", 1), ("8", 1), ("1", 2)):
        for key, value in {**told, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}.items():
            monkeypatch.setenv(key, value)
        assert started() == each


def test_random_numbers_stay(folder: Path) -> None:
    """Starting worker processes does not touch torch's global generator."""
    before = torch.get_rng_state()
    all_of(file_set(folder, workers=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_that_is_left_early_ends_its_workers(folder: Path) -> None:
    """Nobody keeps reading for a loop that has ended."""
    batches = file_set(folder, workers=2).batches(torch.arange(NUMBER).split(10))
    next(batches)
    assert multiprocessing.active_children()
    batches.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_sub_sets_are_those_of_memory(folder: Path) -> None:
    """Subset, rest, selection, bare images: the same images and labels as in memory."""
    here, there = file_set(folder), file_set(folder).loaded("reading")
    for ours, theirs in (
        (here.subset(20, seed=4), there.subset(20, seed=4)),
        (here.rest(20, seed=4), there.rest(20, seed=4)),
        (here.select(["c", "a"]), there.select(["c", "a"])),
        (here.unlabelled().subset(7, seed=1), there.unlabelled().subset(7, seed=1)),
        (here.take(torch.tensor([5, 3])), there.take(torch.tensor([5, 3]))),
        (here.to("cpu"), there.to("cpu")),
    ):
        assert torch.equal(all_of(ours), theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert (ours.classes, ours.labelled) == (theirs.classes, theirs.labelled)
    chosen = [set(here.subset(size, seed=2).positions.tolist()) for size in range(3, 91, 7)]
    assert all(small < large for small, large in pairwise(chosen))


def test_statistics(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small set is measured whole; of a large one, images spread evenly over it."""
    whole = file_set(folder)
    for one, other in zip(channel_statistics(whole), channel_statistics(whole.loaded("a").images), strict=True):
        assert torch.equal(one, other)
    monkeypatch.setattr("svdistill.data.statistics.STREAMED_IMAGES", 30)
    spread = channel_statistics(whole.take(torch.arange(0, 90, 3)))
    assert torch.equal(channel_statistics(whole)[0], spread[0])


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"image_size": 0}, OptionError, "image_size is 0"),
        ({"channels": 2}, OptionError, "channels is 2"),
        ({"background": "grey"}, OptionError, "background is 'grey', expected white or black"),
        ({"labels": torch.tensor([0, 3])}, DataError, "label 3 is outside"),
        ({"labels": torch.tensor([0])}, DataError, "2 images came with 1 labels"),
        ({"labels": torch.tensor([]), "positions": torch.tensor([])}, DataError, "no image in"),
        ({"labelled": False}, DataError, "label 0 came in a set without labels"),
    ],
)
def test_unfit(folder: Path, changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    """A set that makes no sense is refused when it is made."""
    given = {
        "positions": torch.arange(2),
        "labels": torch.tensor([0, 1]),
        "classes": CLASSES,
        "image_size": 8,
    } | changes
    with pytest.raises(kind, match=message):
        FileSet(Files(folder, ["000", "001"]), **given)
    with pytest.raises(OptionError, match="no class is called 'd'"):
        file_set(folder).select(["d"])


@pytest.fixture
def damaged(tmp_path: Path) -> Any:
    """Return a function that makes a set of ten images, some of them damaged."""

    def make(*bad: int, labels: list[int] | None = None, number: int = 10) -> FileSet:
        for i in range(number):
            whole = encoded(np.full((8, 8, 3), 10 * (i % 25), dtype=np.uint8), "JPEG")
            (tmp_path / str(i)).write_bytes(whole[: len(whole) // 2] if i in bad else whole)
        files = Files(tmp_path, [str(i) for i in range(number)])
        given = torch.tensor([0] * number if labels is None else labels)
        return FileSet(files, torch.arange(number), given, CLASSES, 8)

    return make


def firsts(source: Any) -> list[int]:
    """Which image each one is, by its grey, in units of 10."""
    return [round(int(image[0, 0, 0]) / 10) for image in all_of(source)]


def test_the_next_of_its_class_stands_in(damaged: Any) -> None:
    """An image that cannot be decoded is named once, and one of its class comes in its place, round the end."""
    source = damaged(3, 4, 9, labels=[0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
    with pytest.warns(SvdistillWarning) as caught:
        assert firsts(source) == [0, 1, 2, 5, 6, 5, 6, 7, 8, 1]
    texts = [str(warning.message) for warning in caught]
    assert [text.split(" cannot")[0][-2:] for text in texts] == ["/3", "/4", "/9"]
    assert [text.split("; ")[-1][:8] for text in texts] == ["1 so far", "2 so far", "3 so far"]
    assert all("(OSError" in text or "(Unidentified" in text for text in texts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert firsts(source) == [0, 1, 2, 5, 6, 5, 6, 7, 8, 1]  # not a second time


PARTS = {
    "train": lambda source: split(source, 0.4)[0],
    "held out": lambda source: split(source, 0.4)[1],
    "labelled": lambda source: source.subset(12, seed=0),
    "rest": lambda source: source.rest(12, seed=0),
    "without labels": lambda source: source.rest(12, seed=0).unlabelled(),
    "some without labels": lambda source: source.unlabelled().subset(9, seed=1),
    "train and labelled": lambda source: split(source, 0.4)[0].subset(6, seed=0),
    "other classes": lambda source: source.select(["c", "a"]),
}


@pytest.mark.filterwarnings("ignore:.*cannot be decoded")
@pytest.mark.parametrize("bad", [(0,), (7, 10, 13), (5, 20, 21), (24, 22, 23)])
def test_what_stands_in_is_of_the_same_part(damaged: Any, bad: tuple[int, ...]) -> None:
    """An image of one part never comes into another one, and each is the same in memory and on disk."""
    labels = [i % 3 for i in range(25)]
    for name, part in PARTS.items():
        streamed = part(damaged(*bad, labels=labels, number=25))
        loaded = part(damaged(*bad, labels=labels, number=25).loaded("reading"))
        assert firsts(loaded) == firsts(streamed), name
        assert loaded.labels.tolist() == streamed.labels.tolist()
        assert torch.equal(loaded.digests(), streamed.digests())
        for ours, theirs in zip(channel_statistics(loaded), channel_statistics(streamed), strict=True):
            assert torch.equal(ours, theirs)
        own = streamed.positions.tolist()
        for shown, position in zip(firsts(loaded), own, strict=True):
            assert (shown in own and shown not in bad) if position in bad else shown == position


def test_nothing_of_its_part_can_stand_in(damaged: Any) -> None:
    """In memory one line says so as the part is taken, on disk as it is read."""
    labels = [0, 1] * 5
    with pytest.warns(SvdistillWarning, match="/3 cannot be decoded"):
        loaded = damaged(3, labels=labels).loaded("reading")
    with pytest.raises(
        DataError, match=r"^an image of 'b' .* no sound one to stand in for it; mend or remove the file$"
    ):
        loaded.take(torch.tensor([0, 2, 3]))
    assert firsts(loaded.unlabelled().take(torch.tensor([2, 3]))) == [2, 2]


def test_damaged_images_from_workers(damaged: Any) -> None:
    """The same when workers decode."""
    labels = [i % 2 for i in range(100)]
    whole = damaged(7, 60, labels=labels, number=100)
    with pytest.warns(SvdistillWarning, match=r"/(7|60) cannot be decoded"):
        found = firsts(whole)
    assert whole.files.failures.keys() == {7, 60}
    assert (found[7], found[60]) == (9, 62 % 25)


def test_more_than_a_few(damaged: Any) -> None:
    """Four damaged images of ten are an error that counts and names them; so is one that nothing can replace."""
    with pytest.warns(SvdistillWarning), pytest.raises(DataError, match=r"4 images in .* 3 are tolerated: 1, 2, 3, 5"):
        firsts(damaged(1, 2, 3, 5))
    with pytest.warns(SvdistillWarning), pytest.raises(DataError, match="/2 cannot be decoded and nothing can stand"):
        firsts(damaged(2, labels=[0, 0, 1, 0, 0, 0, 0, 0, 0, 0]))


def test_a_file_that_vanished(damaged: Any) -> None:
    """A file that is no longer there counts as damaged."""
    source = damaged()
    (source.files.base / "5").unlink()
    with pytest.warns(SvdistillWarning, match=r"/5 cannot be decoded \(FileNotFoundError"):
        assert firsts(source)[5] == 6


def test_what_is_tolerated() -> None:
    """A few of few, up to twenty of many."""
    assert [Files(Path("."), ["a"] * n).tolerated for n in (1, 3000, 9000, 100_000)] == [3, 3, 9, 20]


def test_in_a_daemon_nothing_is_started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon process must not have children, so it decodes by itself."""
    monkeypatch.setattr(multiprocessing.process.current_process(), "_config", {"daemon": True})
    assert len(all_of(file_set(folder, workers=2))) == NUMBER


def test_a_worker_that_dies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed, for instance for want of memory, is one line."""
    import os
    import signal

    monkeypatch.setattr("svdistill.data.files.decode", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(DataError, match=r"a process that reads images from .* died \(DataLoader worker"):
        all_of(file_set(folder, workers=2))


@pytest.mark.parametrize("base", ["folder", "archive"])
def test_what_cannot_be_an_image_is_not_read(tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe is not waited for, and a file that is too large for one image is not read into memory."""
    monkeypatch.setattr("svdistill.data.files._MOST_BYTES", 1000)
    content = encoded(np.full((8, 8, 3), 70, np.uint8))
    for name, file in (("a", content), ("b", bytes(1001)), ("c", content)):
        (tmp_path / name).write_bytes(file)
    if base == "folder":
        (tmp_path / "a").unlink()
        os.mkfifo(tmp_path / "a")
        files = Files(tmp_path, ["a", "b", "c"])
    else:
        with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in "abc":
                archive.write(tmp_path / name, name)
        files = Files(tmp_path / "x.zip", ["a", "b", "c"])
    source = FileSet(files, torch.arange(3), torch.zeros(3, dtype=torch.int64), CLASSES, 8)
    with pytest.warns(SvdistillWarning) as told:
        assert (all_of(source) == 70).all()
    reasons = [str(one.message).split(" (")[1].split(");")[0] for one in told]
    large = "it has 1,001 bytes, at most 1,000 are read"
    assert reasons == (["it is not a regular file", large] if base == "folder" else [large])


def test_a_script_that_is_imported_by_its_own_workers(tmp_path: Path) -> None:
    """Where processes are spawned, one line says to guard what the script does."""
    for i in range(70):
        (tmp_path / f"{i}.png").write_bytes(encoded(np.zeros((8, 8, 3), np.uint8)))
    (tmp_path / "script.py").write_text(
        "import multiprocessing, pathlib, torch\n"
        "multiprocessing.set_start_method('spawn', force=True)\n"
        "from svdistill.data import FileSet, Files\n"
        f"files = Files(pathlib.Path({str(tmp_path)!r}), [f'{{i}}.png' for i in range(70)])\n"
        "labels = torch.zeros(70, dtype=torch.int64)\n"
        "source = FileSet(files, torch.arange(70), labels, ('a',), 8, workers=1)\n"
        "list(source.batches([torch.arange(70)]))\n"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith('guard what the script does with if __name__ == "__main__":')


def test_load_knows_no_such_set_by_itself() -> None:
    """A folder of images needs a folder, and a size."""
    with pytest.raises(OptionError, match="image-folder needs a folder"):
        load("image-folder", image_size=8)
    with pytest.raises(OptionError, match="image-folder needs a size"):
        load("image-folder", root="somewhere")
