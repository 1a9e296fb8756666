"""`python -m benchmarks regimes` compares all methods where labels are few, the teacher knows other classes, and so on.

Each regime is a recipe, compared by `svdistill compare`: an interrupted call resumes. Its figures, and
the tables of docs/results.md, are written after each regime; what has not been trained stands in them as such.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.layout import Figures, grid
from benchmarks.measure import machine
from svdistill.methods import BASELINE, TEACHER
from svdistill.report.numbers import points
from svdistill.report.statistics import Interval, paired_differences, paired_interval
from svdistill.report.tables import mean_deviation
from svdistill.report.verdict import is_gain, is_loss

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
PUBLISHED = "svd-eccv2018"
# In the order of the tables.
METHODS = {
    BASELINE: "student alone",
    "soft-target": "soft targets",
    "soft-target-standardized": "soft targets, standardized",
    "dkd": "DKD",
    "fitnet": "FitNets",
    "fitnet-hint": "FitNets, the hint alone",
    "attention": "AT",
    "relational": "RKD",
    "fsp": "FSP",
    PUBLISHED: "KD-SVD as published",
    "svd-own-vectors": "KD-SVD of the student's own vectors",
    "svd-recommended": "KD-SVD as we recommend it",
    "svd-soft-target": "KD-SVD as we recommend it and soft targets",
    "svd-soft-target-standardized": "KD-SVD as we recommend it and standardized soft targets",
    "svd-dkd": "KD-SVD as we recommend it and DKD",
}
# What the others are compared with, and how the columns name it.
OURS = {
    "svd-recommended": "KD-SVD",
    "svd-soft-target": "KD-SVD and soft targets",
    "svd-soft-target-standardized": "KD-SVD and standardized soft targets",
    "svd-dkd": "KD-SVD and DKD",
}
# What compares the networks' answers class by class has nothing to say where the teacher's classes are others.
BY_CLASS = tuple(name for name in METHODS if name == "fitnet" or "soft-target" in name or "dkd" in name)
FIVE = (0, 1, 2, 3, 4)
Runs = Mapping[str, Figures]  # what the runs of a method came to, by seed


class Regime(NamedTuple):
    """What one has to learn from.

    Attributes:
        recipe: the name of its recipe, in ``regimes/``.
        title: the same for people.
        taps: those of the published method, of both networks.
        same_classes: whether the teacher knows the student's classes.
        alone: the regime whose student alone is also this one's, which images without labels do not concern; none = its
            own.
        column: what heads its column where the regimes of a section are shown side by side; none = it has no column.
    """

    recipe: str
    title: str
    taps: str = "block1,block2,block3,block4"
    same_classes: bool = True
    alone: str | None = None
    column: str | None = None

    @property
    def own_methods(self) -> tuple[str, ...]:
        """What is trained here."""
        return tuple(method for method in self.methods if method != BASELINE or self.alone is None)

    @property
    def methods(self) -> tuple[str, ...]:
        """What is compared."""
        left_out = ("fitnet-hint",) if self.same_classes else BY_CLASS
        return tuple(method for method in METHODS if method not in left_out)


def _series() -> Iterator[Regime]:
    """Name the regimes of the small-data series, which differ in the share of the labels."""
    for pair, (networks, taps, column) in PAIRS.items():
        for share in SHARES:
            name, title = series_recipe(pair, share), f"{networks}, {share} % of the labels"
            yield Regime(name, f"{title}, nothing else", taps, column=f"{column}, {share} %")
            beside = series_recipe(pair, share, unlabelled=True)
            column_beside = f"{column}, {share} %, others beside"
            yield Regime(beside, f"{title}, the other images without", taps, alone=name, column=column_beside)


def series_recipe(pair: str, share: int, *, unlabelled: bool = False) -> str:
    """Return the name of a recipe of the small-data series: a pair of networks, a share of the labels in percent."""
    return f"cifar100-{pair}-{share}" + ("-unlabelled" if unlabelled else "")


SHARES = (5, 10, 25)
PAIRS = {
    "resnet": ("ResNet-20 to 8", "stem,stage1,stage2,stage3", "ResNet"),
    "vgg": ("VGG with batch norm", "block1,block2,block3,block4", "VGG"),
}
_VGG_REGIMES = {
    "few": ("few labels, nothing else", True),
    "unlabelled": ("few labels, the other images without", True),
    "other-classes": ("the same, from a teacher that knows the other half of the classes alone", False),
    "turned": ("the same, from a teacher that learnt without labels which way images were turned", False),
}


def _of_few(images: str) -> Iterator[Regime]:
    """Name the regimes of few labels of a data set."""
    for name, (title, same_classes) in _VGG_REGIMES.items():
        alone = f"{images}-few" if name == "unlabelled" else None
        yield Regime(f"{images}-{name}", title, same_classes=same_classes, alone=alone)


SECTIONS: Mapping[str, tuple[Regime, ...]] = {
    "regimes-digits": (*_of_few("digits"), Regime("digits-all", "all labels")),
    "regimes-fashion-mnist": (
        *_of_few("fashion-mnist"),
        Regime("fashion-mnist-ten-percent", "10 % of the labels, nothing else"),
    ),
    "regimes-cifar100": tuple(_series()),
}


def measure(regime: Regime, methods: Sequence[str], seeds: Sequence[int], *, jobs: int, runs: Path) -> Figures:
    """Compare methods, and return for each what every run came to.

    Args:
        regime: where.
        methods: of those of the regime.
        seeds: of the students.
        jobs: how many runs side by side.
        runs: folder of all runs.

    Returns:
        For each method and seed ``accuracy``, ``best_accuracy``, ``seconds``, costs, and ``run``, its folder, which
        tells the settings; what failed is left out, and was reported.

    Raises:
        SystemExit: nothing could be compared.
    """
    found: dict[str, dict[str, Any]] = {}
    for published in (False, True):
        wanted = [method for method in methods if (method == PUBLISHED) is published]
        if not wanted:
            continue
        taps = [f"model.taps=[{regime.taps}]", f"teacher.taps=[{regime.taps}]"] if published else []
        output = Path("comparisons") / "regimes" / (regime.recipe + ("-published" if published else ""))
        options = ["--methods", ",".join(wanted), "--seeds", ",".join(map(str, seeds)) + ",", "--jobs", str(jobs)]
        places = ["--runs", str(runs), "--output", str(output)]
        command = [sys.executable, "-m", "svdistill", "compare", f"regimes/{regime.recipe}", *taps, *options, *places]
        written = output / "comparison.json"
        written.unlink(missing_ok=True)  # so that what is read is of this call
        subprocess.run(command, check=False)
        if not written.exists():
            raise SystemExit(f"error: {regime.recipe} could not be compared; see above")
        for run in json.loads(written.read_text())["runs"]:
            if run["summary"] is not None:
                figures = {key: run["summary"][key] for key in _KEPT} | {"run": Path(run["folder"]).name}
                found.setdefault(run["method"], {})[str(run["seed"])] = figures
    return found


_KEPT = ("accuracy", "best_accuracy", "seconds", "parameters", "flops", "train_images", "epochs")


def table(figures: Figures, *, apart: bool = False) -> str:
    """Return the table of each regime of a section, with the gains over the student alone, and all side by side.

    Args:
        figures: of the section.
        apart: whether they stand apart from a section, which says what was not measured.
    """
    shown = _shown(figures)
    parts = _side_by_side(figures, shown)
    for regime, found in shown:
        baseline = baseline_of(regime, figures)
        known = {**found, BASELINE: baseline}
        ours = [method for method in OURS if known.get(method)]
        rows = [_row(method, known, ours) for method in regime.methods if known.get(method)]
        if not regime.same_classes:
            rows[1:1] = [[METHODS["soft-target"], "–", "nothing to say of these classes", *[""] * (len(ours) + 2)]]
        parts += [f"**{regime.title[0].upper()}{regime.title[1:]}** (`regimes/{regime.recipe}`). {_teacher(found)}"]
        ahead = [f"{OURS[method]} is ahead by" for method in ours]
        head = ["", "accuracy, %", "gain in points (95 % interval)", *ahead, "seeds", "seconds a run"]
        parts += [grid(head, rows)]
        missing = [METHODS[method] for method in regime.methods if not known.get(method)]
        if missing and not apart:
            parts += [f"Not measured: {'; '.join(missing)}."]
    return "\n\n".join(parts)


def _shown(figures: Figures) -> list[tuple[Regime, Mapping[str, Runs]]]:
    """Return what was measured of each regime, without those that only lend their student alone to another."""
    by_recipe = {one.recipe: one for some in SECTIONS.values() for one in some}
    measured = [(by_recipe[recipe], found) for recipe, found in figures["regimes"].items() if found]
    lent = {regime.alone for regime, _ in measured}
    return [(one, found) for one, found in measured if one.recipe not in lent or set(found) - {BASELINE, TEACHER}]


def _side_by_side(figures: Figures, shown: Sequence[tuple[Regime, Mapping[str, Runs]]]) -> list[str]:
    """Return one table of the methods in the regimes that have columns, where these are several."""
    known = {}
    for regime, found in shown:
        if regime.column:
            measured = {**found, BASELINE: baseline_of(regime, figures)}
            known[regime.column] = {method: runs for method, runs in measured.items() if method != TEACHER and runs}
    if len(known) < 2:
        return []
    best = {column: max(found.values(), key=mean_accuracy) for column, found in known.items()}
    rows = [
        [title, *(_cell(found.get(method), best[column]) for column, found in known.items())]
        for method, title in METHODS.items()
        if any(method in found for found in known.values())
    ]
    lead = "Mean test accuracy in %; in bold the best, and what the seeds do not tell from it (paired, 95 %)."
    return [lead, grid(["", *known], rows), *(part for ours in OURS for part in _standing(ours, known))]


def _standing(ours: str, known: Mapping[str, Mapping[str, Runs]]) -> list[str]:
    """Return where one of our methods is ahead of each other one, as far as the seeds tell: a row for each column."""
    rows = []
    for column, found in known.items():
        if ours in found:
            leads = {
                method: gain(found[ours], found[method]) for method in METHODS if method in found and method != ours
            }
            rows.append([column, *(_named(leads, test) for test in (is_gain, _is_open, is_loss))])
    head = ["", "surely ahead of", "not told from", "surely behind"]
    return [f"{METHODS[ours]}, beside each other method (paired, 95 %):", grid(head, rows)] if rows else []


def _named(leads: Mapping[str, Interval | None], test: Callable[[Interval | None], bool]) -> str:
    """Name the methods whose lead passes a test."""
    return "; ".join(METHODS[method] for method, lead in leads.items() if test(lead))


def _is_open(lead: Interval | None) -> bool:
    """Return whether an interval holds zero."""
    return lead is not None and lead.low is not None and not (is_gain(lead) or is_loss(lead))


def _cell(runs: Runs | None, best: Runs) -> str:
    if runs is None:
        return "–"
    return f"**{mean_accuracy(runs):.1f}**" if is_level(runs, best) else f"{mean_accuracy(runs):.1f}"


def is_level(runs: Runs, best: Runs) -> bool:
    """Return whether runs are the best themselves, or the seeds do not tell them from the best (paired, 95 %)."""
    behind = None if runs is best else gain(best, runs)
    return behind is None or (behind.low is not None and not is_gain(behind))


def mean_accuracy(runs: Runs) -> float:
    """Return the mean accuracy of runs in %."""
    return 100 * fmean(run["accuracy"] for run in runs.values())


def apart_from(name: str) -> str | None:
    """Return the section of regimes that figures of a name stand apart from; none = they do not."""
    return next((section for section in SECTIONS if name.startswith(f"{section}-")), None)


def baseline_of(regime: Regime, figures: Figures) -> Runs:
    """Return the runs of the student alone that a regime's methods are compared with, by seed."""
    runs: Runs = figures["regimes"].get(regime.alone or regime.recipe, {}).get(BASELINE, {})
    return runs


def gain(found: Runs, baseline: Runs) -> Interval | None:
    """Return the gain over other runs, such as the student alone, in percentage points, over the seeds of both."""
    ours, theirs = ({int(seed): 100 * run["accuracy"] for seed, run in runs.items()} for runs in (found, baseline))
    differences = paired_differences(ours, theirs)
    return paired_interval(differences) if differences else None


def _row(method: str, known: Mapping[str, Runs], ours: Sequence[str]) -> list[str]:
    found = known[method]
    values = [100 * run["accuracy"] for run in found.values()]
    seconds = sorted(run["seconds"] for run in found.values())[len(found) // 2]
    ahead = [_signed(None if one == method else gain(known[one], found)) for one in ours]
    gained = _signed(None if method == BASELINE else gain(found, known[BASELINE]))
    return [METHODS[method], mean_and_deviation(values), gained, *ahead, str(len(found)), f"{seconds:.0f}"]


def mean_and_deviation(values: Sequence[float]) -> str:
    """Write the mean of some values, and of several their sample deviation."""
    mean, deviation = mean_deviation(values)
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def _signed(interval: Interval | None) -> str:
    return "" if interval is None else points(interval)


def _teacher(found: Mapping[str, Runs]) -> str:
    student = next(run for method, runs in found.items() if method != TEACHER for run in runs.values())
    cost = f"student {student['flops'] / 1e6:.2f} MFLOPs, {student['train_images']:,} labels"
    if not found.get(TEACHER):
        return f"The {cost}."
    (teacher,) = found[TEACHER].values()
    return f"Teacher {100 * teacher['accuracy']:.2f} % of its own task, {teacher['flops'] / 1e6:.2f} MFLOPs; {cost}."


def main(arguments: Sequence[str]) -> None:
    """Measure what the command line asks for."""
    from benchmarks import table as pages

    recipes = [regime.recipe for regimes in SECTIONS.values() for regime in regimes]
    parser = argparse.ArgumentParser(prog="python -m benchmarks regimes", description=__doc__)
    parser.add_argument("recipes", nargs="*", metavar="REGIME", help=f"{', '.join(recipes)} (all)")
    parser.add_argument("--methods", help="only these, with commas between them; later calls add others")
    parser.add_argument("--seeds", type=int, default=len(FIVE), help="how many (5)")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (2)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs (runs)")
    apart = "write SECTION-NAME.json, for teachers that are not those of the known figures (another processor's)"
    parser.add_argument("--apart", metavar="NAME", help=apart)
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.recipes if name not in recipes]:
        parser.error(f"no regime {unknown[0]!r}; known: {', '.join(recipes)}")
    chosen = None if given.methods is None else given.methods.split(",")
    if chosen and (strangers := [name for name in chosen if name not in METHODS]):
        parser.error(f"no method {strangers[0]!r} here; known: {', '.join(METHODS)}")
    for section, regimes in SECTIONS.items():
        for regime in regimes:
            if given.recipes and regime.recipe not in given.recipes:
                continue
            methods = [method for method in regime.own_methods if chosen is None or method in chosen]
            found = measure(regime, methods, range(given.seeds), jobs=given.jobs, runs=given.runs)
            _keep(section, regime, found, apart=given.apart)
            pages.update()


def _keep(section: str, regime: Regime, found: Figures, *, apart: str | None) -> None:
    """Write a regime's figures beside those of others, and of methods and seeds that an earlier call measured.

    Raises:
        SystemExit: they are of another teacher than those.
    """
    path = FIGURES / (f"{section}-{apart}.json" if apart else f"{section}.json")
    known = json.loads(path.read_text())["regimes"] if path.exists() else {}
    before = known.get(regime.recipe, {})
    _same_teacher(before.get(TEACHER, {}), found.get(TEACHER, {}), path)
    merged = {method: _joined(before.get(method, {}), found.get(method, {})) for method in {**before, **found}}
    in_order = [one.recipe for one in SECTIONS[section] if one.recipe in {*known, regime.recipe}]
    figures = {"regimes": {name: merged if name == regime.recipe else known[name] for name in in_order}}
    path.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")


def _same_teacher(before: Runs, found: Runs, path: Path) -> None:
    """Refuse students of a teacher that other instructions of a processor trained: they cannot be compared."""
    for seed in before.keys() & found.keys():
        one, other = before[seed], found[seed]
        if one["run"] == other["run"] and one["accuracy"] != other["accuracy"]:
            came_to = f"{100 * other['accuracy']:.2f} %, that of {path.name} {100 * one['accuracy']:.2f} %"
            raise SystemExit(
                f"error: the teacher trained here has {came_to}, so their students do not belong in one table; "
                "the same call with --apart NAME writes these elsewhere, and trains nothing again"
            )


def _joined(before: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Add runs to those of earlier calls; those of other settings, which their folder's name tells, give way."""
    settings = {run["run"].partition("-")[2] for run in found.values()}
    same = {seed: run for seed, run in before.items() if not settings or run["run"].partition("-")[2] in settings}
    return dict(sorted((same | dict(found)).items(), key=lambda item: int(item[0])))
