"""What methods are called and which colour each has, the same in every figure of a report."""

import colorsys
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from svdistill import methods
from svdistill.report.collect import Key
from svdistill.report.tables import plural

_COUNTS = {"data.train_size": "labelled image", "data.image_size": "pixel", "train.epochs": "epoch"}
_SETTINGS = {
    "model.width": "width {}",
    "loss.rank": "rank {}",
    "loss.weight": "weight {}",
    "data.unlabelled.name": "with unlabelled {}",
    "data.held_out": "measured on a held-out part, {}",
    "data.root": "images of {}",
    "data.unlabelled.root": "with unlabelled images of {}",
}
_SETTINGS_OF_NONE = {
    "data.train_size": "all labelled images",
    "data.unlabelled.name": "labels only",
    "data.held_out": "measured on test images",
    "data.root": "images of the usual place",
    "data.unlabelled.root": "no folder of unlabelled images",
}
# One for each method of the standard comparison, in its order. After Okabe and Ito, darkened where white paper asks for
# it; of each pair the second is for dark backgrounds.
_COLOURS = (
    ("#767b82", "#a3a9b1"),
    ("#cf5a00", "#f08a3c"),
    ("#008a66", "#35c79b"),
    ("#a87b00", "#e3b341"),
    ("#c0559a", "#e58cc4"),
    ("#8a4fc7", "#b98cf0"),
    ("#0068ad", "#4aa8ea"),
)
_SUM, _OTHER = "+", "?"  # sums of losses, and methods that the standard comparison does not have
_SUM_COLOURS, _OTHER_COLOURS = ("#8f1d3c", "#ef6f8c"), ("#5d6b3a", "#a9bd78")
# Variants of a method: turn of the hue and factor on the lightness.
_VARIANTS = ((0.0, 1.0), (-0.04, 1.25), (0.05, 0.9), (-0.06, 0.8), (0.08, 1.2), (0.0, 0.65), (0.03, 1.4))
CONTRAST = 3.5  # of a line with the page, after WCAG 2, which asks for 3
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (7, 2, 1.5, 2), (3, 1.5), (9, 2), (1, 2.5))
MARKERS = "osD^vPX"


class Look(NamedTuple):
    """How a method is written and drawn.

    Attributes:
        label: its name for people.
        variable: the CSS variable of its colour.
        light: its colour on a light background.
        dark: its colour on a dark background.
        dashes: lengths of dashes and gaps, in units of the line's width; () = a whole line.
        marker: as matplotlib names it.
    """

    label: str
    variable: str
    light: str
    dark: str
    dashes: tuple[float, ...]
    marker: str


def label(key: Key) -> str:
    """Return the name of a method for people, with the settings that tell it from others of its kind."""
    method, stages = key.method.removesuffix("-two-stage"), key.method.endswith("-two-stage")
    parts = " + ".join(_part(part) for part in method.split("+"))
    settings = [setting(name, value) for name, value in key.variant]
    return ", ".join([parts, *(["two stages"] if stages else []), *settings])


def setting(name: str, value: Any) -> str:
    """Write a setting for people: ``1,000 labelled images``, ``loss.beta = 4``."""
    if value is None and name in _SETTINGS_OF_NONE:
        return _SETTINGS_OF_NONE[name]
    if name.startswith("teacher.overrides."):
        inner = name.removeprefix("teacher.overrides.")
        return "teacher as its recipe" if value is None else f"teacher's {inner} = {_plain(value)}"
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and name in _COUNTS:
        return plural(value, _COUNTS[name])
    text = f"{value:,}" if whole else _plain(value)
    return _SETTINGS[name].format(text) if name in _SETTINGS and value is not None else f"{name} = {text}"


def looks(keys: Sequence[Key]) -> dict[Key, Look]:
    """Give each method its look; variants of one method have related colours, and different dashes and markers."""
    seen: dict[str, int] = {}
    chosen = {}
    for number, key in enumerate(dict.fromkeys(keys)):
        family = _family(key.method)
        variant = seen[family] = seen.get(family, -1) + 1
        index = variant % len(_VARIANTS)
        light, dark = (_varied(colour, *_VARIANTS[index]) for colour in _colours(family))
        light, dark = _readable(light, step=-0.02), _readable(dark, step=0.02)
        chosen[key] = Look(label(key), f"--method-{number}", light, dark, DASHES[index], MARKERS[index])
    return chosen


def _colours(family: str) -> tuple[str, str]:
    """Return the colours of a method and all its variants, for light and for dark backgrounds."""
    return _own_colours().get(family, _OTHER_COLOURS)


def _own_colours() -> dict[str, tuple[str, str]]:
    """Return the families that have colours of their own, and these."""
    # The palette ends where the standard comparison does: a method that is added there is drawn as any other.
    return dict(zip(methods.compared(), _COLOURS, strict=False)) | {_SUM: _SUM_COLOURS}


def _family(method: str) -> str:
    """Return the method that this one is a variant of, or that it is a sum, or one without colours of its own."""
    if methods.is_sum(method):
        return _SUM
    stem = _stem(method, r"\b")
    return stem if stem in _own_colours() else _OTHER


def _part(part: str) -> str:
    """Return one loss of a method for people: its label, with what follows its name."""
    name = _stem(part, "(-|$)")
    if name is None:
        return part
    said = re.fullmatch(r"-?(?:k(\d+)(?:-|$))?(teacher-basis(?:-|$))?(.*)", part.removeprefix(name))
    assert said is not None  # the last part takes whatever there is
    rank, basis, rest = said.groups()
    words = (f"rank {rank}" if rank else None, "teacher's basis" if basis else None, rest)
    return ", ".join([str(methods.shipped()[name].label), *filter(None, words)])


def _stem(method: str, end: str) -> str | None:
    """Return the longest name of a method with a label that another begins with; ``end`` is what may follow it."""
    labelled = (name for name, known in methods.shipped().items() if known.label is not None)
    return max((name for name in labelled if re.match(name + end, method)), key=len, default=None)


def _varied(colour: str, turn: float, factor: float) -> str:
    """Return a colour of a neighbouring hue, lighter or darker."""
    hue, lightness, strength = colorsys.rgb_to_hls(*_parts(colour))
    return _colour(colorsys.hls_to_rgb((hue + turn) % 1, min(0.72, lightness * factor), strength))


def _readable(colour: str, *, step: float) -> str:
    """Darken a colour until it stands out from white (step < 0), or lighten it until it does from near black."""
    paper = 1.0 if step < 0 else 0.009
    for _ in range(40):
        low, high = sorted((_luminance(colour), paper))
        if (high + 0.05) / (low + 0.05) >= CONTRAST:
            break
        hue, lightness, strength = colorsys.rgb_to_hls(*_parts(colour))
        colour = _colour(colorsys.hls_to_rgb(hue, min(1.0, max(0.0, lightness + step)), strength))
    return colour


def _luminance(colour: str) -> float:
    """Return the relative luminance of a colour, as WCAG 2 defines it."""
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in _parts(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _parts(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _colour(parts: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
