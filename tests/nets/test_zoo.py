"""Tests of networks by name."""

from typing import Any

import pytest
import torch
from torch import nn

from svdistill.errors import OptionError, ShapeError
from svdistill.nets import Taps, create, default_taps, names
from svdistill.nets.zoo import check_name

PAIRS = ["vgg-teacher", "vgg-student", "mobilenet-teacher", "mobilenet-student", "resnext-teacher", "resnext-student"]
PROTOCOL = ["resnet8", "resnet110", "resnet8x4", "resnet32x4", "wrn-16-2", "wrn-40-1", "wrn-40-2", "vgg8", "vgg13"]


def test_names() -> None:
    """The published networks, their batch norm variants and those of the usual protocol are known."""
    plain = ["vgg-teacher", "vgg-student", "vgg-stride-student"]
    assert set(names()) >= {*plain, *(name.replace("vgg", "vgg-bn") for name in plain), *PAIRS, *PROTOCOL}
    for name in names():
        check_name(name)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("size", [(1, 1), (28, 28), (33, 20)])
def test_any_image_size(name: str, size: tuple[int, int]) -> None:
    """Every network takes images from one pixel up, square or not, with finite logits and gradients everywhere."""
    model = create(name, num_classes=7, in_channels=2, width=0.05)
    logits = model(torch.randn(3, 2, *size))
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_same_seed_same_network() -> None:
    """The weights come from torch's global generator and from nowhere else."""
    for name in names():
        torch.manual_seed(5)
        first = create(name, num_classes=4, width=0.1).state_dict()
        torch.manual_seed(5)
        second = create(name, num_classes=4, width=0.1).state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (3, 32, 32), (2, 3072)])
def test_wrong_images_are_explained(name: str, shape: tuple[int, ...]) -> None:
    """Images with another number of channels or dimensions are answered in one line."""
    with pytest.raises(ShapeError, match=r"expected \(B, 3, H, W\)"):
        create(name, num_classes=3, width=0.1)(torch.zeros(shape))


@pytest.mark.parametrize("name", [name for name in names() if not name.startswith("vgg-")])
def test_signal_keeps_its_size(name: str) -> None:
    """At the start, logits of noise neither vanish nor explode."""
    torch.manual_seed(0)
    model = create(name, num_classes=10, width=0.25)
    deviation = model(torch.randn(16, 3, 16, 16)).std().item()
    assert 0.05 < deviation < 20


@pytest.mark.parametrize(
    ("family", "channels", "sizes"),
    [
        ("mobilenet", [64, 128, 256, 512, 1024], [32, 16, 8, 4, 4]),
        ("resnext", [64, 64, 128, 256], [32, 32, 16, 8]),
    ],
)
@pytest.mark.parametrize("size", [32, 64])
def test_taps_of_the_published_pairs(family: str, channels: list[int], sizes: list[int], size: int) -> None:
    """Teacher and student have maps of the same shape at their taps, so that no adapter is needed."""
    for role in ("teacher", "student"):
        name = f"{family}-{role}"
        model = create(name, num_classes=3, width=1 / 16).eval()
        with Taps(model, default_taps(name)) as taps, torch.no_grad():
            model(torch.randn(1, 3, size, size))
            *maps, last = taps.collect()
        assert last.shape == (1, channels[-1] // 16)
        expected = [(1, c // 16, s * size // 32, s * size // 32) for c, s in zip(channels, sizes, strict=True)]
        assert [tuple(m.shape) for m in maps] == expected


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet8", [16, 16, 32, 64]),
        ("resnet32x4", [32, 64, 128, 256]),
        ("wrn-16-1", [16, 16, 32, 64]),
        ("wrn-40-2", [16, 32, 64, 128]),
    ],
)
def test_taps_of_residual_networks(name: str, channels: list[int]) -> None:
    """The stem and three stages, of which the last two halve the map."""
    model = create(name, num_classes=3, width=0.25).eval()
    with Taps(model, default_taps(name)) as taps, torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
        *maps, last = taps.collect()
    assert last.shape == (1, channels[-1] // 4)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c // 4, s, s) for c, s in zip(channels, (32, 32, 16, 8), strict=True)
    ]


@pytest.mark.parametrize("name", names())
def test_default_taps_exist(name: str) -> None:
    """The default taps are submodules, in the order of the network."""
    model = create(name, num_classes=2, width=0.1)
    order = [module for module, _ in model.named_modules()]
    places = [order.index(tap) for tap in default_taps(name)]
    assert len(places) >= 2
    assert places == sorted(places)


@pytest.mark.parametrize("name", names())
def test_default_taps_end_with_what_the_output_layer_reads(name: str) -> None:
    """The last tap, not negative, sent through the output layer gives the logits; it is no dropout's output."""
    model = create(name, num_classes=3, width=0.1).eval()
    output = model.get_submodule("classifier.output")
    images = torch.randn(2, 3, 16, 16)
    with Taps(model, default_taps(name)) as taps, torch.no_grad():
        logits = model(images)
        last = taps.collect()[-1]
    assert torch.equal(output(last), logits)
    assert last.ndim == 2
    assert (last >= 0).all()
    assert isinstance(model.get_submodule(default_taps(name)[-1]), nn.ReLU | nn.Flatten)


def test_width_scales_every_channel_count() -> None:
    """Half the width halves convolutions and hidden layers, but neither images nor classes."""
    model = create("vgg-teacher", num_classes=10, in_channels=1, width=0.5)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert convolutions[0].in_channels == 1
    assert [m.out_channels for m in convolutions] == [32] * 2 + [64] * 2 + [128] * 3 + [256] * 3
    assert [m.out_features for m in linear] == [512, 512, 10]


def test_tiny_width_keeps_one_channel() -> None:
    """However small the width, a channel remains."""
    model = create("vgg-student", num_classes=2, width=1e-6)
    assert {m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)} == {1}


def test_unknown_name_points_to_the_nearest() -> None:
    """A misspelt name is answered with the right one."""
    with pytest.raises(OptionError, match=r"'vgg-studnet'.*'vgg-student'"):
        create("vgg-studnet", num_classes=2)
    with pytest.raises(OptionError, match="known: vgg-teacher"):
        default_taps("zzz")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("width", w) for w in (0, -1.0, float("nan"), float("inf"), "1", True, None)],
        *[(key, v) for key in ("num_classes", "in_channels") for v in (0, -3, 2.0, "3", True, None)],
    ],
)
def test_numbers_out_of_range(key: str, value: Any) -> None:
    """A setting of the wrong type or range is refused by its key."""
    settings: dict[str, Any] = {"num_classes": 2, key: value}
    with pytest.raises(OptionError, match=f"{key} is {value!r}, expected"):
        create("vgg-student", **settings)
