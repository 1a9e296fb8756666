"""Every reader of files, with sound contents to damage and a call that reads what has become of them."""

import gzip
import io
import json
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from svdistill import nets, recipes
from svdistill.data import read_classes
from svdistill.data.archives import read_tar
from svdistill.data.cifar import CIFAR10, load_cifar
from svdistill.data.files import Files, FileSet
from svdistill.data.idx import read_idx
from svdistill.data.pickles import read_pickle
from svdistill.data.tiny_imagenet import load_tiny_imagenet
from svdistill.errors import SvdistillWarning
from svdistill.jobs import Run
from svdistill.recipes import files
from svdistill.records import RunRecord
from svdistill.report import page
from svdistill.report.collect import collect
from svdistill.teacher_cache import TeacherCache
from svdistill.training import checkpoint
from tests.report.runs import make_comparison, make_diagnostics, make_run
from tests.teacher_cache import store_interruptibly

MOST = 1 << 22  # bytes that an archive may unpack to here


@dataclass(frozen=True)
class Reader:
    """One kind of file.

    Attributes:
        contents: sound files of the kind.
        read: reads one, and whatever its reader makes of it.
        share: how many inputs of a long run it gets beside the others.
    """

    contents: Sequence[bytes]
    read: Callable[[bytes], object]
    share: int = 4


def make(folder: Path) -> dict[str, Reader]:
    """Make all readers, with a folder for what they read."""
    warnings.simplefilter("ignore", SvdistillWarning)
    return {**_settings(folder), **_records(folder), **_networks(folder), **_archives(folder), **_images(folder)}


def _written(file: Path, read: Callable[[], object]) -> Callable[[bytes], object]:
    def write_and_read(content: bytes) -> object:
        file.write_bytes(content)
        return read()

    return write_and_read


def _settings(folder: Path) -> dict[str, Reader]:
    file = folder / "recipe.yaml"
    texts = [files.find(name)[1].read_bytes() for name in ("digits/svd", "digits/teacher", "digits/student")]
    texts.append(
        b"extends: [digits/svd]\nmodel: {taps: &t [features.block1, features.block2]}\nteacher: {taps: *t}\nseed: 3\n"
    )
    overrides = [b"loss.rank=2", b"train.milestones=[0.5,0.75]", b"teacher.overrides={train: {epochs: 2}}"]
    overrides += [b"loss=[{name: svd, rank: 2}, soft-target]", b"data.classes=['0', '1']", b"optimizer.lr=1e-3"]

    def override(content: bytes) -> object:
        return recipes.load("digits/svd", [content.decode("utf-8", "replace")])

    classes = folder / "classes.txt"
    return {
        "recipe": Reader(texts, _written(file, lambda: recipes.lineage(recipes.load(str(file)))), 1),
        "override": Reader(overrides, override, 2),
        "class list": Reader(
            [b"zero\none\ntwo\n", "é\r\n\n# 1\n".encode()],
            _written(classes, lambda: read_classes(str(classes))),
            8,
        ),
    }


def _records(folder: Path) -> dict[str, Reader]:
    runs = folder / "runs"
    made = make_run(runs, "svd")
    record = RunRecord(made)
    # Without checksums, as an earlier version wrote them: what is damaged gets beyond those.
    bare = json.dumps(record.summary()).encode()
    metrics = b"".join(json.dumps(line).encode() + b"\n" for line in record.metrics.read())
    (made / "metrics.jsonl").write_bytes(metrics)
    (made / "summary.json").write_bytes(bare)
    seen = {
        "labels": "0" * 64,
        "shapes": [[5, 1, 8, 8]],
        "classes": ["a", "b"],
        "pixels": {"train": "1"},
        "teacher": None,
    }
    data = json.dumps(seen).encode()
    record.data.write_bytes(data)
    arrays = make_diagnostics(0)
    compared = json.dumps({"runs": [{"folder": str(made), "state": "finished", "error": None}] * 2}).encode()

    def insight(content: bytes) -> object:
        name, _, array = content.partition(b"\n")
        with zipfile.ZipFile(record.diagnostics, "w") as archive:
            for known, value in arrays.items():
                archive.writestr(f"{known}.npy", array if known.encode() == name else _npy(value))
        return collect([made])

    def restoring(file: Path, read: Callable[[], object]) -> Callable[[bytes], object]:
        sound = file.read_bytes()

        def read_and_restore(content: bytes) -> object:
            file.write_bytes(content)
            try:
                return read()
            finally:
                file.write_bytes(sound)

        return read_and_restore

    files = {file.name: file for file in made.iterdir() if file.is_file()}
    whole = RunRecord(make_run(folder / "whole", "svd"))
    sealed = {file.stem: file.read_bytes() for file in whole.path.iterdir() if file.suffix.startswith(".json")}
    comparison = folder / "comparison.json"
    make_comparison(folder / "page", seeds=1, methods=("alone", "svd"))
    shown = next((folder / "page").rglob("svd/0-*"))
    return {
        "metrics": Reader([metrics], restoring(files["metrics.jsonl"], lambda: collect([made]))),
        "summary": Reader([bare], restoring(files["summary.json"], lambda: collect([made]))),
        "run's recipe": Reader(
            [files["recipe.yaml"].read_bytes()],
            restoring(files["recipe.yaml"], lambda: (collect([made]), Run(made).recipe)),
            2,
        ),
        "data.json": Reader(
            [data], restoring(record.data, lambda: (collect([made]), Run(made).check_teacher(None))), 2
        ),
        "comparison": Reader([compared], _written(comparison, lambda: collect([comparison])), 2),
        "insight": Reader([f"{name}\n".encode() + _npy(value) for name, value in arrays.items()], insight, 2),
        "insight, packed": Reader(
            [whole.diagnostics.read_bytes()], restoring(whole.diagnostics, lambda: collect([whole.path])), 2
        ),
        "metrics, sealed": Reader(
            [sealed["metrics"]], restoring(whole.path / "metrics.jsonl", lambda: collect([whole.path])), 2
        ),
        "summary, sealed": Reader(
            [sealed["summary"]], restoring(whole.path / "summary.json", lambda: collect([whole.path])), 2
        ),
        "page": Reader(
            [bare], restoring(shown / "summary.json", lambda: page.write([folder / "page"], folder / "x.html")), 0
        ),
    }


def _npy(value: object) -> bytes:
    content = io.BytesIO()
    np.save(content, np.asarray(value), allow_pickle=False)
    return content.getvalue()


def _networks(folder: Path) -> dict[str, Reader]:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    state, student = folder / "last.pt", folder / "student.safetensors"
    checkpoint.save(
        state, {"epoch": 3, "random": checkpoint.random_state()["cpu"][:8], "lists": [1, [2.0, "x"]]}, model=model
    )
    # As an earlier version wrote it, without a checksum, each member by itself: what is damaged gets beyond the checks.
    torch.save(
        {"format": checkpoint.FORMAT, "identity": checkpoint.identity(model), "model": model.state_dict()},
        bare := io.BytesIO(),
    )
    members = {one.filename: zipfile.ZipFile(bare).read(one) for one in zipfile.ZipFile(bare).infolist()}

    def repacked(content: bytes) -> object:
        with zipfile.ZipFile(state, "w") as archive:
            for name, value in members.items():
                archive.writestr(name, content if name.endswith("data.pkl") else value)
        return checkpoint.load(state, model=model)

    network = nets.create("vgg-bn-student", num_classes=2, in_channels=1, width=0.02)
    nets.save(
        network,
        student,
        name="vgg-bn-student",
        num_classes=2,
        in_channels=1,
        width=0.02,
        extra={"classes": '["a", "b"]'},
    )
    cache = folder / "cache"
    store_interruptibly.take(cache)
    parts = {file.name: file for file in sorted(cache.iterdir()) if file.is_file()}
    manifest = parts["manifest.json"]
    array = next(file for name, file in parts.items() if name.endswith(".npy"))

    def restoring(file: Path) -> Callable[[bytes], object]:
        sound = file.read_bytes()

        def read(content: bytes) -> object:
            file.write_bytes(content)
            try:
                opened = TeacherCache.open(cache, store_interruptibly.KEY)
                return opened.images, opened.bytes, repr(opened)
            finally:
                file.write_bytes(sound)

        return read

    return {
        "checkpoint": Reader(
            [state.read_bytes(), bare.getvalue()], _written(state, lambda: checkpoint.load(state, model=model)), 2
        ),
        "checkpoint, repacked": Reader(
            [value for name, value in members.items() if name.endswith("data.pkl")], repacked, 2
        ),
        "student": Reader(
            [student.read_bytes()], _written(student, lambda: (nets.spec(student), nets.load(student))), 2
        ),
        "manifest": Reader([manifest.read_bytes()], restoring(manifest)),
        "cache": Reader([array.read_bytes()[:4096], array.read_bytes()], restoring(array)),
    }


def _archives(folder: Path) -> dict[str, Reader]:
    image = struct.pack(">4I", 0x803, 2, 3, 4) + bytes(24)
    idx = folder / "idx.gz"
    pixels = np.arange(2 * 3072, dtype=np.uint64).astype(np.uint8).reshape(2, 3072)
    batch = {b"data": pixels, b"labels": [3, 7], b"filenames": [b"a.png", b"b.png"]}
    meta = {b"label_names": [b"c%d" % n for n in range(10)], b"num_cases_per_batch": 2}
    binary = bytes([3]) + pixels[0].tobytes() + bytes([7]) + pixels[1].tobytes()
    names = b"".join(b"c%d\n" % n for n in range(10))
    tars = []
    for version, one, named in (
        (CIFAR10.binary, binary, names),
        (CIFAR10.python, pickle.dumps(batch, 2), pickle.dumps(meta, 2)),
    ):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name in version.files:
                about = tarfile.TarInfo(f"{version.folder}/{name}")
                content = named if name == version.names else one
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
        tars.append(packed.getvalue())
    tar = folder / "cifar.tar"
    unpacked = folder / "cifar"
    unpacked.mkdir()
    for name in CIFAR10.binary.files:
        (unpacked / name).write_bytes(names if name == CIFAR10.binary.names else binary)
    pickles = [pickle.dumps(value, protocol) for value in (batch, meta) for protocol in (0, 2, 4)]
    return {
        "idx": Reader(
            [image], lambda content: _written(idx, lambda: read_idx(idx, dimensions=3))(gzip.compress(content, 1)), 8
        ),
        "idx, packed": Reader([gzip.compress(image)], _written(idx, lambda: read_idx(idx, dimensions=3)), 8),
        "CIFAR binary": Reader(
            [binary], _written(unpacked / "data_batch_3.bin", lambda: load_cifar(CIFAR10, unpacked)), 2
        ),
        "CIFAR tar": Reader(tars, _written(tar, lambda: load_cifar(CIFAR10, tar)), 2),
        "tar": Reader(tars, _written(tar, lambda: read_tar(tar, CIFAR10.binary.files, most=MOST)), 8),
        "tar, packed": Reader([gzip.compress(one) for one in tars], _written(tar, lambda: load_cifar(CIFAR10, tar)), 4),
        "pickle": Reader(pickles, lambda content: read_pickle(content, "file"), 8),
        "Tiny-ImageNet zip": Reader(
            [_tiny()], _written(folder / "t.zip", lambda: load_tiny_imagenet(folder / "t.zip")), 2
        ),
    }


def _tiny() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t/wnids.txt", "n1\nn2\n")
        archive.writestr("t/val/val_annotations.txt", "v0.JPEG\tn1\t0\nv1.JPEG\tn2\t0\n")
        for name in (
            "t/train/n1/images/a.JPEG",
            "t/train/n2/images/b.JPEG",
            "t/val/images/v0.JPEG",
            "t/val/images/v1.JPEG",
        ):
            archive.writestr(name, _picture("JPEG", "RGB"))
    return packed.getvalue()


def _picture(form: str, mode: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.arange(24 * 20, dtype=np.uint16).astype(np.uint8).reshape(20, 24)).convert(mode).save(
        content, form
    )
    return content.getvalue()


def _images(folder: Path) -> dict[str, Reader]:
    forms: Mapping[str, str] = {
        "PNG": "RGBA",
        "JPEG": "RGB",
        "GIF": "P",
        "BMP": "RGB",
        "TIFF": "L",
        "WEBP": "RGB",
        "PPM": "L",
        "TGA": "RGB",
    }
    file = folder / "image.bin"

    def read() -> object:
        one = torch.zeros(1, dtype=torch.int64)
        images = FileSet(Files(folder, [file.name]), one, one, ("a",), image_size=16, channels=3)
        return list(images.batches([one]))

    return {"images": Reader([_picture(form, mode) for form, mode in forms.items()], _written(file, read), 4)}
