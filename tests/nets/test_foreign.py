"""Tests of networks of other libraries; those that need one are skipped where it is not installed."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from svdistill.errors import OptionError
from svdistill.nets import Taps, create, default_taps, load, names, save
from svdistill.nets.zoo import check_name

# Without CUDA libraries torchvision's compiled operators cannot be loaded, and declaring these two is all that its
# import asks for; no network of it uses them.
_OPERATORS: list[torch.library.Library] = []


def installed(library: str) -> None:
    """Skip the test unless a library can be imported."""
    if not _OPERATORS:
        try:
            operators = torch.library.Library("torchvision", "DEF")
            operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError:  # the real ones are there
            operators = torch.library.Library("torchvision", "FRAGMENT")
        _OPERATORS.append(operators)
    pytest.importorskip(library)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_not_installed(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is not there is named, with the way to get it."""
    for module in (library, f"{library}.models"):
        monkeypatch.setitem(sys.modules, module, None)
    for call in (lambda n: create(n, num_classes=2), check_name, default_taps):
        with pytest.raises(OptionError, match=f"{library} is not installed; 'pip install {library}'"):
            call(f"{library}:resnet18")


def test_other_prefixes_are_plain_names() -> None:
    """A colon alone makes no library."""
    for name in ("keras:1", "timm", ":", "torchvision"):
        with pytest.raises(OptionError, match="no network is called"):
            check_name(name)
    assert not any(":" in name for name in names())


@pytest.mark.parametrize(
    ("name", "channels"), [("timm:resnet18", 1), ("timm:resnet18.a1_in1k", 3), ("torchvision:resnet18", 3)]
)
def test_create_save_load(name: str, channels: int, tmp_path: Path) -> None:
    """A network of another library gives logits, can be tapped, and comes back from disk the same."""
    installed(name.partition(":")[0])
    settings: dict[str, Any] = {"num_classes": 4, "in_channels": channels, "width": 1.0}
    torch.manual_seed(0)
    model = create(name, **settings)
    assert model.training
    images = torch.randn(2, channels, 32, 32)
    with Taps(model, ["layer1", "layer2"]) as taps:
        assert model(images).shape == (2, 4)
        assert [m.shape[1] for m in taps.collect()] == [64, 128]
    save(model, tmp_path / "net.safetensors", name=name, **settings)
    before = torch.get_rng_state()
    again = load(tmp_path / "net.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again(images), model.eval()(images))


def test_tensors_that_are_in_no_state_dict(tmp_path: Path) -> None:
    """A transformer whose index tables are not saved works after loading."""
    installed("timm")
    name, settings = "timm:swin_tiny_patch4_window7_224", {"num_classes": 2, "in_channels": 3, "width": 1.0}
    model = create(name, num_classes=2).eval()
    save(model, tmp_path / "net.safetensors", name=name, **settings)  # type: ignore[arg-type]
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "net.safetensors")(images), model(images))


def test_logits_in_train_mode() -> None:
    """Networks with auxiliary outputs are made without them."""
    installed("torchvision")
    logits = create("torchvision:googlenet", num_classes=3)(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("library", "settings", "match"),
    [
        ("timm", {"name": "timm:resnet19"}, "timm has no network 'resnet19'; did you mean 'resnet1"),
        ("torchvision", {"name": "torchvision:resnet19"}, "torchvision has no network 'resnet19'; did you mean"),
        ("timm", {"name": "timm:resnet18", "width": 0.5}, "width is 0.5, but 'timm:resnet18' has a width of its own"),
        ("torchvision", {"name": "torchvision:resnet18", "in_channels": 1}, "in_channels is 1, but networks of"),
    ],
)
def test_what_they_cannot_do(library: str, settings: dict[str, Any], match: str) -> None:
    """Unknown names, widths and channels are refused in one line."""
    installed(library)
    with pytest.raises(OptionError, match=match):
        create(**{"num_classes": 2, **settings})


def test_made_for_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library whose compiled part does not load is reported in one line."""

    def fail(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(OptionError, match=r"torchvision does not fit the torch .*nms does not exist"):
        check_name("torchvision:resnet18")


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_no_taps_of_their_own(library: str) -> None:
    """The taps have to be named, and the error says where."""
    installed(library)
    with pytest.raises(OptionError, match=r"name them in model\.taps"):
        default_taps(f"{library}:resnet18")
