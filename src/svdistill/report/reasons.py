"""The section that says in words how the transfer task went: the bound, alignment, energy, and what was left out."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from svdistill import signs
from svdistill.methods import BASELINE, OWN
from svdistill.report.collect import Group, RunView
from svdistill.report.context import Cell, PageContext, Rows, Section
from svdistill.report.numbers import whole_percent
from svdistill.report.tables import plural, significant
from svdistill.runs import rules_of

MAX_METHODS = 4  # those that the section speaks of
ROSE = 0.02  # from the first epoch to the last, alignment has risen or fallen by more than this, or stayed


class Health(NamedTuple):
    """How the transfer task of a method went; means over its runs, None where no epoch says so.

    Attributes:
        ratio: ‖g_t‖ / ‖g_m‖, median over the epochs.
        passed: what the bound let through, median over the epochs.
        counted: ratio × passed, median over the epochs: the transfer gradient as it was applied.
        before: alignment in the first epoch that has one.
        after: alignment in the last one.
        energy_student: in the compared vectors in the last epoch, 0 to 1.
        energy_teacher: the same of the teacher.
        set_aside: samples, in all runs together.
        dropped: transfer gradients that were not finite, in all runs together.
        skipped: steps that were not applied, in all runs together.
        epochs: of all runs together, as far as they were read.
    """

    ratio: float | None
    passed: float | None
    counted: float | None
    before: float | None
    after: float | None
    energy_student: float | None
    energy_teacher: float | None
    set_aside: int | None
    dropped: int
    skipped: int
    epochs: int


def reasons(context: PageContext) -> Section | None:
    """Make the section; None where no run of the main regime has a transfer task."""
    helped = [group for group in context.main.groups if group.key.method != BASELINE]
    kept = _kept(helped)
    tables = [
        Rows(("figure", "value", "what it means"), rows, context.look(group).label, context.look(group))
        for group in kept
        if (rows := list(_rows(health(group), group)))
    ]
    if not tables:
        return None
    fewer = f" Of {len(helped)} methods, these are KD-SVD and the most accurate." if len(kept) < len(helped) else ""
    lead = (
        f"How the transfer task went, in the figures that the runs wrote down{context.under}: mean over the seeds. "
        f"They say what happened, not what would have happened otherwise: a gain need not come from what stands "
        f"here.{fewer}"
    )
    return Section("why", "Why", lead, tables=tables)


def health(group: Group) -> Health:
    """Sum up how the transfer task of a method went."""
    runs = group.runs
    return Health(
        ratio=_mean(runs, lambda run: _median(_values(run, "ratio"))),
        passed=_mean(runs, lambda run: _median(_values(run, "passed"))),
        counted=_mean(runs, lambda run: _median(_values(run, "ratio") * _values(run, "passed"))),
        before=_mean(runs, lambda run: _at(_values(run, "alignment"), 0)),
        after=_mean(runs, lambda run: _at(_values(run, "alignment"), -1)),
        energy_student=_mean(runs, lambda run: _at(_values(run, "energy_student"), -1)),
        energy_teacher=_mean(runs, lambda run: _at(_values(run, "energy_teacher"), -1)),
        set_aside=_total(runs, "set_aside") if any("set_aside" in run.metrics for run in runs) else None,
        dropped=_total(runs, "dropped"),
        skipped=_total(runs, "skipped"),
        epochs=sum(len(run.metrics["epoch"]) for run in runs),
    )


def _kept(groups: Sequence[Group]) -> list[Group]:
    """Choose KD-SVD and the most accurate; they stay in their order."""
    ordered = sorted(groups, key=lambda group: (not group.key.method.startswith(OWN), -group.mean("accuracy")))
    best = max(groups, key=lambda group: group.mean("accuracy"), default=None)
    kept = [*ordered[: MAX_METHODS - 1], best] if best not in ordered[:MAX_METHODS] else ordered[:MAX_METHODS]
    return [group for group in groups if group in kept]


def _rows(found: Health, group: Group) -> Iterator[list[Cell]]:
    for name, value, meaning in (
        *_of_gradients(found, rules_of(group.runs[0].recipe)),
        *_of_vectors(found),
        *_of_losses(found),
    ):
        yield [Cell(name), Cell(value), Cell(meaning, "words")]


def _of_gradients(found: Health, clips: set[str]) -> Iterator[tuple[str, str, str]]:
    if found.ratio is not None:
        yield (
            "transfer gradient / main gradient",
            significant(found.ratio),
            _strength(found.ratio, bounded=clips != {"none"}),
        )
    if found.passed is None:
        return
    through = whole_percent(found.passed) if found.passed >= 0.01 else f"{100 * found.passed:.2g} %"
    if clips == {"none"}:
        yield "let through by the bound", "all", "This method has no bound: its gradient is added as it is."
    elif found.passed > 0.95:
        yield "let through by the bound", through, "The bound hardly took part."
    elif "own_norm" in clips and found.counted is not None:
        meaning = (
            "The bound held the gradient to a norm of its own, which may be far below the gradient's. What was left is "
            f"about {found.counted:.2g} times the main gradient."
        )
        yield "let through by the bound", through, meaning
    elif found.passed >= signs.HELD_BACK:
        much = "most" if found.passed < 0.5 else "some"
        yield "let through by the bound", through, f"It held {much} of the transfer gradient back."
    else:
        yield "let through by the bound", through, "It left next to nothing of the transfer gradient."


def _strength(ratio: float, *, bounded: bool) -> str:
    if ratio < signs.WEAK:
        return "The transfer task hardly changed anything."
    if ratio > signs.STRONG:
        return f"The transfer task pulls far harder than the main one{', so its bound decides' if bounded else ''}."
    if ratio > 1:
        return "The transfer task pulls harder than the main one."
    return "The main task pulls harder."


def _of_vectors(found: Health) -> Iterator[tuple[str, str, str]]:
    if found.before is not None and found.after is not None:
        rise = found.after - found.before
        if rise > ROSE:
            meaning = "It rose: the student's vectors turned to the teacher's."
        else:
            meaning = f"It {'fell' if rise < -ROSE else 'stayed'}: the student's vectors did not turn to the teacher's."
        yield "alignment, first → last epoch", f"{found.before:.2f} → {found.after:.2f}", meaning
    if found.energy_student is not None and found.energy_teacher is not None:
        value = f"student {whole_percent(found.energy_student)}, teacher {whole_percent(found.energy_teacher)}"
        little = min(found.energy_student, found.energy_teacher) < signs.LITTLE_ENERGY
        meaning = "Most of a map is not compared." if little else "So much of a map is compared; the rest is not seen."
        yield "energy in the compared vectors", value, meaning


def _of_losses(found: Health) -> Iterator[tuple[str, str, str]]:
    over = f"in {plural(found.epochs, 'epoch')}"
    if found.set_aside:
        meaning = f"Left out of the transfer loss {over}, as a map was all zero or not finite."
        yield "samples set aside", f"{found.set_aside:,}", meaning
    if found.dropped:
        yield (
            "gradients dropped",
            f"{found.dropped:,}",
            f"Transfer gradients that were not finite, {over}; should be 0.",
        )
    if found.skipped:
        yield (
            "steps skipped",
            f"{found.skipped:,}",
            f"Not applied {over}, as loss or gradient was not finite; should be 0.",
        )
    if found.set_aside == found.dropped == found.skipped == 0:
        yield "set aside, dropped, skipped", "0", "No sample, gradient or step was left out."


def _values(run: RunView, key: str) -> NDArray[np.float64]:
    return run.metrics.get(key, np.full(len(run.metrics["epoch"]), np.nan))


def _median(values: NDArray[np.float64]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NaN throughout: there is none
        return float(np.nanmedian(values))


def _at(values: NDArray[np.float64], position: int) -> float:
    there = values[np.isfinite(values)]
    return float(there[position]) if len(there) else float("nan")


def _mean(runs: Sequence[RunView], figure: Callable[[RunView], float]) -> float | None:
    values = [value for run in runs if np.isfinite(value := figure(run))]
    return float(np.mean(values)) if values else None


def _total(runs: Sequence[RunView], key: str) -> int:
    return int(sum(np.nansum(_values(run, key)) for run in runs))
