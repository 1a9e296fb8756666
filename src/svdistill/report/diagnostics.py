"""The sections of a report page that look into the networks: spectra, distilled features, confusion."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from svdistill.choices import BETA
from svdistill.report import figures
from svdistill.report.collect import Group, RunView
from svdistill.report.context import PageContext, Picture, Section, Shown, Strip, capital, choose, not_all_shown
from svdistill.report.figures import Line
from svdistill.report.methods import Look
from svdistill.report.numbers import row_fractions, whole_percent
from svdistill.report.relations import channel_order, darkest, relations
from svdistill.report.svg import PANEL, Frame
from svdistill.runs import losses_of

MAX_STRIPS = 6  # most methods that are shown beside the teacher with their DFVs
MAX_MATRICES = 8  # most confusion matrices, the teacher's among them

Array = NDArray[np.float64]


def spectra(context: PageContext) -> Section | None:
    """Make the section with the singular values at each tap; None where no run has any."""
    measured = [(group, _mean(group, "student_spectrum")) for group in context.main.groups]
    found = [(group, spectrum) for group, spectrum in measured if spectrum is not None]
    if not found:
        return None
    groups = [group for group, _ in found]
    names = [str(name) for name in groups[0].runs[0].diagnostics["student_taps"]]
    found = [(group, spectrum) for group, spectrum in found if len(spectrum) == len(names)]
    teacher = _teacher_spectrum(context, len(names))
    noted = choose(groups, 3)
    pictures = []
    for tap, name in enumerate(names):
        lines: list[tuple[Look | None, Sequence[float]]] = [(context.look(g), spectrum[tap]) for g, spectrum in found]
        lines += [] if teacher is None else [(None, teacher[tap])]
        frame = Frame(f"spectrum{tap}", f"Singular values at {name}", PANEL, height=230)
        svg = figures.spectrum(lines, frame)
        first = [(context.look(g).label, spectrum[tap][0]) for g, spectrum in found if g in noted]
        first += [] if teacher is None else [("teacher", teacher[tap][0])]
        note = "; ".join(f"{label} {whole_percent(value)}" for label, value in first if math.isfinite(value))
        pictures.append(
            Picture(f"Tap {tap + 1}: {name}", Markup(svg), note=f"In the first one: {note}." if note else "")
        )
    pictures += _alignment(context, groups)
    lead = (
        "The fraction of a feature map's energy, σ² / ‖M‖², that lies in each of its singular values"
        f"{context.under}: mean over up to 64 of the images measured on and over the seeds. A steep fall means that "
        "a few vectors describe nearly all of a map."
    )
    legend = context.legend(groups, teacher=teacher is not None)
    return Section("spectra", "Singular values", lead, legend, small=pictures)


def distilled(context: PageContext) -> Section | None:
    """Make the section with the DFVs of a few images; None where no run has its teacher's vectors."""
    helped = next((group.runs[0] for group in context.main.groups if _has_dfvs(group.runs[0])), None)
    if helped is None:
        return None
    networks = []
    comparable = [g for g in context.main.groups if any(_same_images(run, helped) for run in g.runs)]
    drawn = choose(comparable, MAX_STRIPS)
    for group in drawn:
        run = next(run for run in group.runs if _same_images(run, helped))
        networks.append(_Network(context.look(group), f"{context.look(group).label}, seed {run.seed}", _vectors(run)))
    shown = [_shown(helped, number, networks) for number in range(len(helped.diagnostics["images"]))]
    names = [str(name) for name in helped.diagnostics["student_taps"]]
    lead = (
        f"What KD-SVD asks the student to reproduce{context.under}: exp(−(front[m] − back[n])² / β) for the leading "
        "singular vectors of neighbouring taps, on a few of the images measured on; bright is 1. Channels are sorted "
        "by the teacher's vectors, so its own picture is smooth; the more a student agrees with it, the more alike the "
        "pictures are. Below each: its distance from the teacher's, in percent of the distance between the teacher's "
        "and a picture that is 1 everywhere." + not_all_shown(drawn, comparable)
    )
    pairs = [f"{front} → {back}" for front, back in itertools.pairwise(names)]
    return Section("dfv", "Distilled features", lead, shown=shown, pairs=pairs)


def confusion(context: PageContext) -> Section | None:
    """Make the section with the confusion matrices; None where no run has one."""
    drawn = choose(context.main.groups, MAX_MATRICES - 1)
    shown: list[tuple[str, Sequence[RunView]]] = [(context.look(group).label, group.runs) for group in drawn]
    shown += [("teacher", context.teacher.runs)] if context.teacher is not None else []
    pictures = []
    for label, runs in shown:
        known = [run.diagnostics for run in runs if {"confusion", "classes"} <= run.diagnostics.keys()]
        size = len(known[0]["classes"]) if known else 0
        counts = [arrays["confusion"] for arrays in known if arrays["confusion"].shape == (size, size)]
        if not size or not counts:
            continue
        total = np.sum(np.stack(counts).astype(np.int64), axis=0)
        names = [str(name) for name in known[0]["classes"]]
        svg = figures.confusion(total, names, title=f"Confusion matrix of {label}")
        pictures.append(Picture(capital(label), Markup(svg), note=_mistakes(total, names)))
    lead = (
        f"Rows are true classes, columns predicted ones{context.under}: all seeds together, in percent of the true "
        "class. Right answers are grey, mistakes orange; below each matrix, the most frequent mistakes."
        + not_all_shown(drawn, context.main.groups)
    )
    return Section("confusion", "Confusion matrices", lead, small=pictures) if pictures else None


class _Network(NamedTuple):
    """A student whose DFVs are shown."""

    look: Look
    label: str
    vectors: Sequence[Array]  # for each tap (pictures, D)


def _mean(group: Group, name: str) -> Array | None:
    """Return the mean of an array over the runs, None where it has not the same shape in all."""
    arrays = [run.diagnostics[name] for run in group.runs if name in run.diagnostics]
    if not arrays or any(array.shape != arrays[0].shape for array in arrays):
        return None
    mean: Array = np.mean(np.stack(arrays).astype(np.float64), axis=0)
    return mean


def _teacher_spectrum(context: PageContext, taps: int) -> Array | None:
    """Return the teacher's spectrum as its students saw it, else as its own run has it."""
    seen = (_mean(group, "teacher_spectrum") for group in context.main.groups)
    own = None if context.teacher is None else _mean(context.teacher, "student_spectrum")
    return next((spectrum for spectrum in [*seen, own] if spectrum is not None and len(spectrum) == taps), None)


def _alignment(context: PageContext, groups: Sequence[Group]) -> list[Picture]:
    lines = []
    for group in groups:
        found = _mean(group, "alignment")
        if found is not None and len(found) > 1 and np.isfinite(found).all():
            lines.append(Line(context.look(group), range(1, len(found) + 1), [found.tolist()]))
    if not lines:
        return []
    title = "Alignment after training"
    svg = figures.curves(lines, Frame("alignment", title, PANEL, height=230), x_label="tap, number")
    return [Picture(title, Markup(svg), note="Mean |cosine| of the leading vectors of student and teacher.")]


def _has_dfvs(run: RunView) -> bool:
    return {"teacher_vectors_1", "images", "student_taps"} <= run.diagnostics.keys()


def _same_images(run: RunView, other: RunView) -> bool:
    if not {"student_vectors_0", "images"} <= run.diagnostics.keys():
        return False
    same = np.array_equal(run.diagnostics["images"], other.diagnostics["images"])
    return same and len(_vectors(run)) == len(_vectors(other))


def _vectors(run: RunView, who: str = "student") -> list[Array]:
    found = (run.diagnostics.get(f"{who}_vectors_{tap}") for tap in itertools.count())
    return [vectors.astype(np.float64) for vectors in itertools.takewhile(lambda v: v is not None, found)]  # type: ignore[union-attr]


def _shown(run: RunView, number: int, networks: Sequence[_Network]) -> Shown:
    """Draw the DFVs of all networks for one image, on the colour scales that the teacher's set."""
    beta = _beta(run)
    teacher = [vectors[number] for vectors in _vectors(run, "teacher")]
    orders = [channel_order(vector) for vector in teacher]
    goals = relations(teacher, orders, beta)
    lows = [darkest(goal) for goal in goals]
    strips = [Strip(None, "teacher", [(figures.heat(g, low=low), "") for g, low in zip(goals, lows, strict=True)])]
    for network in networks:
        own = [_answer(mine[number], goal) for mine, goal in zip(network.vectors, teacher, strict=True)]
        fits = [len(mine) == len(goal) for mine, goal in zip(own, teacher, strict=True)]
        sorted_by = [o if same else channel_order(mine) for o, same, mine in zip(orders, fits, own, strict=True)]
        made = relations(own, sorted_by, beta)
        tiles = [
            (figures.heat(values, low=low), _distance(values, goal))
            for values, goal, low in zip(made, goals, lows, strict=True)
        ]
        strips.append(Strip(network.look, network.label, tiles))
    classes, labels = run.diagnostics.get("classes"), run.diagnostics.get("labels")
    caption = "" if classes is None or labels is None else str(classes[int(labels[number])])
    return Shown(figures.picture(run.diagnostics["images"][number]), caption, strips)


def _beta(run: RunView) -> float:
    return next((float(loss["beta"]) for loss in losses_of(run.recipe) if loss.get("beta")), BETA)


def _answer(own: Array, goal: Array) -> Array:
    """Give the student's vector the sign that agrees with the teacher's, as the loss does."""
    return -own if len(own) == len(goal) and float(own @ goal) < 0 else own


def _distance(own: Array, goal: Array) -> str:
    if own.shape != goal.shape:
        return "other width"
    reach = float(np.linalg.norm(1 - goal))
    return whole_percent(float(np.linalg.norm(own - goal)) / reach) if reach > 0 else ""


def _mistakes(counts: NDArray[Any], classes: Sequence[str], *, number: int = 3) -> str:
    fractions = row_fractions(counts)
    np.fill_diagonal(fractions, 0)
    largest = np.argsort(-fractions, axis=None, kind="stable")[:number]
    pairs = [(divmod(int(position), len(classes)), float(fractions.flat[position])) for position in largest]
    return "; ".join(f"{classes[i]} → {classes[j]}: {whole_percent(value)}" for (i, j), value in pairs if value > 0)
