"""Names and colours of methods."""

import itertools
import re

import pytest

from svdistill import methods
from svdistill.report.collect import Key
from svdistill.report.methods import CONTRAST, label, looks, setting

KEYS = [
    Key("alone"),
    *(Key(name) for name in ("attention", "fitnet", "fsp", "fsp-two-stage", "relational", "soft-target", "unheard-of")),
    *(Key(f"svd{rest}") for rest in ("", "-k2", "-k4", "-poster", "-kd-methods", "-teacher-basis", "-two-stage")),
    *(Key(name) for name in ("dkd", "dist", "similarity", "pkt", "soft-target-standardized")),
    Key("svd+soft-target"),
]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (Key("alone"), "student alone"),
        (Key("svd-k2"), "KD-SVD, rank 2"),
        (Key("svd-poster"), "KD-SVD, poster"),
        (Key("fsp-two-stage"), "FSP, two stages"),
        (Key("fitnet+soft-target-two-stage"), "FitNets + soft targets, two stages"),
        (Key("svd", (("loss.beta", 4.0),)), "KD-SVD, loss.beta = 4.0"),
        (Key("svd", (("loss.rank", 3),)), "KD-SVD, rank 3"),
        (Key("unheard-of"), "unheard-of"),
        (Key("svdx"), "svdx"),
        (Key("soft-target-standardized"), "soft targets, standardized"),
        (Key("svd+dkd"), "KD-SVD + DKD"),
        (Key("svd-teacher-basis"), "KD-SVD, teacher's basis"),
        (
            Key("svd-k8-teacher-basis-own-norm-two-stage"),
            "KD-SVD, rank 8, teacher's basis, own-norm, two stages",
        ),
    ],
)
def test_label(key: Key, name: str) -> None:
    """Methods are called what papers call them, others what they are."""
    assert label(key) == name


def test_standard_methods_have_their_labels_and_colours() -> None:
    """The same colour in every report, so that two of them can be compared."""
    chosen = looks([Key(name) for name in methods.compared() if methods.shipped()[name].label])
    assert [(key.method, look.label, look.light) for key, look in chosen.items()] == [
        ("alone", "student alone", "#767b82"),
        ("soft-target", "soft targets", "#cf5a00"),
        ("fitnet", "FitNets", "#008a66"),
        ("attention", "AT", "#a87b00"),
        ("relational", "RKD", "#c0559a"),
        ("fsp", "FSP", "#8a4fc7"),
        ("svd", "KD-SVD", "#0068ad"),
    ]


def test_a_method_that_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its own label, also where another's name begins its own, and the look of those that have no colour."""
    added = {name: methods.Method(name, "", name.upper(), 8 + i) for i, name in enumerate(("toy", "svd-toy"))}
    known = {**methods.shipped(), **added}
    monkeypatch.setattr(methods, "shipped", lambda: known)
    assert [label(Key(name)) for name in ("toy", "svd-toy", "toy-k2", "svd-k2", "svd+toy")] == [
        "TOY",
        "SVD-TOY",
        "TOY, rank 2",
        "KD-SVD, rank 2",
        "KD-SVD + TOY",
    ]
    assert looks([Key("toy")])[Key("toy")][2:] == looks([Key("unheard-of")])[Key("unheard-of")][2:]


def test_settings() -> None:
    """Common settings are words, others key = value."""
    assert setting("data.train_size", 1000) == "1,000 labelled images"
    assert setting("train.epochs", 1) == "1 epoch"
    assert setting("data.train_size", None) == "all labelled images"
    assert setting("model.taps", ("a", "b")) == "model.taps = a, b"
    assert setting("data.augment.flip", True) == "data.augment.flip = True"


def luminance(colour: str) -> float:
    """Return relative luminance after WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_looks_tell_methods_apart_and_can_be_seen() -> None:
    """No two methods share variable, colours, dashes and marker; every colour stands out from its paper."""
    chosen = looks(KEYS)
    assert len({look.variable for look in chosen.values()}) == len(KEYS)
    drawn = [(look.light, look.dashes, look.marker) for look in chosen.values()]
    assert len(set(drawn)) == len(KEYS)
    for look in chosen.values():
        assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in (look.light, look.dark))
        assert 1.05 / (luminance(look.light) + 0.05) >= CONTRAST - 0.1
        assert (luminance(look.dark) + 0.05) / (luminance("#14171b") + 0.05) >= CONTRAST - 0.1


def test_colour_of_a_method_does_not_hang_on_the_others() -> None:
    """The first variant of a method has its own colour, whatever else there is."""
    for first, second in itertools.permutations([Key("alone"), Key("svd"), Key("soft-target")], 2):
        assert looks([first, second])[second][2:] == looks([second])[second][2:]
