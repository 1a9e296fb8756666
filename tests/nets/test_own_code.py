"""Tests of networks of the user's own code: they run where that is allowed, and are saved and loaded as ours are."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.nets.own_code import Counting, Lazy, Small, Tied

import svdistill
from svdistill.errors import CheckpointError, OptionError
from svdistill.nets import create, load, save, spec
from svdistill.nets.zoo import check_name

NAME = "tests.nets.own_code:Small"
SETTINGS: dict[str, Any] = {"num_classes": 3, "in_channels": 1}


def test_code_runs_only_where_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its name nor a file that holds it imports anything; one line says how to allow it."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom {Small.__module__} import Small\n")
    monkeypatch.syspath_prepend(tmp_path)
    for call in (check_name, lambda name: create(name, num_classes=2)):
        with pytest.raises(
            OptionError, match=r"'evil:Small' is code, which runs only where you allow it: --allow-code"
        ):
            call("evil:Small")
    with pytest.raises(OptionError, match="or did you mean 'timm:resnet18'"):
        check_name("tim:resnet18")
    path = tmp_path / "net.safetensors"
    save(Small(3, 1), path, name="evil:Small", width=1.0, **SETTINGS)
    (tmp_path / "ran").unlink()
    del sys.modules["evil"]
    assert spec(path)["name"] == "evil:Small"
    with pytest.raises(OptionError, match="is of 'evil:Small', code which runs only where you allow it"):
        svdistill.load(path)
    assert not (tmp_path / "ran").exists()
    svdistill.load(path, allow_code=True)
    assert (tmp_path / "ran").exists()


def test_saved_and_loaded(tmp_path: Path) -> None:
    """With its arguments, the same outputs; other arguments do not fit the network, and nothing is written."""
    path, arguments = tmp_path / "net.safetensors", {"width": 6, "named": True}
    network = create(NAME, **SETTINGS, arguments=arguments, allow_code=True)
    assert network.training
    save(network, path, name=NAME, width=1.0, arguments=arguments, **SETTINGS)
    assert spec(path) == {"name": NAME, "width": 1.0, "arguments": arguments, **SETTINGS}
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(load(path, allow_code=True)(images).logits, network.eval()(images).logits)
    with pytest.raises(CheckpointError, match="nothing was written"):
        save(network, tmp_path / "other", name=NAME, width=1.0, **SETTINGS)
    with pytest.raises(CheckpointError, match="arguments cannot be written as JSON"):
        save(network, tmp_path / "other", name=NAME, width=1.0, arguments={"width": torch.ones(1)}, **SETTINGS)
    assert not (tmp_path / "other").exists()


def test_a_layer_of_two_names(tmp_path: Path) -> None:
    """It is still one after loading."""
    network, path = Tied(3), tmp_path / "net.safetensors"
    save(network, path, name="tests.nets.own_code:Tied", num_classes=3, in_channels=1, width=1.0)
    again = load(path, allow_code=True)
    assert isinstance(again, Tied)
    assert again.one.weight is again.two.weight
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(again(images), network(images))


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Lazy, r"has no shape for head\.weight before it runs"), (Counting, "keeps a int in its state, _extra_state")],
)
def test_what_a_file_cannot_hold(kind: Any, message: str, tmp_path: Path) -> None:
    """Said so, and nothing is written."""
    network = kind(3)
    with pytest.raises(CheckpointError, match=message):
        save(network, tmp_path / "n", name=f"tests.nets.own_code:{kind.__name__}", width=1.0, **SETTINGS)
    assert not (tmp_path / "n").exists()


def test_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed program starts without it on Python's path."""
    (tmp_path / "mine_here.py").write_text(
        "import torch\n\ndef make(classes):\n    return torch.nn.Linear(4, classes)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])
    made = create("mine_here:make", num_classes=2, arguments={"classes": 2}, allow_code=True)
    assert made(torch.rand(1, 4)).shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "tests.nets.own_codes:Small",
            {},
            r"^cannot import 'tests\.nets\.own_codes' of .*ModuleNotFoundError: No module",
        ),
        ("tests.nets.own_code:Smal", {}, "^'tests.nets.own_code' has no 'Smal'; did you mean 'Small'"),
        ("tests.nets.own_code:NUMBER", {}, "is a int, expected what returns a network when it is called"),
        ("tests.nets.own_code:tensor", {}, "returned a Tensor, expected a torch.nn.Module"),
        ("tests.nets.own_code:broken", {"depth": 4}, "cannot be made of depth .KeyError: 'no depth 4'.; change model"),
        ("tests.nets.own_code:broken", {}, "cannot be made .TypeError: missing a required argument: 'depth'."),
        (NAME, {"widht": 4}, "^arguments.widht: unknown to 'tests.nets.own_code:Small'; did you mean 'width'"),
        (NAME, {"num_classes": 4}, r"^arguments\.num_classes: not for arguments"),
        ("tim:resnet18", {}, "^cannot import 'tim' of 'tim:resnet18'.*did you mean 'timm:resnet18'"),
    ],
)
def test_what_cannot_be_made(name: str, arguments: dict[str, Any], message: str) -> None:
    """One line says what is wrong, and what is near."""
    with pytest.raises(OptionError, match=message) as caught:
        create(name, num_classes=2, arguments=arguments, allow_code=True)
    assert "\n" not in str(caught.value)


def test_what_is_not_for_it() -> None:
    """Code has no library with weights, and our own networks take no arguments."""
    with pytest.raises(OptionError, match=r"pretrained: .* is code of your own"):
        create(NAME, num_classes=2, pretrained=True, allow_code=True)
    for setting in ({"arguments": {"a": 1}}, {"pretrained": True}):
        with pytest.raises(OptionError, match="'vgg8' takes none; they are for networks from outside"):
            create("vgg8", num_classes=2, **setting)  # type: ignore[arg-type]
