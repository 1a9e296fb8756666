"""A teacher on disk: the same losses without the teacher, whole or not there, and refused where it is stale."""

import dataclasses
import importlib
import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from svdistill import checksums
from svdistill.atomic import locked
from svdistill.distiller import Distiller
from svdistill.errors import DataError, OptionError, ShapeError
from svdistill.losses import AttentionLoss, SVDLoss
from svdistill.nets import default_taps
from svdistill.teacher_cache import Key, TeacherCache
from svdistill.teacher_cache.key import REASONS
from tests.teacher_cache import store_interruptibly as storing

HALF = torch.finfo(torch.float16).eps
PROGRAM = [sys.executable, str(Path(__file__).with_name("store_interruptibly.py"))]


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """A teacher cache that nobody changes."""
    folder = tmp_path_factory.mktemp("cache") / "there"
    storing.take(folder)
    return folder


def content(folder):
    """Return every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_same_losses_without_the_teacher(taken):
    """For every view of labelled and unlabelled images, to the rounding of half precision; in any order."""
    cache = TeacherCache.open(taken, storing.KEY)
    live, stored = storing.distiller(), storing.distiller(cache)
    assert (stored.teacher, cache.images, cache.views) == (None, 27, 2)
    assert set(cache.losses) == {"svd", "soft-target"}
    seen = 0
    for batch in storing.batches():
        order = torch.randperm(len(batch.images), generator=torch.Generator().manual_seed(seen))
        images, indices, views = batch.images[order], batch.indices[order], batch.views[order]
        expected, found = live.train()(images), stored.train()(images, indices=indices, views=views)
        for name, term in expected.terms.items():
            assert found.terms[name].item() == pytest.approx(term.item(), rel=8 * HALF), name
        assert found.health["set_aside"] == expected.health["set_aside"]
        seen += len(order)
    assert seen == 27 * 2


def test_what_lies_on_disk(taken):
    """Plain arrays in half precision, singular values in float32; the size is what is said."""
    cache = TeacherCache.open(taken)
    arrays = {path.name: np.load(path) for path in taken.glob("*.npy")}
    assert {name: (one.dtype.name, one.shape) for name, one in arrays.items()} == {
        "0-svd-v0.npy": ("float16", (2, 27, 1, 6)),
        "1-svd-v1.npy": ("float16", (2, 27, 1, 13)),
        "2-svd-sigma.npy": ("float32", (2, 27, 2, 1)),
        "3-soft-target-logits.npy": ("float16", (2, 27, 3)),
    }
    assert cache.bytes == sum(one.nbytes for one in arrays.values())
    assert cache.tap_shapes == ((6, 8, 8), (13, 4, 4))
    assert "27 images x 2 views" in repr(cache)
    assert {path.name for path in taken.parent.iterdir()} == {"there", ".there.lock"}


@pytest.mark.parametrize("when", ["8", "24", "27"])
def test_killed_and_resumed(taken, tmp_path, when):
    """After kill -9 nothing is there; the next call resumes and ends with the same bytes."""
    with subprocess.Popen(
        [*PROGRAM, str(tmp_path / "cut"), when], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "now\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
    with pytest.raises(DataError, match="holds no teacher cache"):
        TeacherCache.open(tmp_path / "cut")
    told = []
    storing.take(tmp_path / "cut", progress=told.append)
    # What was reported had not all been saved.
    assert 0 < told[0] < int(when)
    assert sum(told) == 27
    assert content(tmp_path / "cut") == content(taken)


def test_what_was_begun_for_something_else_is_not_resumed(taken, tmp_path):
    """Half of another teacher's cache is thrown away."""
    other = dataclasses.replace(storing.KEY, teacher="other")
    with pytest.raises(KeyboardInterrupt):
        storing.take(tmp_path / "cut", key=other, progress=_interrupt_at(8))
    told = []
    storing.take(tmp_path / "cut", progress=told.append)
    assert told[0] == 0
    assert content(tmp_path / "cut") == content(taken)


@pytest.mark.parametrize(
    ("damage", "kept"), [("none", 20), ("rows of image 9", 8), ("the first rows", 0), ("notes", 0)]
)
def test_damage_between_two_calls_is_noticed(taken, tmp_path, monkeypatch, damage, kept):
    """What has changed since it was written is made again, with all that came after it."""
    monkeypatch.setattr(importlib.import_module("svdistill.teacher_cache.store"), "_SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        storing.take(tmp_path / "cut", progress=_interrupt_at(24))
    partial = tmp_path / ".cut.partial"
    if "row" in damage:
        array = np.load(partial / "1-svd-v1.npy", mmap_mode="r+")
        array[1, 9 if "9" in damage else 0, 0, 5] += 0.5
        array.flush()
    elif damage == "notes":
        file = partial / "progress.json"
        file.write_bytes(file.read_bytes().replace(b'"tap_shapes": [[6', b'"tap_shapes": [[7'))
    told = []
    storing.take(tmp_path / "cut", progress=told.append)
    assert told[0] == kept
    assert content(tmp_path / "cut") == content(taken)


def _interrupt_at(images):
    done = 0

    def progress(more):
        nonlocal done
        done += more
        if done >= images:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"teacher": "other"}, "of another teacher: its weights, or its code, have changed"),
        ({"images": ("a", "c")}, "of other training images"),
        ({"images": ("a",)}, "of other training images"),
        ({"mean": (0.4,)}, "standardized otherwise"),
        ({"std": (0.4,)}, "standardized otherwise"),
        ({"augmentation": {"rotation": 10.0}}, "of another augmentation"),
        ({"views": 4}, r"another number of views \(2, not 4\)"),
        ({"seed": 3}, r"their seed differs \(0, not 3\)"),
        ({"taps": ("block1", "block3")}, "of other taps"),
        ({"drop_tokens": 1}, "number of tokens left out"),
        ({"grids": ((8, 8), (2, 2))}, "student whose taps have other sizes"),
        ({"losses": {"svd": {"rank": 2, "basis": "own"}}}, "for svd with rank=1, basis=own, not rank=2, basis=own"),
        ({"losses": {"attention": {"power": 2.0}}}, "for svd, soft-target, and lacks what attention needs"),
    ],
)
def test_a_stale_cache_is_refused(taken, change, match):
    """Each thing that it depends on is compared, and the message says which differs and what to do."""
    key = dataclasses.replace(storing.KEY, **change)
    with pytest.raises(DataError, match=match) as error:
        TeacherCache.open(taken, key)
    assert "svdistill cache RECIPE --fresh" in str(error.value)
    with pytest.raises(DataError, match=match):
        storing.take(taken, key=key)


def test_every_part_of_the_key_is_compared():
    """No field is forgotten in the test above."""
    assert {field.name for field in dataclasses.fields(Key)} == {*REASONS, "losses"}


def test_a_loss_of_other_settings_is_refused(taken):
    """Also where nobody has said what the cache must be of."""
    student = storing.distiller().student
    taps = default_taps("vgg-student")[:2]
    with pytest.raises(OptionError, match="for svd with rank=1, basis=own, not rank=2, basis=own; store it again"):
        Distiller(student, TeacherCache.open(taken), loss={"svd": SVDLoss(rank=2)}, student_taps=taps)


def test_losses_that_are_stored_beside_do_no_harm(taken):
    """A method that needs less than what is there finds it."""
    key = dataclasses.replace(storing.KEY, losses={"soft-target": {}})
    assert "soft-target" in TeacherCache.open(taken, key).losses


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json is damaged"),
        (lambda folder: _edit(folder / "manifest.json", tensors=[]), "manifest.json is damaged"),
        (lambda folder: _edit(folder / "manifest.json", tensors={}), "manifest.json is damaged"),
        (lambda folder: _edit(folder / "manifest.json", tensors={"svd": {}}), "manifest.json is damaged"),
        (lambda folder: _edit(folder / "manifest.json", key=None), "manifest.json is damaged"),
        (lambda folder: _replace(folder / "0-svd-v0.npy", b"N", b"M"), "v0.npy is missing, too short or damaged"),
        (lambda folder: _replace(folder / "0-svd-v0.npy", b"}", b" "), "v0.npy is missing, too short or damaged"),
        (lambda folder: (folder / "0-svd-v0.npy").unlink(), "v0.npy is missing, too short or damaged"),
        (lambda folder: _cut(folder / "0-svd-v0.npy", 300), "v0.npy is missing, too short or damaged"),
        (lambda folder: _cut(folder / "0-svd-v0.npy", 3), "v0.npy is missing, too short or damaged"),
        (lambda folder: np.save(folder / "0-svd-v0.npy", np.zeros(3)), r"holds float64 \(3,\), expected float16"),
        (lambda folder: _replace(folder / "0-svd-v0.npy", b"<f2", b">f2"), r"holds >f2 .*, expected float16"),
        (lambda folder: _replace(folder / "0-svd-v0.npy", b"False", b"True "), "v0.npy holds .*, expected float16"),
        (lambda folder: _replace(folder / "0-svd-v0.npy", b"False", b"Fa se"), "v0.npy is missing, too short or"),
        (lambda folder: _replace(folder / "0-svd-v0.npy", b"'descr'", b"b'desc'"), "v0.npy is missing, too short or"),
        (lambda folder: _widen(folder / "0-svd-v0.npy"), "v0.npy is missing, too short or damaged"),
        (lambda folder: _flip(folder / "0-svd-v0.npy"), "v0.npy has changed since it was written"),
        (lambda folder: _replace(folder / "manifest.json", b'"views": 2', b'"views": 3'), "manifest.json is damaged"),
        (lambda folder: _edit(folder / "manifest.json", sha256={}), "v0.npy has changed since it was written"),
        (lambda folder: _unseal(folder / "manifest.json"), "manifest.json is damaged"),
        (lambda folder: _edit(folder / "manifest.json", format=0), "by another version"),
    ],
)
def test_damage_is_noticed(taken, tmp_path, damage, match):
    """Files that are gone, cut off or something else are named; --fresh makes them anew."""
    folder = tmp_path / "there"
    folder.mkdir()
    for name, whole in content(taken).items():
        (folder / name).write_bytes(whole)
    damage(folder)
    with pytest.raises(DataError, match=match):
        TeacherCache.open(folder, storing.KEY)
    storing.take(folder, fresh=True)
    assert content(folder) == content(taken)


def _cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def _replace(path, old, new):
    path.write_bytes(path.read_bytes().replace(old, new, 1))


def _edit(path, **changes):
    _unseal(path)
    path.write_text(checksums.seal(json.dumps({**json.loads(path.read_text()), **changes})))


def _unseal(path):
    known = json.loads(path.read_text())
    del known["checksum"]
    path.write_text(json.dumps(known))


def _flip(path):
    """Flip a bit of the last number."""
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)


def _widen(path):
    """Let the head speak of more numbers than any machine holds."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": (10**22, 4)})


def test_without_its_manifest(taken, tmp_path):
    """A folder that is no cache is not the same as none, and is replaced where one asks for it."""
    shutil.copytree(taken, tmp_path / "there")
    (tmp_path / "there" / "manifest.json").unlink()
    with pytest.raises(
        DataError, match=r"manifest\.json is missing; store it again \(svdistill cache RECIPE --fresh\)"
    ):
        storing.take(tmp_path / "there")
    storing.take(tmp_path / "there", fresh=True)
    assert content(tmp_path / "there") == content(taken)


def test_afresh_for_another_teacher(taken, tmp_path):
    """The old one stays until the new one is there; then it is gone."""
    folder = tmp_path / "there"
    storing.take(folder)
    other = dataclasses.replace(storing.KEY, teacher="other")
    with pytest.raises(KeyboardInterrupt):
        storing.take(folder, key=other, fresh=True, progress=_interrupt_at(8))
    assert TeacherCache.open(folder, storing.KEY).images == 27
    storing.take(folder, key=other, fresh=True)
    assert TeacherCache.open(folder, other).images == 27
    assert {path.name for path in tmp_path.iterdir()} == {"there", ".there.lock"}


@pytest.mark.parametrize("moment", ["the old one is aside", "the new one is there"])
def test_killed_while_the_new_one_takes_its_place(tmp_path, monkeypatch, moment):
    """The next call finds the new one whole, and nothing of the old one is left."""
    folder = tmp_path / "there"
    storing.take(folder)
    other = dataclasses.replace(storing.KEY, teacher="other")
    rename, renamed = Path.rename, []

    def killed(path, target):
        if len(renamed) == 1 and moment == "the old one is aside":
            raise KeyboardInterrupt
        rename(path, target)
        renamed.append(target)
        if len(renamed) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            storing.take(folder, key=other, fresh=True)
    assert (tmp_path / ".there.old").exists()
    storing.take(folder, key=other, fresh=moment == "the new one is there")
    assert TeacherCache.open(folder, other).images == 27
    assert {path.name for path in tmp_path.iterdir()} == {"there", ".there.lock"}


def test_too_large_for_half_precision(tmp_path):
    """A tensor with one number beyond 65504 is stored in float32 as a whole, the others in half; infinity is itself."""
    large = torch.linspace(-1, 1, 27 * 3).reshape(27, 3)
    large[25, 1], large[3, 0] = 70_000.1, -torch.inf

    def extract(images):
        rows = next(indices)
        return {"soft-target": {"logits": large[rows]}, "other": {"x": large[rows].clamp(-1, 1)}}

    def batches(start):
        nonlocal indices
        found = list(storing.batches(start))
        indices = iter([batch.indices for batch in found])
        return found

    indices = iter(())
    told = []
    cache = storing.take(tmp_path / "there", extract=extract, batches=batches, progress=told.append)
    assert sum(told) == 27
    known = cache.read(["soft-target", "other"], torch.arange(27), torch.ones(27, dtype=torch.int64))
    assert torch.equal(known["soft-target"]["logits"], large)
    assert torch.equal(known["other"]["x"], large.clamp(-1, 1).half().float())
    kept = TeacherCache.in_memory({"soft-target": {"logits": large}})
    rows = kept.read(["soft-target"], torch.arange(27), torch.zeros(27, dtype=torch.int64))
    assert torch.equal(rows["soft-target"]["logits"], large)


def test_in_memory():
    """What was extracted once serves without a disk."""
    live = storing.distiller()
    batch = next(iter(storing.batches()))
    known = live.extract(batch.images)
    cache = TeacherCache.in_memory(known, tap_shapes=live.teacher_shapes(batch.images), precise=live.precise)
    found = storing.distiller(cache).train()(batch.images, indices=batch.indices, views=batch.views)
    assert found.transfer.item() == pytest.approx(live.train()(batch.images).transfer.item(), rel=8 * HALF)
    assert (cache.images, cache.views, cache.path) == (4, 1, None)
    assert live.precise == {"svd": {"sigma"}, "soft-target": set()}
    kept = cache.read(known, batch.indices, torch.zeros_like(batch.indices))
    assert torch.equal(kept["svd"]["sigma"], known["svd"]["sigma"])
    assert torch.equal(kept["svd"]["v0"], known["svd"]["v0"].half().float())


def test_images_that_are_not_there(taken):
    """A number beyond the images or views is an error, not another image."""
    cache = TeacherCache.open(taken)
    zero = torch.zeros(1, dtype=torch.int64)
    for indices, views, asked in ((zero + 27, zero, 27), (zero - 1, zero, -1), (zero, zero + 2, 2)):
        with pytest.raises(ShapeError, match=rf"is of (image|view)s 0 to \d+, asked for {asked};"):
            cache.read(["svd"], indices, views)
    assert cache.read(["svd"], zero[:0], zero[:0])["svd"]["v0"].shape == (0, 1, 6)


def test_numbers_that_are_none(taken):
    """One line says what images and views are told by; small whole numbers are read as any."""
    distiller, batch = storing.distiller(TeacherCache.open(taken)).train(), next(iter(storing.batches()))
    for wrong in (batch.indices.float(), batch.indices > 1, batch.indices.tolist(), batch.indices[:, None]):
        with pytest.raises(ShapeError, match=r"indices must be a tensor \(B,\) of whole numbers, got"):
            distiller(batch.images, indices=wrong, views=batch.views)
    expected = distiller(batch.images, indices=batch.indices, views=batch.views).transfer.item()
    distiller._teacher.bring(torch.device("cpu"))
    small = batch.indices.to(torch.uint8)
    assert distiller(batch.images, indices=small, views=batch.views).transfer.item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [AttentionLoss(), SVDLoss(6), SVDLoss(4, basis="teacher")])
def test_of_a_student_with_other_maps(loss):
    """What was pooled for one student is not compared with another's maps."""

    class Net(nn.Module):
        def __init__(self, stride: int) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 6, 3, stride=stride, padding=1)
            self.b = nn.Conv2d(6, 6, 3, padding=1)
            self.head = nn.Linear(6, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(self.b(self.a(images)).mean((2, 3)))

    taps, images = ("a", "b"), torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    teacher, numbers = Net(1), {"indices": torch.arange(3), "views": torch.zeros(3, dtype=torch.int64)}

    def of(student: nn.Module, source: nn.Module | TeacherCache) -> Distiller:
        return Distiller(student, source, loss={"one": loss}, student_taps=taps, teacher_taps=taps).train()

    for stored_for, other in ((2, 6), (6, 2)):
        live = of(Net(stored_for), teacher)
        live.prepare(images)
        cache = TeacherCache.in_memory(live.extract(images), tap_shapes=live.teacher_shapes(images))
        same = of(live.student, cache)
        same.prepare(images)
        expected = live(images).transfer.item()
        assert same(images, **numbers).transfer.item() == pytest.approx(expected, rel=1e-2)
        with pytest.raises(ShapeError, match=r"for one was stored for a student with maps of other sizes .*; store it"):
            of(Net(other), cache).prepare(images)


def test_what_is_not_a_cache_is_not_replaced(taken, tmp_path):
    """Neither a folder with other files nor a file is lost, also where all is to be made afresh; a damaged cache is."""
    shutil.copytree(taken, tmp_path / "damaged")
    (tmp_path / "damaged" / "manifest.json").unlink()
    assert storing.take(tmp_path / "damaged", fresh=True).images == 27
    (tmp_path / "mine").mkdir()
    files = [tmp_path / "mine" / "notes.txt", tmp_path / "file"]
    for file in files:
        file.write_text("mine")
    for folder, name in (("mine", "notes.txt"), ("file", "file")):
        with pytest.raises(DataError, match=f"'{name}' there is not of one and would be lost; choose another folder"):
            storing.take(tmp_path / folder, fresh=True)
    assert all(file.read_text() == "mine" for file in files)


def test_two_processes_take_it_once(tmp_path):
    """The second one waits, and finds what the first one has made."""
    waits, told = threading.Event(), []
    second = threading.Thread(
        target=lambda: storing.take(tmp_path / "there", waiting=waits.set, progress=told.append),
        daemon=True,
    )
    with locked(tmp_path / "there"):
        second.start()
        assert waits.wait(60)
        assert not (tmp_path / "there").exists()
    second.join(60)
    storing.take(tmp_path / "there", progress=lambda images: pytest.fail("taken again"))
    assert sum(told) == 27


def test_a_disk_that_cannot_be_written(tmp_path):
    """Says so in one line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the teacher cache"):
        storing.take(tmp_path / "file" / "there")
