"""Tests of networks of other libraries; those that need one are skipped where it is not installed."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from svdistill.errors import OptionError, SvdistillWarning
from svdistill.nets import Taps, create, default_taps, foreign, load, names, save, spec
from svdistill.nets.libraries.protocol import cannot_make
from svdistill.nets.outputs import find_logits
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


@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
def test_not_installed(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is not there is named, with the way to get it."""
    for module in (library, f"{library}.models", f"{library}.models.auto.modeling_auto"):
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
        ("timm", {"name": "timm:resnet18", "arguments": {"drop_rat": 1}}, "drop_rat: unknown to .*'drop_rate'"),
        (
            "timm",
            {"name": "timm:resnet18", "arguments": {"checkpoint_path": "x"}},
            "checkpoint_path: not for",
        ),
        ("torchvision", {"name": "torchvision:resnet18", "arguments": {"grups": 1}}, "grups: unknown to .*'groups'"),
        ("transformers", {"name": "transformers:vitt"}, "transformers has no image model 'vitt'; did you mean 'vit'"),
        ("transformers", {"name": "transformers:vit", "arguments": {"hiden_size": 8}}, "hiden_size: .*'hidden_size'"),
        ("transformers", {"name": "transformers:vit", "arguments": {"auto_map": {}}}, "auto_map: unknown to 'vit'"),
        ("transformers", {"name": "transformers:vit", "pretrained": True}, "names a type, which has no weights"),
        ("transformers", {"name": "transformers:clip_vision_model"}, "has no image classifier of 'clip_vision_model'"),
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


def test_what_a_network_needs_beside_its_library() -> None:
    """Where that cannot be imported the arguments are not to blame, and what it began with is named."""
    error = ModuleNotFoundError("Could not import module 'Dinov2ForImageClassification'")
    error.__cause__ = RuntimeError("operator torchvision::nms does not exist")
    told = str(cannot_make("transformers' 'dinov2'", {"image_size": 28}, error))
    assert told.startswith(
        "transformers' 'dinov2' cannot be imported (operator torchvision::nms does not exist); install"
    )


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_no_taps_of_their_own(library: str) -> None:
    """The taps have to be named, and the error says where."""
    installed(library)
    with pytest.raises(OptionError, match=rf"name them, as 'svdistill taps {library}:"):
        default_taps(f"{library}:resnet18")


TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TRANSFORMER |= {"image_size": 16, "patch_size": 8}
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SWIN = {"image_size": 16, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]}


@pytest.mark.parametrize(
    ("name", "classes", "arguments", "width"),
    [
        ("transformers:vit", 3, TRANSFORMER, 3),
        ("transformers:vit", 0, TRANSFORMER, 16),
        ("transformers:clip_vision_model", 0, TRANSFORMER, 16),
        ("transformers:swin", 3, SWIN, 3),
        ("transformers:deit", 3, TRANSFORMER, 3),
        ("timm:vit_tiny_patch16_224", 0, {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1}, 24),
        ("torchvision:resnet18", 0, {}, 512),
    ],
)
def test_with_arguments_and_without_a_classifier(
    name: str, classes: int, arguments: dict[str, Any], width: int, tmp_path: Path
) -> None:
    """What is saved says its arguments, and gives the same numbers when it is loaded."""
    installed(name.partition(":")[0])
    torch.manual_seed(0)
    network = create(name, num_classes=classes, arguments=arguments)
    path = tmp_path / "net.safetensors"
    save(network, path, name=name, num_classes=classes, in_channels=3, width=1.0, arguments=arguments)
    assert spec(path).get("arguments", {}) == arguments
    images = torch.rand(2, 3, 16, 16)
    found = find_logits(network.eval()(images))
    assert found.shape == (2, width)
    assert torch.equal(find_logits(load(path)(images)), found)


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    """Weights in half precision come as float32; another number of classes begins afresh; the file needs no folder."""
    installed("transformers")
    from transformers import SwinConfig, SwinForImageClassification

    torch.manual_seed(0)
    source = SwinForImageClassification(SwinConfig(**SWIN, num_labels=7)).eval()
    source.half().save_pretrained(tmp_path / "swin")
    scale = '{"image_mean": [0.5, 0.25, 0.75], "image_std": [0.5, 1, 2], "size": {"shortest_edge": 20}}'
    (tmp_path / "swin" / "preprocessor_config.json").write_text(scale)
    name = f"transformers:{tmp_path / 'swin'}"
    assert foreign.configuration(name) == (7, (16, 16), (0.5, 0.25, 0.75), (0.5, 1, 2))
    network = create(name, num_classes=7, pretrained=True)
    images = torch.rand(2, 3, 16, 16)
    logits = network.eval()(images).logits
    assert torch.allclose(logits, source.float()(images).logits, atol=1e-6)
    save(network, tmp_path / "net.safetensors", name=name, num_classes=7, in_channels=3, width=1.0)
    (tmp_path / "swin").rename(tmp_path / "gone")
    assert torch.equal(load(tmp_path / "net.safetensors")(images).logits, logits)
    name = f"transformers:{tmp_path / 'gone'}"
    with pytest.warns(SvdistillWarning, match=r"have none for classifier\.bias, classifier\.weight, which begin"):
        assert create(name, num_classes=3, pretrained=True).eval()(images).logits.shape == (2, 3)
    with pytest.raises(OptionError, match=r"do not fit it: \d+ are missing or of another shape, 'swin\."):
        create(name, num_classes=7, pretrained=True, arguments={"embed_dim": 4})


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        (
            "timm:vit_small_patch14_dinov2",
            {"img_size": 98},
            (0, (98, 98), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ),
        ("timm:resnet18", {}, (1000, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
        ("torchvision:vit_b_16", {}, (1000, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
    ],
)
def test_what_their_configuration_says(name: str, arguments: dict[str, Any], expected: tuple[Any, ...]) -> None:
    """Classes, image size and normalization of trained weights."""
    installed(name.partition(":")[0])
    assert foreign.configuration(name, arguments=arguments) == expected


def test_weights_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are fitted to another number of classes, or to none; auxiliary classifiers are left out."""
    installed("torchvision")
    from torchvision import models

    torch.manual_seed(0)
    source = models.googlenet(init_weights=False)
    state = source.state_dict()
    monkeypatch.setattr(models.GoogLeNet_Weights, "get_state_dict", lambda *_, **__: state)
    for classes in (1000, 3, 0):
        network = create("torchvision:googlenet", num_classes=classes, pretrained=True)
        assert torch.equal(network.conv1.conv.weight, source.conv1.conv.weight)
        assert network.eval()(torch.rand(1, 3, 32, 32)).shape == (1, classes or 1024)


def test_weights_in_the_cache_of_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are found there without a network, and fitted to the classes; another number of channels is averaged."""
    installed("timm")
    import safetensors.torch
    import timm
    from huggingface_hub import constants

    source, commit = timm.create_model("resnet18"), "a" * 40
    home = tmp_path / "models--timm--resnet18.a1_in1k"
    (home / "snapshots" / commit).mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    safetensors.torch.save_file(
        source.state_dict(), home / "snapshots" / commit / "model.safetensors", {"format": "pt"}
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    network = create("timm:resnet18", num_classes=3, pretrained=True)
    assert torch.equal(network.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert network.fc.weight.shape == (3, 512)
    grey = create("timm:resnet18", num_classes=3, in_channels=1, pretrained=True)
    assert torch.allclose(grey.conv1.weight, source.conv1.weight.sum(1, keepdim=True), atol=1e-6)
    assert foreign.configuration("timm:resnet18", in_channels=1).mean == pytest.approx((0.449,), abs=1e-3)


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18", "transformers:owner/name"])
def test_out_of_reach(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Weights that are neither here nor to be had are one line that says what to do."""
    installed(name.partition(":")[0])
    if name.startswith("torchvision:"):
        monkeypatch.setattr("socket.socket.connect", lambda *_: (_ for _ in ()).throw(OSError("no network")))
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    else:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OptionError, match=r"cannot be had .*; look at the (name and the )?connection") as caught:
        create(name, num_classes=3, pretrained=True)
    assert "\n" not in str(caught.value)
