"""What the sections of a report page are made from, and what they are made into."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from svdistill.methods import BASELINE, OWN
from svdistill.report import tables
from svdistill.report.collect import Collection, Group, Key, Regime, measured_alike
from svdistill.report.methods import Look, setting

MAX_ALSO = 2  # more settings that change along with others, for instance with the data set, only clutter a title


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        title: stands above it.
        wide: an ``<svg>`` for wide screens.
        narrow: the same for phones; None = the wide one everywhere.
        note: stands below it.
    """

    title: str
    wide: Markup
    narrow: Markup | None = None
    note: str = ""


class Strip(NamedTuple):
    """The DFVs of one network for one image.

    Attributes:
        look: of its method; None = the teacher.
        label: its name.
        tiles: for each pair of taps a PNG as a ``data:`` address, and what stands below it.
    """

    look: Look | None
    label: str
    tiles: Sequence[tuple[str, str]]


class Shown(NamedTuple):
    """One image with the DFVs of several networks.

    Attributes:
        address: the image, a PNG as a ``data:`` address.
        caption: its class.
        strips: one a network, the teacher first.
    """

    address: str
    caption: str
    strips: Sequence[Strip]


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: what stands in it.
        kind: how it is written: ``code``, ``sure`` (bold), ``words`` (to the left) or ``""``.
        note: stands below it.
    """

    text: str
    kind: str = ""
    note: str = ""


class Rows(NamedTuple):
    """A table of a section.

    Attributes:
        headings: of the columns; the first may be empty.
        cells: one list a row.
        caption: stands above it.
        look: of the method that it is about; None = of several.
    """

    headings: Sequence[str]
    cells: Sequence[Sequence[Cell]]
    caption: str = ""
    look: Look | None = None


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        id: where links lead.
        title: its heading.
        lead: what it shows and how to read it.
        legend: methods, and None for the teacher.
        marks: whether the legend shows each method's mark.
        tables: come first.
        large: figures across the page.
        small: figures side by side.
        shown: images with their DFVs.
        pairs: the pairs of taps that the DFVs relate.
    """

    id: str
    title: str
    lead: str = ""
    legend: Sequence[Look | None] = ()
    marks: bool = False
    tables: Sequence[Rows] = ()
    large: Sequence[Picture] = ()
    small: Sequence[Picture] = ()
    shown: Sequence[Shown] = ()
    pairs: Sequence[str] = ()


class PageContext(NamedTuple):
    """What a page reports on; each of its sections is made from it.

    Attributes:
        found: all runs.
        main: the regime with the most runs; what is not drawn for each regime is drawn for it.
        looks: how each method is written and drawn.
        teacher: of the main regime, that of its best method, with its runs; None where none was found.
    """

    found: Collection
    main: Regime
    looks: Mapping[Key, Look]
    teacher: Group | None

    def look(self, group: Group) -> Look:
        """Return how a method is written and drawn."""
        return self.looks[group.key]

    def legend(self, groups: Iterable[Group], *, teacher: bool = False) -> list[Look | None]:
        """Return what a legend lists, in the order of the page, the teacher (None) last."""
        wanted = {group.key for group in groups}
        looks: list[Look | None] = [look for key, look in self.looks.items() if key in wanted]
        return [*looks, None] if teacher else looks

    @property
    def groups(self) -> list[Group]:
        """The methods of all regimes."""
        return [group for regime in self.found.regimes for group in regime.groups]

    @property
    def teacher_accuracy(self) -> float | None:
        """The teacher's accuracy after its last epoch, 0 to 1, mean over its seeds; None if it is of other images."""
        if self.teacher is None or not measured_alike(self.teacher.runs[0], self.main.groups[0].runs[0]):
            return None
        return self.teacher.mean("accuracy")

    @property
    def accuracy(self) -> str:
        """What the accuracy is called, by the images that it is of, at the beginning of a sentence."""
        return capital(tables.accuracy_name(run.summary for group in self.groups for run in group.runs))

    @property
    def under(self) -> str:
        """The conditions of the main regime in brackets, to end a phrase; empty where there is no other regime."""
        named = conditions(self.main)
        return f" ({named})" if named else ""


def conditions(regime: Regime) -> str:
    """Write what tells a regime from the others, for people; empty where there is only one."""
    named = dict(regime.conditions) | dict(regime.also if len(regime.also) <= MAX_ALSO else ())
    if "data.train_size" in named:
        named["data.train_size"] = regime.train_images
    return ", ".join(setting(name, value) for name, value in named.items())


def choose(groups: Sequence[Group], number: int) -> list[Group]:
    """Choose the methods to show where there is no room for all.

    The student alone and the best KD-SVD come first, then the best of the rest; they stay in their order.
    """

    def order(group: Group) -> tuple[int, float]:
        first = group.key.method == BASELINE
        second = group is max(ours, key=lambda g: g.mean("accuracy"), default=None)
        return (0 if first else 1 if second else 2, -group.mean("accuracy"))

    ours = [group for group in groups if group.key.method.startswith(OWN)]
    kept = sorted(groups, key=order)[:number]
    return [group for group in groups if group in kept]


def not_all_shown(drawn: Sequence[Group], groups: Sequence[Group]) -> str:
    """Say after `choose` that not all methods are there, to end a paragraph; "" where they are."""
    if len(drawn) == len(groups):
        return ""
    return f" Of {len(groups)} methods {len(drawn)} are shown, those of the highest accuracy among them."


def accuracy(group: Group, name: str = "accuracy") -> str:
    """Write a method's accuracy, mean ± deviation over the seeds, in percent."""
    mean, deviation = tables.mean_deviation([100 * value for value in group.values(name)])
    return f"{mean:.2f} %" if deviation is None else f"{mean:.2f} ± {deviation:.2f} %"


def capital(text: str) -> str:
    """Begin a text with a capital letter, unless it begins with the key of a setting."""
    return text if "." in text.partition(" ")[0] else text[:1].upper() + text[1:]
