"""The sections of a report page that summaries and metrics give: gains, curves, cost, settings, health."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from svdistill.methods import BASELINE
from svdistill.records import ACCURACY, VALIDATION_ACCURACY
from svdistill.report import figures, tables
from svdistill.report.collect import MAX_EPOCHS, Group, Regime, rank_of
from svdistill.report.context import PageContext, Picture, Section, capital, conditions
from svdistill.report.figures import Bar, Line
from svdistill.report.methods import Look
from svdistill.report.numbers import is_finite
from svdistill.report.svg import NARROW, PANEL, WIDE, Frame

MAX_REGIMES = 6  # training curves are drawn for at most this many regimes
HALF = 508  # pixels of one of two figures side by side
Draw = Callable[[str, int], str]


def gains(context: PageContext) -> Section | None:
    """Make the section on the gain over the student alone; None without a student alone."""
    pictures = []
    for number, regime in enumerate(context.found.regimes):
        rows = [(context.look(group), group.gain, group.gains) for group in regime.groups if group.gain is not None]
        title = conditions(regime)

        def draw(name: str, width: int, rows: list[figures.Gain] = rows, title: str = title) -> str:
            return figures.gains(rows, name=name, title=f"Gain over the student alone {title}".strip(), width=width)

        if rows:
            pictures.append(_responsive(draw, f"gain{number}", capital(title)))
    lead = (
        "Accuracy after the last epoch less that of the student alone on the same seed. Small dots are seeds, the "
        "large mark is their mean, the bar its 95 % interval (Student's t on the paired differences); an arrowhead "
        "marks a bar that continues. A bar that crosses zero does not prove a gain."
    )
    return Section("gain", "Gain over the student alone", lead, large=pictures) if pictures else None


def curves(context: PageContext) -> Section | None:
    """Make the section with the training curves."""
    regimes = context.found.regimes if len(context.found.regimes) <= MAX_REGIMES else [context.main]
    pictures = []
    for number, regime in enumerate(regimes):
        key = _measured(regime)
        lines = [line for group in regime.groups if (line := _line(group, key, context.look(group)))]
        title = conditions(regime)
        # The teacher's accuracy is of other images than those that choose an epoch.
        teacher = context.teacher_accuracy if key == ACCURACY else None
        named = f"{_called(context, key)} while training {title}".strip()

        def draw(
            name: str, width: int, lines: list[Line] = lines, named: str = named, teacher: float | None = teacher
        ) -> str:
            frame = Frame(name, named, width, height=400 if width == WIDE else 290)
            return figures.curves(lines, frame, teacher=teacher, scale=100, late=True)

        if lines:
            pictures.append(_responsive(draw, f"curve{number}", capital(title)))
    measured = dict.fromkeys(_measured(regime) for regime in regimes)
    called = capital(" or ".join(_called(context, key).lower() for key in measured))
    many = max(len(regime.groups) for regime in regimes) > figures.MAX_BANDS
    shown = [group for regime in regimes for group in regime.groups]
    bands = "" if many else "; band: one deviation to either side"
    lead = (
        f"{called} in percent. Line: mean over the seeds{bands}. The first epochs may lie below the figure."
        f"{_thinned(shown)}"
    )
    legend = context.legend(shown, teacher=context.teacher_accuracy is not None and ACCURACY in measured)
    return Section("training", "Training", lead, legend, large=pictures) if pictures else None


def _measured(regime: Regime) -> str:
    """Return which figure tells how good the networks were after each epoch."""
    validated = any(VALIDATION_ACCURACY in run.metrics for group in regime.groups for run in group.runs)
    return VALIDATION_ACCURACY if validated else ACCURACY


def _called(context: PageContext, key: str) -> str:
    return context.accuracy if key == ACCURACY else "Validation accuracy"


def cost(context: PageContext) -> Section | None:
    """Make the section on accuracy against FLOPs; None where all networks cost the same."""
    regimes = _same_but(context, "model.")
    groups = [group for regime in regimes for group in regime.groups]
    items = [_bar(group, context.look(group), x=group.mean("flops") / 1e6) for group in groups]
    if context.teacher is not None and context.teacher_accuracy is not None:
        items.append(_bar(context.teacher, None, x=context.teacher.mean("flops") / 1e6))
    positions = sorted({item.x for item in items})
    if len(positions) < 2 or positions[0] <= 0:
        return None

    def draw(name: str, width: int) -> str:
        return figures.bars(
            items,
            Frame(name, f"{context.accuracy} against FLOPs", width, height=340 if width == WIDE else 290),
            x_label="MFLOPs an image",
            joined=True,
            log=positions[-1] / positions[0] > 2,
            ticks=[(position, f"{position:.3g}") for position in positions] if len(positions) < 5 else None,
        )

    lead = (
        f"{context.accuracy} after the last epoch, in percent, against the cost of one image in millions of "
        "floating-point operations. Mark: mean over the seeds; bar: one deviation to either side. Methods that train "
        "the same network cost the same and stand side by side."
    )
    legend = context.legend(groups, teacher=context.teacher_accuracy is not None)
    picture = _responsive(draw, "cost", "", note=_confounded(regimes))
    return Section("cost", "Accuracy against cost", lead, legend, marks=True, large=[picture])


def settings(context: PageContext) -> Section | None:
    """Make the section on how the gain, or without a student alone the accuracy, changes with each setting."""
    along = [_along(context, name, _same_but(context, name)) for name, _ in context.main.conditions]
    found = [one for one in [*along, _rank(context)] if one is not None]
    lead = (
        "Gain over the student alone, in points, with its 95 % interval where there are several seeds; where there is "
        "no student alone, accuracy in percent, with one deviation to either side."
    )
    drawn = {item.look for _, items in found for item in items}
    legend = [look for look in context.legend(context.groups) if look in drawn]
    pictures = [picture for picture, _ in found]
    return Section("settings", "Effect of the settings", lead, legend, marks=True, small=pictures) if pictures else None


class _Measure(NamedTuple):
    """A metric that tells how the transfer task goes."""

    key: str
    title: str
    note: str
    scale: float = 1.0
    log: bool = False
    if_any: bool = False  # drawn only where it is not 0 throughout


_MEASURES = (
    _Measure("loss", "Main loss", "Cross-entropy on the labelled images.", log=True),
    _Measure(
        "transfer",
        "Transfer loss",
        "Each method has its own: compare how the curves run, not how high they lie.",
        log=True,
    ),
    _Measure(
        "ratio",
        "Transfer / main gradient",
        "Of their norms. Far above 1: clipped nearly everywhere; far below 0.1: it hardly counts.",
        log=True,
    ),
    _Measure(
        "clipped", "Clipped weight tensors, %", "Weight tensors whose transfer gradient was scaled down.", scale=100
    ),
    _Measure(
        "passed",
        "Transfer gradient let through, %",
        "Of its norm, by the bound: near 0 it holds the transfer task back, at 100 it lets all through.",
        scale=100,
    ),
    _Measure("alignment", "Alignment", "Mean |cosine| between the teacher's vectors and the student's; should rise."),
    _Measure(
        "energy_student", "Energy in the vectors, %", "How much of a map's energy the compared vectors hold.", scale=100
    ),
    _Measure(
        "set_aside",
        "Images set aside",
        "Per epoch; images with a map that has no singular vectors. Should be few.",
        if_any=True,
    ),
    _Measure(
        "dropped",
        "Gradients dropped",
        "Per epoch; transfer gradients that were not finite. Should be none.",
        if_any=True,
    ),
)


def health(context: PageContext) -> Section | None:
    """Make the section on the health of the transfer task; None where no run has one."""
    pictures: list[Picture] = []
    drawn: set[Look | None] = set()
    for measure in _MEASURES:
        lines = [line for g in context.main.groups if (line := _line(g, measure.key, context.look(g)))]
        if measure.log:
            lines = [line for line in lines if min(_values(line)) > 0]
        if not lines or (measure.if_any and not any(any(_values(line)) for line in lines)):
            continue
        if measure.key == "energy_student":
            lines += _teacher_energy(context)
        drawn |= {line.look for line in lines}
        pictures.append(_health_picture(measure, lines))
    if not any(group.key.method != BASELINE for group in context.main.groups) or len(pictures) < 2:
        return None
    lead = (
        f"How the main and the transfer task went over the epochs{context.under}: mean over the seeds, with one "
        f"deviation to either side where there is room.{_thinned(context.main.groups)}{_adapters(context)}"
    )
    legend = [look for look in context.legend(context.main.groups, teacher=True) if look in drawn]
    return Section("health", "Health of the transfer task", lead, legend, small=pictures)


def _adapters(context: PageContext) -> str:
    """Say which of the student's taps a learned adapter lifted to the teacher's width."""
    lifted: dict[str, None] = {}
    for group in context.main.groups:
        for adapter in group.runs[0].summary.get("adapters") or ():
            tap, *widths = adapter.values() if isinstance(adapter, dict) else adapter
            lifted[f"{tap} {' → '.join(map(str, widths))}"] = None
    return f" Learned adapters lift the student's taps: {', '.join(lifted)} channels." if lifted else ""


def _health_picture(measure: _Measure, lines: Sequence[Line]) -> Picture:
    values = [value for line in lines for value in _values(line)]
    svg = figures.curves(
        lines,
        Frame(f"health-{measure.key.replace('_', '-')}", measure.title, PANEL, height=220),
        scale=measure.scale,
        log=measure.log and max(values) / min(values) > 8,
    )
    return Picture(measure.title, Markup(svg), note=measure.note)


def _teacher_energy(context: PageContext) -> list[Line]:
    """Return the teacher's line, unless methods keep unequal numbers of its vectors."""
    lines = [line for group in context.main.groups if (line := _line(group, "energy_teacher", None))]
    lasts = [line.runs[0][-1] for line in lines]
    return lines[:1] if lasts and max(lasts) - min(lasts) < 0.01 else []


def _values(line: Line) -> list[float]:
    return [value for run in line.runs for value in run]


def _responsive(draw: Draw, name: str, title: str, *, wide: int = WIDE, note: str = "") -> Picture:
    return Picture(title, Markup(draw(f"{name}w", wide)), Markup(draw(f"{name}n", NARROW)), note)


def _line(group: Group, key: str, look: Look | None) -> Line | None:
    """Return a metric over the epochs in which all runs of a method have it."""
    runs = [run.metrics for run in group.runs]
    if not all(key in run for run in runs):
        return None
    there = [run["epoch"][np.isfinite(run[key])] for run in runs]
    epochs = functools.reduce(np.intersect1d, there)
    values = [run[key][np.isfinite(run[key]) & np.isin(run["epoch"], epochs)].tolist() for run in runs]
    return Line(look, epochs.tolist(), values) if len(epochs) else None


def _thinned(groups: Sequence[Group]) -> str:
    """Say that not all epochs of long runs are drawn."""
    parts = [len(run.metrics["epoch"]) / run.summary["epochs"] for group in groups for run in group.runs]
    return f" Of runs of more than {MAX_EPOCHS:,} epochs every n-th is drawn." if min(parts) < 1 else ""


def _same_but(context: PageContext, names: str) -> list[Regime]:
    """Return the regimes that differ from the main one at most in settings whose names begin with this."""
    rest = [item for item in context.main.conditions if not item[0].startswith(names)]
    return [
        regime
        for regime in context.found.regimes
        if [item for item in regime.conditions if not item[0].startswith(names)] == rest
    ]


def _bar(group: Group, look: Look | None, *, x: float) -> Bar:
    mean, spread = tables.mean_deviation([100 * value for value in group.values("accuracy")])
    return Bar(look, x, mean, None if spread is None else mean - spread, None if spread is None else mean + spread)


def _along(context: PageContext, name: str, regimes: Sequence[Regime]) -> tuple[Picture, list[Bar]] | None:
    """Draw the gain over one setting; None where fewer than two of its values can be compared."""
    gained = any(group.gain is not None for regime in regimes for group in regime.groups)
    if gained:
        regimes = [regime for regime in regimes if any(group.gain is not None for group in regime.groups)]
    values = [r.train_images if name == "data.train_size" else dict(r.conditions)[name] for r in regimes]
    if len(set(values)) < 2:
        return None
    numeric = all(is_finite(value) and value > 0 for value in values)
    positions = [float(value) if numeric else float(position) for position, value in enumerate(values)]
    items = []
    for x, regime in zip(positions, regimes, strict=True):
        for group in regime.groups:
            if not gained:
                items.append(_bar(group, context.look(group), x=x))
            elif group.gain is not None:
                items.append(Bar(context.look(group), x, *group.gain))
    what = {"data.train_size": "labelled images", "model.width": "width of the student"}.get(name, name)
    title = f"{'Gain' if gained else 'Accuracy'} against {what}"
    texts = [f"{value:,}" if is_finite(value) else str(value) for value in values]

    def draw(figure: str, width: int) -> str:
        return figures.bars(
            items,
            Frame(figure, title, width, height=300),
            x_label=what,
            joined=True,
            log=numeric and max(positions) / min(positions) >= 2,
            ticks=list(zip(positions, texts, strict=True)),
            zero=gained,
        )

    return _responsive(draw, f"along-{name.replace('.', '-')}", title, wide=HALF, note=_confounded(regimes)), items


def _confounded(regimes: Sequence[Regime]) -> str:
    """Warn where regimes that are drawn over one setting differ in others too."""
    keys = [key for key, _ in regimes[0].also if len({dict(regime.also)[key] for regime in regimes}) > 1]
    return f"Not the only difference between these runs: {', '.join(keys)}." if keys else ""


def _rank(context: PageContext) -> tuple[Picture, list[Bar]] | None:
    """Draw the gain of KD-SVD over the number of singular vectors; None where there is only one number."""
    ranked = [(rank, group) for group in context.main.groups if (rank := rank_of(group.runs[0])) is not None]
    ranks = sorted({rank for rank, _ in ranked})
    if len(ranks) < 2:
        return None
    gained = all(group.gain is not None for _, group in ranked)
    items = [
        Bar(context.look(group), rank, *group.gain)
        if gained and group.gain
        else _bar(group, context.look(group), x=rank)
        for rank, group in ranked
    ]
    title = f"{'Gain' if gained else 'Accuracy'} against rank"

    def draw(name: str, width: int) -> str:
        ticks = [(float(rank), str(rank)) for rank in ranks]
        what = "kept singular vectors"
        frame = Frame(name, title, width, height=300)
        return figures.bars(items, frame, x_label=what, log=True, ticks=ticks, zero=gained)

    return _responsive(draw, "rank", title, wide=HALF, note=capital(conditions(context.main))), items
