"""Find finished runs, read their records, and group them by regime, method and seed."""

import itertools
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from svdistill import methods
from svdistill.errors import DataError, SvdistillError
from svdistill.methods import BASELINE
from svdistill.names import of_recipe
from svdistill.plain import parse_json, read_text
from svdistill.records import ACCURACY, NOT_TOLD_APART, VALIDATION_ACCURACY, RunRecord
from svdistill.report import folders, insight, sound
from svdistill.report.named import named_in
from svdistill.report.numbers import is_finite
from svdistill.report.statistics import Interval, paired_differences, paired_interval
from svdistill.runs import OF_STAGES, flat, losses_of, method_of

MAX_EPOCHS = 1000  # a figure has about as many pixels

# The last is what ``train.log`` was in runs of earlier versions.
_NOT_COMPARED = frozenset({"name", "description", "seed", *NOT_TOLD_APART, "train.tensorboard"})
# What changes how a method helps, not what it is compared under: the student alone has none of it.
_OF_METHOD = ("loss", "teacher", "model.taps", *OF_STAGES, "data.unlabelled")
# Of that, what a student learns from: it may well be why one method is ahead of another.
_LEARNED_FROM = (
    *(f"teacher.{key}" for key in ("recipe", "overrides", "same_images", "checkpoint", "model", "views")),
    "data.unlabelled",
)
# Runs that differ in these are never compared with each other, even where each method has only one value.
_OF_REGIME = ("data", "model", "train.epochs")

# What decides which images an accuracy is of, and what is told of them.
_OF_TEST = ("data.name", "data.root", "data.classes", "data.held_out", "data.task")


@dataclass(frozen=True, eq=False)
class RunView:
    """One finished run, read.

    Attributes:
        path: its folder.
        recipe: the full recipe.
        summary: what it came to.
        metrics: by name of a figure its values, NaN where an epoch has none; the epochs themselves are ``epoch``. Of a
            run longer than :data:`MAX_EPOCHS` only every n-th epoch is there.
        diagnostics: arrays of its ``insight.npz``; {} where there is none.
        settings: the recipe's settings by dotted key; in a collection without what does not change the result.
        damage: what of its ``insight.npz`` is not in the figures, and why; "" where all is well.
        noted: what it has written down of what it was made with; {} where that cannot be read.
    """

    path: Path
    recipe: Mapping[str, Any]
    summary: Mapping[str, Any]
    metrics: Mapping[str, NDArray[np.float64]] = field(repr=False)
    diagnostics: Mapping[str, NDArray[Any]] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    damage: str = ""
    noted: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.summary.get("seed", self.recipe.get("seed", 0)))

    @property
    def name(self) -> str:
        """Name of the recipe."""
        return str(self.recipe.get("name", self.path.parent.name))

    @property
    def method(self) -> str:
        """What helped the student; derived from the recipe where an older version has not written it down."""
        return str(self.summary.get("method") or method_of(self.recipe))

    @property
    def teacher(self) -> str | None:
        """Name of the teacher's recipe or network, or the path of its file; None without a teacher."""
        teacher = self.recipe.get("teacher") or {}
        return teacher.get("recipe") or teacher.get("checkpoint") or (teacher.get("model") or {}).get("name")

    @cached_property
    def digest(self) -> str | None:
        """That of its trained network, which its students note; None where it has none."""
        return RunRecord(self.path).student_digest()

    @property
    def noted_teacher(self) -> str | None:
        """The digest of the teacher's weights; None where it has not written one down."""
        noted = self.noted.get("teacher")
        return noted if isinstance(noted, str) else None


class Key(NamedTuple):
    """What tells one row of the table from the others."""

    method: str
    variant: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class Group:
    """The runs of one method under the same conditions, one for each seed.

    Attributes:
        key: method, and settings of it that runs of this method differ in.
        runs: in order of the seeds.
        gain: accuracy over the student alone on the same seeds, with its interval; None without such runs.
        gains: the differences themselves, one for each common seed.
    """

    key: Key
    runs: Sequence[RunView]
    gain: Interval | None = None
    gains: Sequence[float] = ()

    def values(self, name: str) -> list[float]:
        """Return a number of the summaries, one for each run."""
        return [float(run.summary[name]) for run in self.runs]

    def mean(self, name: str) -> float:
        """Return the mean of a number of the summaries."""
        return statistics.fmean(self.values(name))


@dataclass(frozen=True, eq=False)
class Regime:
    """Conditions that methods are compared under.

    Attributes:
        conditions: the fewest settings that tell it from the other regimes; () where there is only one.
        also: further settings that differ between regimes, always along with the conditions.
        train_images: how many labelled images there were.
        groups: one for each method, the student alone first.
    """

    conditions: tuple[tuple[str, Any], ...]
    also: tuple[tuple[str, Any], ...]
    train_images: int
    groups: Sequence[Group]


@dataclass(frozen=True, eq=False)
class Collection:
    """All that a report is made from.

    Attributes:
        regimes: with the student runs.
        teachers: runs that students learned from.
        left_out: runs that are not in the report, with the reason.
    """

    regimes: Sequence[Regime]
    teachers: Sequence[RunView]
    left_out: Sequence[tuple[str, str]]

    @property
    def runs(self) -> list[RunView]:
        """The students' runs, then the teachers'."""
        return [r for regime in self.regimes for group in regime.groups for r in group.runs] + list(self.teachers)

    def teachers_of(self, regime: Regime) -> list[Group]:
        """Return the teachers of a regime's runs, those together that differ in their seed alone; most runs first.

        Where there are several, the key of each has the settings that tell them apart.

        Args:
            regime: where none of its runs has noted a teacher, all there are are returned.
        """
        noted = {run.noted_teacher for group in regime.groups for run in group.runs} - {None}
        found = [run for run in self.teachers if not noted or run.digest in noted]
        telling = _telling(found, _differing(found))
        alike: dict[tuple[Any, ...], list[RunView]] = {}
        for run in sorted(found, key=lambda run: run.seed):
            variant = tuple((key, run.settings.get(key)) for key in telling)
            alike.setdefault((run.name, variant), []).append(run)
        groups = [Group(Key("teacher", variant), runs) for (_, variant), runs in alike.items()]
        return sorted(
            groups, key=lambda group: (-len(group.runs), [_sortable(value) for _, value in group.key.variant])
        )

    def teacher_of(self, group: Group, among: Sequence[Group]) -> Group | None:
        """Return the one of some teachers that a method's runs have noted; None where it is not among them."""
        noted = {run.noted_teacher for run in group.runs} - {None}
        return next((t for t in among if any(run.digest in noted for run in t.runs)), None)


def collect(paths: Sequence[str | os.PathLike[str]]) -> Collection:
    """Find and read runs, and put them in order.

    Args:
        paths: folders of runs, folders in which runs lie at any depth, or ``comparison.json`` files that name runs. The
            teacher of a run that is found is looked for beside it.

    Returns:
        The runs by regime and method. Inside a folder, runs that have not finished or cannot be read are left out.

    Raises:
        DataError: nothing is there, no run has finished, or a run that was named itself is damaged or unfinished.
    """
    if not paths:
        raise DataError("no run is named; give run folders, folders of runs or a comparison.json")
    runs: dict[Path, RunView] = {}
    left_out: dict[str, str] = {}
    for path in map(Path, paths):
        found, lacking = _find(path)
        runs |= {run.path.resolve(): run for run in found}
        left_out |= lacking
    return arrange(list(runs.values()), left_out)


def read(path: str | os.PathLike[str]) -> RunView:
    """Read one finished run.

    Raises:
        DataError: it is not a run, has not finished, or a file is damaged.
    """
    record = RunRecord(path)
    recipe = record.recipe()
    if not record.finished:
        raise DataError(f"the run {record.path} has not finished; call the same training again to resume it")
    if fault := sound.recipe_fault(recipe):
        raise DataError(f"the recipe of {record.path} is damaged ({fault}); train the run again")
    summary = record.summary()
    if fault := sound.summary_fault(summary):
        raise DataError(f"the summary of {record.path} {fault}; train the run again")
    damage = record.damage(large=False)
    lacking = damage.pop(record.diagnostics.name, "")
    for name, what in damage.items():
        raise DataError(f"{record.path / name} {what}; call the same training again, or train afresh (--fresh)")
    settings = flat(recipe)
    metrics = _metrics(record, settings.get("train.evaluate_every"))
    if not any(np.isfinite(metrics.get(name, np.nan)).any() for name in (ACCURACY, VALIDATION_ACCURACY)):
        raise DataError(f"the run {record.path} has no epoch with an accuracy in its metrics; train it again")
    diagnostics, lacking = ({}, lacking) if lacking else insight.read(record.diagnostics)
    return RunView(record.path, recipe, summary, metrics, diagnostics, settings, lacking, _noted(record))


def _noted(record: RunRecord) -> Mapping[str, Any]:
    try:
        noted = parse_json(read_text(record.data))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, Mapping) else {}


def measured_alike(one: RunView, other: RunView) -> bool:
    """Whether the accuracies of two runs are of the same images and the same classes."""
    return all(one.settings.get(key) == other.settings.get(key) for key in _OF_TEST)


def unlike(one: RunView, other: RunView) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two runs of a regime differ, but for those that are a method's own; both values.

    What both learn from is not: two methods with a teacher can be compared under the same.
    """
    shared = _LEARNED_FROM if one.teacher is not None and other.teacher is not None else ()
    keys = [
        key for key in _differing([one, other]) if _is_of(key, shared) or not _is_of(key, (*_OF_METHOD, *_OF_REGIME))
    ]
    return {key: (one.settings.get(key), other.settings.get(key)) for key in keys}


def taught_apart(one: Group, other: Group) -> bool:
    """Whether two methods learned from two trainings of a teacher, on a seed that both have."""
    noted = {run.seed: run.noted_teacher for run in one.runs}
    pairs = [(noted.get(run.seed), run.noted_teacher) for run in other.runs]
    return any(None not in pair and pair[0] != pair[1] for pair in pairs)


def teachers_in(group: Group) -> int:
    """Return from how many trainings of what should be one teacher the seeds of a method learned."""
    one_for_all = [run for run in group.runs if run.settings.get("teacher.same_images") is not True]
    return len({run.noted_teacher for run in one_for_all} - {None})


def rank_of(run: RunView) -> int | None:
    """Return how many singular vectors a run's only loss keeps; None where it has no rank, or one of a preset."""
    losses = losses_of(run.recipe)
    rank = losses[0].get("rank") if len(losses) == 1 and not losses[0].get("preset") else None
    return rank if isinstance(rank, int) else None


def runs_folder(run: RunView) -> Path | None:
    """Return the folder of all runs that a run lies in; None where its folder is not called after its recipe."""
    path, name = run.path.resolve(), Path(run.name).parts
    return path.parents[len(name)] if path.parts[-1 - len(name) : -1] == name else None


def _find(path: Path) -> tuple[list[RunView], dict[str, str]]:
    if path.is_file():
        return _compared(path)
    if not path.is_dir():
        raise DataError(f"there is no {path}; give a run's folder, a folder of runs or a comparison.json")
    if RunRecord(path).exists:
        return [read(path)], {}
    records = RunRecord.find(path)
    if not records:
        raise DataError(
            f"{path} holds no run, as there is no recipe in it or below; give one that 'svdistill train' has made"
        )
    found, left_out = _read_all(records)
    if not found:
        name, reason = next(iter(left_out.items()))
        more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        raise DataError(f"{path} holds no finished run: {name} {reason}{more}; let a training finish first")
    return found, left_out


def _read_all(records: Iterable[RunRecord]) -> tuple[list[RunView], dict[str, str]]:
    found, left_out = [], {}
    for record in records:
        try:
            found.append(read(record.path))
        except (SvdistillError, OSError) as error:
            left_out[str(record.path)] = f"cannot be read ({error})" if record.ended else "has not finished"
    return found, left_out


def _compared(file: Path) -> tuple[list[RunView], dict[str, str]]:
    """Read the runs that a comparison names; those that failed are left out."""
    named = named_in(file)
    try:
        there = [one.folder for one in named if RunRecord(one.folder).exists]
    except (OSError, ValueError) as error:  # no folder can be called so
        raise DataError(f"{file} names a folder that cannot be one ({error})") from error
    found, left_out = _read_all(map(RunRecord, there))
    left_out |= {str(one.folder): "has not begun" for one in named if one.folder not in there}
    left_out |= {str(one.folder): f"failed ({one.error})" for one in named if one.state == "failed"}
    if not found:
        raise DataError(f"{file} names no run that has finished; call the same comparison again to resume it")
    return found, left_out


def _metrics(record: RunRecord, evaluated: Any) -> dict[str, NDArray[np.float64]]:
    """Read a run's metrics, figure by figure; of a long run, every n-th of the epochs after which it was evaluated."""
    every = evaluated if isinstance(evaluated, int) and evaluated > 0 else 1
    lines = record.metrics.read(most=MAX_EPOCHS, every=every)
    lines = [line for line in lines if is_finite(line.get("epoch"))]
    names = dict.fromkeys(itertools.chain.from_iterable(lines))
    return {
        name: np.array([float(line[name]) if is_finite(line.get(name)) else np.nan for line in lines]) for name in names
    }


def arrange(runs: Sequence[RunView], left_out: Mapping[str, str]) -> Collection:
    """Put runs in order, and find their teachers.

    Args:
        runs: at least one, as :func:`read` returns them.
        left_out: the paths of runs that could not be read, with the reason of each.
    """
    left_out = dict(left_out)
    known = folders.Folders()
    runs, teachers, unused = _split(runs)
    runs, teachers = (_told_apart(some, known) for some in (runs, teachers))
    left_out |= {str(run.path): "is a teacher that no run here learned from" for run in unused}
    left_out |= {f"{RunRecord(run.path).diagnostics}": run.damage for run in (*runs, *teachers) if run.damage}
    axes = [key for key in _differing(runs) if not _is_of(key, _OF_METHOD) and _is_axis(key, runs)]
    keys = _telling(runs, axes)
    regimes: dict[tuple[Any, ...], list[RunView]] = {}
    for run in runs:
        regimes.setdefault(tuple(run.settings.get(key) for key in keys), []).append(run)
    made = []
    for values, members in sorted(regimes.items(), key=lambda item: _order(item[0], item[1])):
        made.append(
            Regime(
                conditions=tuple(zip(keys, values, strict=True)),
                also=tuple((key, members[0].settings.get(key)) for key in axes if key not in keys),
                train_images=int(members[0].summary["train_images"]),
                groups=_groups(members, runs, left_out),
            )
        )
    return Collection(made, teachers, sorted(left_out.items()))


def _told_apart(runs: Sequence[RunView], known: folders.Folders) -> list[RunView]:
    """Leave out settings that change no result; images are told by what they are: a copy elsewhere is the same."""
    compared = []
    for run in runs:
        kept = {key: value for key, value in run.settings.items() if key not in _NOT_COMPARED}
        compared.append(replace(run, settings=kept | known.titles(run.settings, run.noted)))
    return compared


def _split(runs: Sequence[RunView]) -> tuple[list[RunView], list[RunView], list[RunView]]:
    """Return the students, the teachers that they learned from, and runs of a teacher's recipe that taught none."""
    names = {name for run in runs if (name := _teacher_name(run)) is not None}
    students = [run for run in runs if run.name not in names] or list(runs)
    candidates = {run.path.resolve(): run for run in runs if run.name in names}
    for folder in dict.fromkeys(_teacher_folder(run) for run in students):
        if folder is not None:
            candidates |= {other.path.resolve(): other for other in _read_all(_in_folder(folder))[0]}
    wanted = {run.noted_teacher for run in runs} - {None}
    used = [run for run in candidates.values() if run.digest in wanted] if wanted else list(candidates.values())
    given = {run.path.resolve() for run in runs}
    unused = [run for path, run in candidates.items() if run not in used and path in given]
    return students, used, unused


def _teacher_folder(run: RunView) -> Path | None:
    """Return where the runs of the teacher's recipe are, in the folder of all runs that this run lies in."""
    folder, name = runs_folder(run), _teacher_name(run)
    return None if folder is None or name is None else folder / name


def _teacher_name(run: RunView) -> str | None:
    """Return the name of the teacher's recipe, which may be a file; None where no recipe has made the teacher."""
    name = (run.recipe.get("teacher") or {}).get("recipe")
    return of_recipe(Path(name)) if name is not None and Path(name).is_absolute() else name


def _in_folder(folder: Path) -> list[RunRecord]:
    try:
        return RunRecord.find(folder, deep=False)
    except OSError:  # it may not be read, or no folder can be called so
        return []


def _differing(runs: Sequence[RunView]) -> list[str]:
    """Return the settings in which runs differ; one that a run of another version lacks does not count."""
    keys = dict.fromkeys(itertools.chain.from_iterable(run.settings for run in runs))
    return [key for key in keys if len({run.settings.get(key) for run in runs if _has(run, key)}) > 1]


def _has(run: RunView, key: str) -> bool:
    """Tell whether a run has a setting, or says that there is nothing that it would be a setting of."""
    owners = itertools.accumulate(key.split(".")[:-1], lambda owner, part: f"{owner}.{part}")
    return key in run.settings or any(owner in run.settings for owner in owners)


def _is_of(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _is_axis(key: str, runs: Sequence[RunView]) -> bool:
    """Tell whether runs with different values are kept apart: where the value is not merely a method's own choice."""
    if _is_of(key, _OF_REGIME):
        return True
    present = {run.method for run in runs}
    return any(key in _differing([run for run in runs if run.method == method]) for method in present)


def _telling(runs: Sequence[RunView], keys: Sequence[str]) -> list[str]:
    """Return the fewest keys, in order, that tell apart what all keys together tell apart."""
    chosen: list[str] = []
    parts = 1 if runs else 0
    for key in sorted(keys, key=lambda key: (key != "data.name", key != "data.train_size")):
        more = len({tuple(run.settings.get(k) for k in (*chosen, key)) for run in runs})
        if more > parts:
            chosen, parts = [*chosen, key], more
    return chosen


def _groups(members: Sequence[RunView], runs: Sequence[RunView], left_out: dict[str, str]) -> list[Group]:
    by_key: dict[Key, dict[int, RunView]] = {}
    telling: dict[str, list[str]] = {}
    for method in {run.method for run in members}:
        same = [run for run in runs if run.method == method]
        telling[method] = _telling(same, [key for key in _differing(same) if _is_of(key, _OF_METHOD)])
    for run in members:
        key = Key(run.method, tuple((name, run.settings.get(name)) for name in telling[run.method]))
        known = by_key.setdefault(key, {}).setdefault(run.seed, run)
        if known is not run:
            left_out[str(run.path)] = f"has the same settings and seed as {known.path}"
    alone = next((found for key, found in by_key.items() if key.method == BASELINE), {})
    base = {seed: 100 * float(run.summary["accuracy"]) for seed, run in alone.items()}
    groups = []
    for key, found in sorted(by_key.items(), key=lambda item: method_order(item[0])):
        values = {seed: 100 * float(run.summary["accuracy"]) for seed, run in found.items()}
        gains = paired_differences(values, base) if key.method != BASELINE else []
        ordered = [found[seed] for seed in sorted(found)]
        groups.append(Group(key, ordered, paired_interval(gains) if gains else None, gains))
    return groups


def method_order(key: Key) -> tuple[Any, ...]:
    """Return what rows are sorted by: the student alone first, KD-SVD after the other methods, sums of several last."""
    compared = methods.compared()
    position = next((i for i, name in enumerate(compared) if key.method.startswith(name)), len(compared))
    variant = [_sortable(value) for _, value in key.variant]
    return (methods.is_sum(key.method), position, len(key.method), key.method, variant)


def _order(values: tuple[Any, ...], members: Sequence[RunView]) -> tuple[Any, ...]:
    return (members[0].summary["train_images"], [_sortable(value) for value in values])


def _sortable(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if is_finite(value) else (1, 0.0, str(value))
