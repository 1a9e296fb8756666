"""One self-contained HTML page about many runs: no network, no script; for screens, phones, dark mode and paper."""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from svdistill.atomic import write_atomically
from svdistill.errors import DataError, SvdistillError
from svdistill.methods import BASELINE
from svdistill.names import printable_lines
from svdistill.records import RunRecord
from svdistill.report import diagnostics, next_steps, reasons, regimes, sections, tables, verdict
from svdistill.report.collect import Collection, Group, Regime, RunView, collect, measured_alike, method_order
from svdistill.report.context import PageContext, Picture, Section, accuracy, capital, conditions
from svdistill.report.methods import Look, label, looks
from svdistill.report.numbers import points, whole_percent
from svdistill.report.svg import TEACHER_DASHES
from svdistill.report.tables import plural
from svdistill.version import __version__

TEMPLATE = "page.html.j2"
_SECTIONS: tuple[Callable[[PageContext], Section | None], ...] = (
    regimes.side_by_side,
    reasons.reasons,
    next_steps.next_steps,
    sections.gains,
    sections.curves,
    sections.cost,
    sections.settings,
    sections.health,
    diagnostics.spectra,
    diagnostics.distilled,
    diagnostics.confusion,
)


class Written(NamedTuple):
    """A report that was written.

    Attributes:
        path: the page.
        runs: how many runs it reports on.
        left_out: runs that it does not report on, with the reason.
        context: what it was made from.
    """

    path: Path
    runs: int
    left_out: Sequence[tuple[str, str]]
    context: PageContext


def write(paths: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]) -> Written:
    """Make the page about some runs.

    Args:
        paths: run folders, folders of runs, or ``comparison.json`` files; see :func:`svdistill.report.collect.collect`.
        output: the HTML file, replaced in one piece.

    Returns:
        Where it is and what it reports on.

    Raises:
        DataError: there is no finished run, one that was named is damaged, or the file cannot be written.
    """
    output = Path(output)
    if output.is_dir():
        raise DataError(f"cannot write the report {output}: it is a folder; give a file, e.g. {output / 'report.html'}")
    context = context_of(collect(paths))
    page = fill(contents(context)).encode(errors="backslashreplace")
    try:
        write_atomically(output, page)
    except OSError as error:
        raise DataError(f"cannot write the report {output}: {error.strerror or error}; choose another file") from error
    return Written(output, len(context.found.runs), context.found.left_out, context)


def context_of(found: Collection) -> PageContext:
    """Choose the regime that is drawn where there is no room for all, and how each method is drawn."""
    keys = [group.key for regime in found.regimes for group in regime.groups]
    main = max(found.regimes, key=lambda regime: (_has_baseline(regime), sum(len(g.runs) for g in regime.groups)))
    teachers, standing = found.teachers_of(main), verdict.standing(main)
    best = (found.teacher_of(group, teachers) for group in (standing.best, standing.runner_up) if group is not None)
    teacher = next(filter(None, (*best, *teachers)), None)
    return PageContext(found, main, looks(sorted(set(keys), key=method_order)), teacher)


def render(found: Collection, *, made: str | None = None) -> str:
    """Return the page.

    Args:
        found: the runs.
        made: the date and time to write on it; None = now.

    Returns:
        HTML.
    """
    return fill(contents(context_of(found)), made=made)


def contents(context: PageContext) -> dict[str, Any]:
    """Return what the page shows, drawn; this takes nearly all of the time of a page.

    Args:
        context: what it is made from.
    """
    found = context.found
    names = dict.fromkeys(str((run.recipe.get("data") or {}).get("name", run.name)) for run in found.runs)
    return {
        "title": f"Distillation on {', '.join(names)}",
        "subtitle": _subtitle(context),
        "headline": _headline(context),
        "looks": list(context.looks.values()),
        "accuracy": context.accuracy,
        "validation": tables.validation_note(run.summary for run in found.runs),
        "tables": _tables(context),
        "sections": [section for make in _SECTIONS if (section := make(context)) is not None],
        "runs": _runs(context),
        "recipes": _recipes(context),
        "machines": _machines(found),
        "left_out": found.left_out,
    }


def no_contents(title: str, left_out: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return what a page shows while no run has finished.

    Args:
        title: of the page.
        left_out: runs that cannot be read, with the reason.
    """
    texts = dict.fromkeys(("subtitle", "accuracy", "validation"), "")
    lists: dict[str, list[Any]] = {
        name: [] for name in ("headline", "looks", "tables", "sections", "runs", "recipes", "machines")
    }
    return {"title": title, **texts, **lists, "left_out": left_out}


def fill(shown: Mapping[str, Any], *, made: str | None = None, live: "Live | None" = None) -> str:
    """Return a page as HTML.

    Args:
        shown: of :func:`contents` or :func:`no_contents`.
        made: the date and time to write on it; None = now.
        live: what is under way; None = a page that stays as it is, without a script.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_harmless,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(
        **shown, swatch=_swatch, version=__version__, made=made or time.strftime("%Y-%m-%d %H:%M"), live=live
    )
    # A line never ends between a number and its unit.
    page = re.sub(r"(?<=\d) (?=(?:%|s|min|h)(?!\w))", "\N{NO-BREAK SPACE}", page)
    return page.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


class Live(NamedTuple):
    """What is under way, on a page that renews itself.

    Attributes:
        version: differs from that of every other state of the page.
        lead: in a sentence or two how far the runs are.
        rows: one a run that has not finished.
        looks: of the methods of these runs.
        curves: their accuracy so far; None where nothing has been measured.
        problems: what is wrong with some runs, or what is waited for.
        script: renews the page.
    """

    version: str
    lead: str
    rows: Sequence["LiveRow"]
    looks: Sequence[Look]
    curves: Picture | None
    problems: Sequence[str]
    script: Markup


class LiveRow(NamedTuple):
    """A run that has not finished.

    Attributes:
        look: of its method.
        name: of its recipe, with the seed.
        state: ``training`` or ``interrupted``.
        done: epochs.
        epochs: that are to be, at least 1.
        accuracy: the last that was measured.
        loss: of the last epoch.
        left: time to its end.
    """

    look: Look
    name: str
    state: str
    done: int
    epochs: int
    accuracy: str
    loss: str
    left: str


def _harmless(value: object) -> object:
    """Take control characters and the like out of what the template writes; a text of several lines keeps them."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return printable_lines(value)


class _Row(NamedTuple):
    """A row of the table of results."""

    look: Look | None
    label: str
    seeds: int
    last: str
    best: str
    gain: str
    sure: bool  # the interval lies above or below zero as a whole
    parameters: str
    flops: str
    seconds: str
    top: bool


class _RunRow(NamedTuple):
    """A row of the table of runs."""

    look: Look | None
    label: str
    conditions: str
    seed: int
    last: str
    best: str
    seconds: str
    path: str


def _has_baseline(regime: Regime) -> bool:
    return any(group.key.method == BASELINE for group in regime.groups)


def _subtitle(context: PageContext) -> str:
    runs = [run for group in context.groups for run in group.runs]
    teachers = context.found.teachers
    counted = [f"{plural(len(runs), 'run')} of {plural(len(context.looks), 'method')}"]
    counted += [f"{len(teachers)} of {'a teacher' if len(teachers) == 1 else 'teachers'}"] if teachers else []
    parts = [" and ".join(counted)]
    parts.append(plural(len({run.seed for run in runs}), "seed"))
    if len(context.found.regimes) == 1:
        parts.append(f"{context.main.train_images:,} labelled images")
    parts.append(f"student {_models(runs)}")
    return " · ".join([*parts, *([f"teacher {_models(teachers)}"] if teachers else [])])


def _models(runs: Sequence[RunView]) -> str:
    return ", ".join(sorted({str((run.recipe.get("model") or {}).get("name")) for run in runs}))


def _headline(context: PageContext) -> list[str]:
    """Say what happened, and what the teacher reaches."""
    said = verdict.headline(context)
    teachers = context.found.teachers_of(context.main)
    if len(teachers) > 1:
        reached = "; ".join(f"{label(one.key)}: {accuracy(one)}" for one in teachers[: verdict.MAX_NAMED])
        more = f"; and {len(teachers) - verdict.MAX_NAMED} more" if len(teachers) > verdict.MAX_NAMED else ""
        text = f"There are {len(teachers)} teachers, of different settings. {capital(reached)}{more}."
        said.append(f"{text} The student has {_part_of(context, teachers)} of their FLOPs.")
    elif context.teacher is not None:
        others = set(context.found.teachers) - set(context.teacher.runs)
        under = context.under if others else ""
        text = f"The teacher reaches {tables.percent(context.teacher.mean('accuracy'))}{under}"
        text += " on other images or classes" if context.teacher_accuracy is None else ""
        said.append(f"{text}; the student has {_part_of(context, [context.teacher])} of its FLOPs.")
    return said


def _part_of(context: PageContext, teachers: Sequence[Group]) -> str:
    """Write what part of the FLOPs of teachers the student has, from the least to the most."""
    student = context.main.groups[0].mean("flops")
    parts = sorted(student / one.mean("flops") for one in teachers)
    return " to ".join(dict.fromkeys(map(whole_percent, (parts[0], parts[-1]))))


def _tables(context: PageContext) -> list[tuple[str, list[_Row]]]:
    made = []
    for regime in context.found.regimes:
        top = max(group.mean("accuracy") for group in regime.groups)
        rows = [_row(group, context.look(group), top=group.mean("accuracy") == top) for group in regime.groups]
        rows += [_teacher_row(teacher, regime) for teacher in context.found.teachers_of(regime)]
        made.append((capital(conditions(regime)), rows))
    return made


def _teacher_row(teacher: Group, regime: Regime) -> _Row:
    row = _row(teacher, None)
    alike = measured_alike(teacher.runs[0], regime.groups[0].runs[0])
    return row if alike else row._replace(label=f"{row.label}, on other images or classes")


def _row(group: Group, look: Look | None, *, top: bool = False) -> _Row:
    gain = group.gain
    return _Row(
        look=look,
        label=label(group.key) if look is None else look.label,
        seeds=len(group.runs),
        last=accuracy(group),
        best=accuracy(group, "best_accuracy"),
        gain="" if gain is None else points(gain),
        sure=verdict.is_gain(gain) or verdict.is_loss(gain),
        parameters=tables.count(group.mean("parameters")),
        flops=tables.flops(group.mean("flops")),
        seconds=tables.seconds(group.mean("seconds")),
        top=top,
    )


def _runs(context: PageContext) -> list[_RunRow]:
    rows = []
    for regime in context.found.regimes:
        for group in regime.groups:
            look = context.look(group)
            rows += [_run_row(run, look.label, look, conditions(regime)) for run in group.runs]
    return rows + [_run_row(run, "teacher", None, "") for run in context.found.teachers]


def _run_row(run: RunView, label: str, look: Look | None, under: str) -> _RunRow:
    summary = run.summary
    best = f"{tables.percent(summary['best_accuracy'])} (epoch {summary['best_epoch']} of {summary['epochs']})"
    took = tables.seconds(float(summary["seconds"]))
    return _RunRow(look, label, under, run.seed, tables.percent(summary["accuracy"]), best, took, str(run.path))


def _recipes(context: PageContext) -> list[tuple[str, str]]:
    """Return the recipe of one run of each method, and of the teacher."""
    shown = [(context.look(group).label, group.runs[0]) for group in context.main.groups]
    shown += [("teacher", run) for run in context.found.teachers]
    return [(label, yaml.safe_dump(dict(run.recipe), sort_keys=False, allow_unicode=True)) for label, run in shown]


def _machines(found: Collection) -> list[str]:
    lines = []
    for run in found.runs:
        try:
            known: Mapping[str, Any] = RunRecord(run.path).environment()
        except SvdistillError:
            continue
        device = known.get("gpu") or f"{known.get('cpu')}, threads: {known.get('threads')}"
        lines.append(f"{device}; torch {known.get('torch')}, svdistill {known.get('svdistill')}")
    return list(dict.fromkeys(lines))


_MARKS = {
    "o": '<circle cx="15" cy="6" r="4"/>',
    "s": '<rect x="11.2" y="2.2" width="7.6" height="7.6"/>',
    "D": '<path d="M15 1 20 6 15 11 10 6Z"/>',
    "^": '<path d="M15 1.5 19.5 10h-9Z"/>',
    "v": '<path d="M15 10.5 19.5 2h-9Z"/>',
    "P": '<path d="M13.4 1.5h3.2v3h3v3h-3v3h-3.2v-3h-3v-3h3Z"/>',
    "X": '<path d="M12.5 1.5 15 4l2.5-2.5 2 2L17 6l2.5 2.5-2 2L15 8l-2.5 2.5-2-2L13 6l-2.5-2.5Z"/>',
    "*": '<path d="M15 0l1.5 4.3 4.5.1-3.6 2.8 1.3 4.3L15 8.9l-3.7 2.6 1.3-4.3L9 4.4l4.5-.1Z"/>',
}


def _swatch(look: Look | None, marks: bool = False) -> Markup:
    """Draw what stands before a method's name in a legend or table; None = the teacher."""
    variable = "--ink" if look is None else look.variable
    if marks:
        mark = _MARKS["*" if look is None else look.marker]
        inner = f'<g fill="var({variable})">{mark}</g>'
    else:
        width = 1.6 if look is None else 2.4
        dashes = TEACHER_DASHES if look is None else look.dashes
        pattern = f' stroke-dasharray="{" ".join(f"{width * d:g}" for d in dashes)}"' if dashes else ""
        inner = f'<line x2="30" y1="6" y2="6" stroke="var({variable})" stroke-width="{width}"{pattern}/>'
    return Markup(f'<svg viewBox="0 0 30 12" aria-hidden="true">{inner}</svg>')
