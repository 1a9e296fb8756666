"""Tests of weights on disk."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from svdistill.errors import CheckpointError, OptionError, SvdistillWarning
from svdistill.nets import create, load, names, save, spec

SETTINGS: dict[str, Any] = {"num_classes": 3, "in_channels": 1, "width": 0.1}
NAMED: dict[str, Any] = {"name": "vgg-student", **SETTINGS}


@pytest.mark.parametrize("name", [*names()[:6], "mobilenet-student", "resnext-student", "resnet8", "wrn-16-1", "vgg8"])
def test_loaded_network_is_the_saved_one(name: str, tmp_path: Path) -> None:
    """One call gives back the same weights, buffers and outputs, in eval mode, with trainable weights."""
    model = create(name, **SETTINGS)
    model(torch.randn(8, 1, 12, 12))  # moves running statistics
    save(model, tmp_path / "net.safetensors", name=name, **SETTINGS)
    loaded = load(tmp_path / "net.safetensors")
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    assert not any(m.training for m in loaded.modules())
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    images = torch.randn(2, 1, 12, 12)
    assert torch.equal(loaded(images), model.eval()(images))


def test_spec(tmp_path: Path) -> None:
    """The description comes back with its types, the width exactly, and extra strings as they were."""
    settings: dict[str, Any] = {"num_classes": 3, "in_channels": 2, "width": 0.1 + 0.2}
    extra = {"classes": json.dumps(["Å", "b\n", "c"]), "mean": "[0.1]"}
    save(create("vgg-student", **settings), tmp_path / "n", name="vgg-student", **settings, extra=extra)
    assert spec(tmp_path / "n") == {"name": "vgg-student", **settings, **extra}
    load(tmp_path / "n")


def test_random_numbers_are_left_alone(tmp_path: Path) -> None:
    """Neither saving nor loading draws from the global generator."""
    model = create("vgg-bn-student", **SETTINGS)
    before = torch.get_rng_state()
    save(model, tmp_path / "n", name="vgg-bn-student", **SETTINGS)
    load(tmp_path / "n")
    assert torch.equal(torch.get_rng_state(), before)


def test_channels_last_network(tmp_path: Path) -> None:
    """Weights in another memory order are saved like any other."""
    model = create("vgg-student", **SETTINGS).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save(model, tmp_path / "n", name="vgg-student", **SETTINGS)
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in load(tmp_path / "n").state_dict().items())


def test_folder_is_made_and_file_replaced(tmp_path: Path) -> None:
    """A missing folder is made, an old file replaced, and nothing else is left there."""
    path = tmp_path / "a" / "b" / "net.safetensors"
    for _ in range(2):
        save(create("vgg-student", **SETTINGS), path, name="vgg-student", **SETTINGS)
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    """Whoever knows a network by its file's hash must not take it for another; strings are any text."""
    model = create("vgg-student", **SETTINGS)
    extra = {"classes": '["ä", "b"]', "mean": "[0.5]", "a": "\n", "recipe": "x/y", "data": "digits"}
    for name in ("one", "two"):
        save(model, tmp_path / name, name="vgg-student", **SETTINGS, extra=extra)
        extra = dict(reversed(extra.items()))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert spec(tmp_path / "two").items() >= extra.items()
    with (tmp_path / "two").open("rb") as file:
        assert int.from_bytes(file.read(8), "little") % 8 == 0  # the format aligns the tensors


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails, the file that was there is whole and no half file remains."""
    path = tmp_path / "n"
    save(create("vgg-student", **SETTINGS), path, name="vgg-student", **SETTINGS)
    before = path.read_bytes()

    def fail(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save(create("vgg-student", **SETTINGS), path, name="vgg-student", **SETTINGS)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "wrong",
    [{"name": "vgg-teacher"}, {"name": "vgg-bn-student"}, {"num_classes": 4}, {"in_channels": 3}, {"width": 0.2}],
)
def test_settings_that_do_not_fit_the_model(wrong: dict[str, Any], tmp_path: Path) -> None:
    """A description that builds another network is refused before anything is written."""
    with pytest.raises(CheckpointError, match="nothing was written"):
        save(create("vgg-student", **SETTINGS), tmp_path / "n", **{"name": "vgg-student", **SETTINGS, **wrong})
    assert not list(tmp_path.iterdir())


def test_settings_that_build_nothing(tmp_path: Path) -> None:
    """An unknown name is refused as in create."""
    with pytest.raises(OptionError, match="vgg-student"):
        save(create("vgg-student", **SETTINGS), tmp_path / "n", name="vgg-studentt", **SETTINGS)


def test_extra_cannot_hide_the_description(tmp_path: Path) -> None:
    """Extra keys that describe the model are refused."""
    with pytest.raises(CheckpointError, match="width"):
        save(create("vgg-student", **SETTINGS), tmp_path / "n", name="vgg-student", **SETTINGS, extra={"width": "1"})
    with pytest.raises(CheckpointError, match="svdistill_sha256"):
        save(create("vgg-student", **SETTINGS), tmp_path / "n", **NAMED, extra={"svdistill_sha256": "1"})


@pytest.mark.parametrize("reader", [load, spec])
def test_missing_file(reader: Any, tmp_path: Path) -> None:
    """A file that is not there, or is a folder, is named."""
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError, match=f"no saved network at {path}"):
            reader(path)


@pytest.mark.parametrize("reader", [load, spec])
@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_damaged_file(reader: Any, keep: int, tmp_path: Path) -> None:
    """A file that is cut off anywhere is called damaged."""
    path = tmp_path / "n"
    save(create("vgg-student", **SETTINGS), path, name="vgg-student", **SETTINGS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged"):
        reader(path)


def test_any_change_is_noticed(tmp_path: Path) -> None:
    """In weights, strings and sizes, by whichever reader: a bit every few bytes, and 4 KiB of zeros."""
    path = tmp_path / "n"
    extra = {"mean": "[0.125, 0.5]"}
    save(create("vgg-student", **SETTINGS), path, name="vgg-student", **SETTINGS, extra=extra)
    whole, known = path.read_bytes(), spec(path)
    length = int.from_bytes(whole[:8], "little")
    tensors = range(8 + length, len(whole), len(whole) // 20)
    for position in [*range(0, 8 + length, 5), *tensors]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises((CheckpointError, SvdistillWarning)):  # a warning where the checksum's own name is damaged
            spec(path)
    for position in tensors:
        path.write_bytes(whole[:position] + bytes(4096) + whole[position + 4096 :])
        with pytest.raises(CheckpointError, match="has changed since it was written"):
            load(path)
    path.write_bytes(whole.replace(b"[0.125, 0.5]", b"[0.625, 0.5]"))
    with pytest.raises(CheckpointError, match="has changed since it was written"):
        spec(path)
    path.write_bytes(whole)
    assert spec(path) == known


def test_the_checksum_by_hand(tmp_path: Path) -> None:
    """SHA-256 of the header without it, its strings in order and nothing between them, and of the tensors."""
    path = tmp_path / "n"
    save(create("vgg-student", **SETTINGS), path, name="vgg-student", **SETTINGS, extra={"ü": "µ"})
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = whole[8 : 8 + length].rstrip()
    (found,) = re.findall(rb',"svdistill_sha256":"([0-9a-f]{64})"', header)
    rest = header.replace(b',"svdistill_sha256":"' + found + b'"', b"")
    assert hashlib.sha256(rest + whole[8 + length :]).hexdigest() == found.decode()


def test_a_file_of_an_earlier_version(tmp_path: Path) -> None:
    """It has no checksum, and is read with a note."""
    _foreign(tmp_path / "n", {})
    for reader in (load, spec):
        with pytest.warns(SvdistillWarning, match="carry no checksums"):
            reader(tmp_path / "n")


def _foreign(path: Path, changes: dict[str, str | None], *, drop: str | None = None) -> None:
    """Write a file whose metadata or tensors differ from what save writes, and which has no checksum."""
    save(create("vgg-student", **SETTINGS), path, name="vgg-student", **SETTINGS)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), "svdistill_sha256": None, **changes}
    tensors = {key: value for key, value in safetensors.torch.load_file(path).items() if key != drop}
    safetensors.torch.save_file(tensors, path, {key: value for key, value in metadata.items() if value is not None})


@pytest.mark.parametrize("reader", [load, spec])
@pytest.mark.parametrize("changes", [{"svdistill_format": None}, {"svdistill_format": "99"}, {"width": None}])
def test_foreign_file(reader: Any, changes: dict[str, str | None], tmp_path: Path) -> None:
    """A safetensors file of someone else, or of another format, is named as such."""
    _foreign(tmp_path / "n", changes)
    with pytest.raises(CheckpointError, match="lacks the description of format 1"):
        reader(tmp_path / "n")


@pytest.mark.filterwarnings("ignore:files of an earlier version")
@pytest.mark.parametrize("reader", [load, spec])
def test_damaged_description(reader: Any, tmp_path: Path) -> None:
    """A number that is none is called damaged."""
    _foreign(tmp_path / "n", {"num_classes": "three"})
    with pytest.raises(CheckpointError, match="damaged description"):
        reader(tmp_path / "n")


@pytest.mark.filterwarnings("ignore:files of an earlier version")
@pytest.mark.parametrize(
    ("changes", "drop", "message"),
    [
        ({"name": "resnet"}, None, "cannot build.*'resnet'"),
        ({"num_classes": "9"}, None, r"classifier.output.* has shape \(3"),
        ({}, "block1.conv1.bias", "block1.conv1.bias is missing"),
        ({"name": "vgg-bn-student"}, None, "does not fit"),
    ],
)
def test_weights_that_do_not_fit_the_description(
    changes: dict[str, str | None], drop: str | None, message: str, tmp_path: Path
) -> None:
    """Weights of another model are not loaded."""
    _foreign(tmp_path / "n", changes, drop=drop)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "n")
