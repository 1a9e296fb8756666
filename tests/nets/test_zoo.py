"""Tests of networks by name."""

from typing import Any

import pytest
from torch import nn

from svdistill.errors import RecipeError
from svdistill.nets import create, default_taps, names


def test_names() -> None:
    """The published networks and their batch norm variants are known."""
    plain = ["vgg-teacher", "vgg-student", "vgg-stride-student"]
    assert set(names()) >= {*plain, *(name.replace("vgg", "vgg-bn") for name in plain)}


@pytest.mark.parametrize("name", names())
def test_default_taps_exist(name: str) -> None:
    """The default taps are submodules, in the order of the network."""
    model = create(name, num_classes=2, width=0.1)
    order = [module for module, _ in model.named_modules()]
    places = [order.index(tap) for tap in default_taps(name)]
    assert len(places) >= 2
    assert places == sorted(places)


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
    with pytest.raises(RecipeError, match=r"'vgg-studnet'.*'vgg-student'"):
        create("vgg-studnet", num_classes=2)
    with pytest.raises(RecipeError, match="known: vgg-teacher"):
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
    with pytest.raises(RecipeError, match=f"{key} is {value!r}, expected"):
        create("vgg-student", **settings)
