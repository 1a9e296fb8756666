"""The section with what to try next: what was seen, what to change, and the command that does it."""

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from svdistill import signs
from svdistill.methods import BASELINE, OWN
from svdistill.records import VALIDATION_ACCURACY
from svdistill.report import reasons, verdict
from svdistill.report.collect import Group, RunView, rank_of, runs_folder
from svdistill.report.context import Cell, PageContext, Rows, Section
from svdistill.report.numbers import is_finite
from svdistill.report.tables import plural
from svdistill.report.verdict import Standing
from svdistill.runs import losses_of, own_vectors_first, rules_of

_ENOUGH = 5  # seeds
_GAINED = 0.01  # accuracy: what the last fifth of a training must bring to be worth continuing, or lose to be too long
_RUNS = Path("runs")  # where commands look without --runs


class Step(NamedTuple):
    """Something to try.

    Attributes:
        seen: why.
        change: what to change, in words.
        settings: the same as ``key=value`` or an option; "" where there is none.
        command: does it; "" where there is no single one.
    """

    seen: str
    change: str
    settings: str = ""
    command: str = ""


def next_steps(context: PageContext) -> Section:
    """Make the section."""
    found = steps(context)
    lead = (
        "Drawn from the figures above by fixed rules: worth a try, no promise. A changed setting makes a run of its "
        "own beside these, on one seed; what looks better there needs the other seeds too."
        if found
        else "Nothing in these figures stands out, so there is no advice to be drawn from them."
    )
    rows = [
        [Cell(step.seen, "words"), Cell(step.change, "words"), Cell(step.settings, "code"), Cell(step.command, "code")]
        for step in found
    ]
    tables = [Rows(("what was seen", "what to change", "setting", "command"), rows)] if rows else []
    return Section("next", "What to try next", lead, tables=tables)


def steps(context: PageContext) -> list[Step]:
    """Return what to try next in the main regime, what concerns the result first."""
    found = verdict.standing(context.main)
    helped = [group for group in context.main.groups if group.key.method != BASELINE]
    looked_at = [group for group in helped if group is found.best or group.key.method.startswith(OWN)]
    return [
        *_of_result(context, found, helped),
        *_of_teacher(context, found),
        *_of_lengths(context, found),
        *_of_length(context, found.best),
        *(step for group in looked_at for step in _of_transfer(context, group)),
    ]


def command(run: RunView, *settings: str) -> str:
    """Write the command that trains a run again with other settings.

    Args:
        run: whose recipe is taken.
        settings: ``key=value`` texts and options.
    """
    folder = runs_folder(run)
    elsewhere = () if folder is None or folder.resolve() == _RUNS.resolve() else ("--runs", os.path.relpath(folder))
    return shlex.join(["svdistill", "train", str(run.path / "recipe.yaml"), *settings, *elsewhere])


def _of_result(context: PageContext, found: Standing, helped: Sequence[Group]) -> Iterator[Step]:
    """Advise what makes the result certain, or another."""
    alone, best = found.alone, found.best
    if alone is None:
        if helped:
            change = "train the student alone, on the same seeds"
            loop = _loop(
                [run.seed for run in helped[0].runs], command(helped[0].runs[0], "seed=$s", "--method", "alone")
            )
            yield Step("no student alone to measure a gain against", change, "--method alone", loop)
        return
    if not helped:
        return
    first = best if best is not alone else max(helped, key=lambda group: group.mean("accuracy"))
    label = context.look(first).label
    pairs = len(first.gains)
    needed = verdict.seeds_for(first.gain, first.gains)
    if pairs < 2:
        seen = f"{plural(pairs, 'seed')} that {label} and the student alone both have"
        yield _more_seeds(seen, (alone, first), 3)
    elif needed is not None and first.gain is not None:
        seen = f"the interval of {label} includes zero with {plural(pairs, 'seed')}"
        yield _more_seeds(seen, (alone, first), needed, certain=first.gain.mean)
    elif found.runner_up not in (None, alone, first) and found.runner_up and not verdict.is_gain(found.lead):
        seen = f"{label} and {context.look(found.runner_up).label} cannot be told apart"
        if len(first.runs) < _ENOUGH:
            yield _more_seeds(seen, (first, found.runner_up), _ENOUGH)
    if all(verdict.is_loss(group.gain) for group in helped):
        change = "another method; which one suits what you have is in docs/choosing.md"
        yield Step("every method did worse than the student alone", change, "--methods")


def _more_seeds(seen: str, groups: Sequence[Group], wanted: int, *, certain: float | None = None) -> Step:
    """Advise more seeds of some methods; ``certain`` is the gain that so many would tell from zero, were it to stay."""
    there = {run.seed for group in groups for run in group.runs}
    common = set.intersection(*({run.seed for run in group.runs} for group in groups))
    # Seeds that one of them lacks are the cheapest.
    new = [*sorted(there - common), *(seed for seed in range(wanted + len(there)) if seed not in there)]
    chosen = new[: max(1, wanted - len(common))]
    change = f"{plural(len(chosen), 'more seed')} of both"
    if certain is not None:
        change += f": {wanted} would tell {abs(certain):.2f} points from zero, if they stayed as they are"
    loop = _loop(chosen, *(command(group.runs[0], "seed=$s") for group in groups))
    return Step(seen, change, "seed=" + ",".join(map(str, chosen)), loop)


def _loop(seeds: Sequence[int], *commands: str) -> str:
    """Write a loop over seeds for the shell."""
    repeated = "; ".join(commands).replace("'seed=$s'", "seed=$s")
    return f"for s in {' '.join(map(str, seeds))}; do {repeated}; done"


def _of_teacher(context: PageContext, found: Standing) -> Iterator[Step]:
    reached = context.teacher_accuracy
    if reached is not None and reached <= found.best.mean("accuracy"):
        seen = "the teacher is no better than its student"
        yield Step(seen, "train it longer, or take a larger one: a teacher that knows no more has little to teach")


def _of_lengths(context: PageContext, found: Standing) -> Iterator[Step]:
    """Advise to train all for as long, where the best method trained for longer."""
    for other in verdict.longer(found)[:1]:
        label, epochs = context.look(found.best).label, verdict.epochs(found.best)
        who = "the student alone" if other is found.alone else context.look(other).label
        as_long = f"train.epochs={epochs}"
        settings = (as_long, "train.first_stage_counts=true")
        commands = command(other.runs[0], "seed=$s", as_long), command(found.best.runs[0], "seed=$s", *settings)
        yield Step(
            f"{label} trained for {epochs} epochs, {who} for {verdict.epochs(other)}",
            "let the first stage count among the epochs, so that all train for as long",
            " ".join(settings),
            _loop([run.seed for run in other.runs], *commands),
        )


def _of_length(context: PageContext, best: Group) -> Iterator[Step]:
    """Advise more epochs or fewer, from how the accuracy of the best method ran in the last fifth."""
    run = best.runs[0]
    epochs = run.settings.get("train.epochs")
    rises = [rise for one in best.runs if (rise := _last_fifth(one)) is not None]
    if not rises or not isinstance(epochs, int):
        return
    label = context.look(best).label
    lost = best.mean("best_accuracy") - best.mean("accuracy")
    if float(np.mean(rises)) > _GAINED:
        seen = f"{label} still gained {100 * float(np.mean(rises)):.1f} points in the last fifth of its training"
        settings = f"train.epochs={2 * epochs}"
        yield Step(
            seen, "train longer, the student alone too, or the comparison is not fair", settings, command(run, settings)
        )
    elif lost > _GAINED and not any(VALIDATION_ACCURACY in one.metrics for one in best.runs):
        seen = f"{label} ended {100 * lost:.1f} points below its best epoch"
        change = "let images that are held back choose the epoch, or train shorter"
        settings = "data.validation=0.1"
        yield Step(seen, change, settings, command(run, settings))


def _of_transfer(context: PageContext, group: Group) -> Iterator[Step]:
    """Advise what the figures of the transfer task say, by the rules that also judge a recipe before it is trained."""
    found, run = reasons.health(group), group.runs[0]
    losses = losses_of(run.recipe)
    label, rank = context.look(group).label, rank_of(run)
    weight: Any = losses[0].get("weight") if len(losses) == 1 else None
    strength = signs.of_gradients(
        found.ratio, found.passed, rules_of(run.recipe), weight=weight if is_finite(weight) else None
    )
    if strength is not None and not verdict.is_gain(group.gain):  # what gains needs no other weight
        yield _step(label, strength, run)
    own_first = own_vectors_first(run.recipe)
    energies = ((found.energy_teacher, "teacher"), (found.energy_student, "student"))
    of_vectors = (
        None if verdict.is_gain(group.gain) else signs.of_own_vectors(own_first),
        *(
            signs.of_energy(energy, f"the compared vectors of the {whose}", rank=rank, own_first=own_first)
            for energy, whose in energies
        ),
    )
    if (sign := next(filter(None, of_vectors), None)) is not None:
        yield _step(label, sign, run, loss=OWN)
    aside, images = found.set_aside or 0, sum(map(_images_seen, group.runs))
    number = f"{aside:,} samples in {plural(found.epochs, 'epoch')}"
    if (sign := signs.of_set_aside(aside / images if images else None, number)) is not None:
        yield _step(label, sign, run)
    if found.before is not None and found.after is not None and found.after - found.before <= reasons.ROSE:
        seen = f"{label}: alignment went from {found.before:.2f} to {found.after:.2f}, so it did not rise"
        yield Step(seen, "more weight or a looser bound for the transfer task, other taps, or more epochs")
    if found.dropped or found.skipped:
        number = f"{found.dropped:,} gradients and {found.skipped:,} steps were not finite"
        rate = run.settings.get("optimizer.lr")
        lower = f"optimizer.lr={float(rate) / 2:g}" if rate is not None and is_finite(rate) else ""
        change = "a lower learning rate, or train.precision=32-true"
        yield Step(f"{label}: {number}", change, lower, command(run, lower) if lower else "")


def _images_seen(run: RunView) -> float:
    """Return how many images a run has seen, each as often as it has, unlabelled ones among them."""
    if not {"images_per_second", "seconds"} <= run.metrics.keys():
        return float(run.summary["train_images"] * len(run.metrics["epoch"]))
    return float(np.nansum(run.metrics["images_per_second"] * run.metrics["seconds"]))


def _step(label: str, sign: signs.Sign, run: RunView, *, loss: str | None = None) -> Step:
    """Make a step of a sign; ``loss`` is the one of a sum whose setting it names, None for the first."""
    losses = losses_of(run.recipe)
    name = f"loss.{loss or losses[0].get('name')}" if len(losses) > 1 else "loss"
    settings = f"{name}.{sign.change}" if sign.change else ""
    return Step(f"{label}: {sign.found}", sign.advice, settings, command(run, settings) if settings else "")


def _last_fifth(run: RunView) -> float | None:
    """Return how much accuracy a run gained in the last fifth of its epochs; None where it was measured too rarely."""
    measured = run.metrics.get(VALIDATION_ACCURACY, run.metrics.get("accuracy"))
    if measured is None:
        return None
    there = np.isfinite(measured)
    epochs, values = run.metrics["epoch"][there], measured[there]
    before = values[epochs <= 0.8 * epochs[-1]] if len(epochs) else values
    return float(values[-1] - before[-1]) if len(epochs) >= _ENOUGH and len(before) else None
