"""Tests of the survey of all networks, and of the published figures beside it."""

from typing import Any

import pytest
import torch

from svdistill.errors import OptionError
from svdistill.nets import Taps, count, create, default_taps, names, survey, tap_shapes
from svdistill.nets.published import PUBLISHED


def test_every_network_once() -> None:
    """Each name comes once, in order, and nothing random is drawn."""
    before = torch.get_rng_state()
    entries = list(survey(image_size=8, num_classes=3, width=0.1))
    assert [entry.name for entry in entries] == list(names())
    assert all(entry.taps == default_taps(entry.name) for entry in entries)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["vgg-bn-student", "mobilenet-student", "resnext-student", "wrn-16-2", "vgg8"])
def test_same_as_a_real_network(name: str) -> None:
    """Costs and shapes are those of the network with its weights."""
    settings: dict[str, Any] = {"num_classes": 5, "in_channels": 1, "width": 0.3}
    model = create(name, **settings).eval()
    (entry,) = (entry for entry in survey(image_size=20, **settings) if entry.name == name)
    assert (entry.parameters, entry.flops) == count(model, (1, 20, 20))
    with Taps(model, default_taps(name)) as taps:
        model(torch.zeros(1, 1, 20, 20))
        maps = taps.collect()
    expected = [(tap, tuple(m.shape[1:])) for tap, m in zip(default_taps(name), maps, strict=True)]
    assert tap_shapes(name, image_size=20, **settings) == expected


def test_published_figures_are_close() -> None:
    """What is printed agrees with what is counted to 3 %, wherever no note says why it cannot."""
    for classes in (10, 100):
        entries = {entry.name: entry for entry in survey(num_classes=classes)}
        for name, published in PUBLISHED.items():
            if published.classes != classes:
                assert entries[name].published is None
                continue
            entry = entries[name]
            assert entry.published == published
            digits = len(str(published.parameters).partition(".")[2])
            near = abs(entry.parameters / 1e6 - published.parameters) <= max(0.03 * published.parameters, 10**-digits)
            assert near, name
            if published.mflops is not None:
                close = abs(entry.flops / 1e6 / published.mflops - 1) < 0.03
                assert close == (not published.note), name


def test_published_figures_only_where_they_belong() -> None:
    """Another image size, width or number of channels is not what was published."""
    for settings in ({"image_size": 64}, {"width": 0.5}, {"in_channels": 1}, {"num_classes": 99}):
        assert next(survey(**settings)).published is None


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"width": -1.0}, "width is -1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], match: str) -> None:
    """A setting out of range is refused by its key."""
    with pytest.raises(OptionError, match=match):
        list(survey(**settings))
    with pytest.raises(OptionError, match=match):
        tap_shapes("vgg8", **settings)


def test_unknown_name() -> None:
    """A misspelt network is answered with the nearest."""
    with pytest.raises(OptionError, match=r"'resnxt-teacher'.*'resnext-teacher'"):
        tap_shapes("resnxt-teacher")
