"""Tests of weights that somebody else has saved: every wrapping comes to the same, nothing runs, all must fit."""

import argparse
import os
import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.nets.own_code import Small
from torch import nn

from svdistill.errors import CheckpointError, SvdistillWarning
from svdistill.nets import create, save
from svdistill.nets.fit import fit
from svdistill.nets.states import read

State = dict[str, Any]


def prefixed(state: State, prefix: str) -> State:
    """Put something in front of each name."""
    return {f"{prefix}{key}": value for key, value in state.items()}


def compiled_inside(state: State) -> State:
    """Name a submodule as `torch.compile` does."""
    return {key.replace("first.", "first._orig_mod."): value for key, value in state.items()}


WRAPPED: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "data parallel": lambda state: prefixed(state, "module."),
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "both": lambda state: prefixed(state, "module._orig_mod."),
    "compiled inside": compiled_inside,
    "torch's average": lambda state: {"n_averaged": torch.tensor(3), **prefixed(state, "module.")},
    "lightning": lambda state: {
        "epoch": 3,
        "state_dict": {**prefixed(state, "net.body."), "criterion.weight": torch.ones(2)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": []}],
    },
    "timm's script": lambda state: {"arch": "small", "args": argparse.Namespace(lr=0.1), "state_dict": state},
    "torch's ImageNet example": lambda state: {
        "epoch": 3,
        "state_dict": prefixed(state, "module."),
        "best_acc1": torch.tensor(71.2),
    },
    "nested": lambda state: {"model": {"module": state}, "step": 7},
    "old": lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_wrappers_are_understood(wrapping: str, tmp_path: Path) -> None:
    """The network has the very weights that were saved."""
    source, network = Small(3), Small(3)
    torch.save(WRAPPED[wrapping](source.state_dict()), tmp_path / "weights.pt")
    assert fit(network, read(tmp_path / "weights.pt"), what="it") == ()
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in source.state_dict().items())


@pytest.mark.parametrize("how", ["beside", "timm", "within"])
def test_averaged_weights_are_taken(how: str, tmp_path: Path) -> None:
    """They are what was measured; of two in one file a warning names both."""
    plain, averaged, network = Small(3), Small(3), Small(3)
    a, b = plain.state_dict(), averaged.state_dict()
    held: Any = {
        "beside": {"model": a, "model_ema": prefixed(b, "module.")},
        "timm": {"state_dict": a, "state_dict_ema": b},
    }
    held["within"] = {"state_dict": {**prefixed(a, "model."), **prefixed(b, "ema_model.module.")}}
    torch.save(held[how], tmp_path / "weights.pt")
    with pytest.warns(SvdistillWarning, match="averaged .* are taken"):
        fit(network, read(tmp_path / "weights.pt"), what="it")
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in b.items())


@pytest.mark.parametrize("other", ["semantic_head", "swapped", "cinema"])
def test_names_that_only_look_like_those_of_averages(other: str, tmp_path: Path) -> None:
    """The network is what its wrapper is called after, and nothing is said of averaged weights."""
    source, network = Small(3), Small(3)
    torch.save({"model": source.state_dict(), other: Small(3).state_dict()}, tmp_path / "weights.pt")
    fit(network, read(tmp_path / "weights.pt"), what="it")
    assert torch.equal(network.head.weight, source.head.weight)


def test_safetensors(tmp_path: Path) -> None:
    """Plain ones, and ours, whose checksum is compared."""
    source, network = Small(3), Small(3)
    safetensors.torch.save_file(prefixed(source.state_dict(), "module."), tmp_path / "plain.safetensors")
    fit(network, read(tmp_path / "plain.safetensors"), what="it")
    assert torch.equal(network.head.weight, source.head.weight)
    ours, path = create("vgg8", num_classes=2, width=0.1), tmp_path / "ours.safetensors"
    save(ours, path, name="vgg8", num_classes=2, in_channels=3, width=0.1)
    fit(create("vgg8", num_classes=2, width=0.1), read(path), what="it")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="has changed since it was written"):
        read(path)


class Runs:
    """What a pickle can have called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder / "ran"),)


@pytest.mark.parametrize("kind", ["torch", "old torch", "pickle"])
def test_no_code_runs(kind: str, tmp_path: Path) -> None:
    """What would call a function is refused by name, in a file of any form."""
    path, held = tmp_path / "weights.pt", {"state_dict": Small(3).state_dict(), "extra": Runs(tmp_path)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(held))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=kind == "torch")
    wanted = r"posix\.mkdir|nt\.mkdir" if kind == "torch" else "is a plain pickle"
    with pytest.raises(CheckpointError, match=f"({wanted}).*save model.state_dict\\(\\) alone"):
        read(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (Small(3), r"holds tests\.nets\.own_code\.Small beside its weights"),
        ([torch.ones(1)], "holds a list, expected weights by name"),
        ({"step": 3}, "holds no weights by name"),
        ({"first": {"a": torch.ones(1)}, "second": {"a": torch.ones(1)}}, "holds weights under first, second; save"),
    ],
)
def test_what_is_no_state(held: Any, message: str, tmp_path: Path) -> None:
    """A whole pickled network, a list, and more than one network."""
    torch.save(held, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "weights.pt")


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    """Each is one line with the file's name."""
    path = tmp_path / "weights.pt"
    with pytest.raises(CheckpointError, match=f"no weights at {path}"):
        read(path)
    torch.save(Small(3).state_dict(), path)
    whole = path.read_bytes()
    neither = "is damaged, or of neither torch nor safetensors"
    damaged = {
        whole[:200]: "its end is lacking",
        whole.replace(b"first.0.weight", b"first.0.\xff\xfeight"): "",
        b"": neither,
        b"\x01" * 64: neither,
    }
    for content, message in damaged.items():
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"weights\.pt.*{message}"):
            fit(Small(3), read(path), what=str(path))


def test_another_number_of_classes() -> None:
    """The last layer begins afresh where that was said, and is named; all else is loaded."""
    source, network = Small(5), Small(3)
    head = deepcopy(network.head)
    assert set(fit(network, source.state_dict(), what="it", num_classes=3)) == {"head.weight", "head.bias"}
    assert torch.equal(network.head.weight, head.weight)
    assert torch.equal(network.first[0].weight, source.first[0].weight)
    with pytest.raises(
        CheckpointError, match=r"it does not fit the network: head\.weight is \(5, 8\) there and \(3, 8\)"
    ):
        fit(network, source.state_dict(), what="it")


def test_several_networks_in_one_state() -> None:
    """Nothing says which is meant."""
    state = Small(3).state_dict()
    with pytest.raises(CheckpointError, match=r"several networks of this kind, under student\. and teacher\.; save"):
        fit(Small(3), prefixed(state, "student.") | prefixed(state, "teacher."), what="it")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({"fist.0.weight": s.pop("first.0.weight")}), r"lacks first\.0\.weight of 11.*'fist\.0"),
        (lambda s: s.pop("head.bias"), r"it lacks head\.bias of 11"),
        (lambda s: s.update(aux=torch.ones(2)), "it has aux that the network has not"),
        (lambda s: s.update({"first.0.weight": torch.ones(9, 3, 3, 3)}), r"first\.0\.weight is \(9, 3, 3, 3\) there"),
        (lambda s: s["first.0.weight"][0].fill_(float("nan")), r"it holds NaN in first\.0\.weight, as of a training"),
        (lambda s: s.clear(), r"it lacks first\.0\.weight, first\.0\.bias and 8 more of 11"),
    ],
)  # fmt: skip
def test_what_does_not_fit(change: Callable[[State], Any], message: str) -> None:
    """The keys are named, the nearest ones too, and the network is as it was."""
    network: nn.Module = Small(3)
    before, state = deepcopy(network.state_dict()), deepcopy(network.state_dict())
    for value in state.values():
        value.add_(1)
    change(state)
    with pytest.raises(CheckpointError, match=message) as caught:
        fit(network, state, what="it", num_classes=3)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
