"""A comparison's record → rows → table, Markdown, CSV and JSON. Reads records only."""

import csv
import io
import itertools
import json
import os
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from svdistill.atomic import write_atomically
from svdistill.errors import DataError
from svdistill.methods import BASELINE, TEACHER
from svdistill.names import brief_keys, brief_settings, printable
from svdistill.records import VALIDATION_ACCURACY
from svdistill.report.named import named_in
from svdistill.report.statistics import Interval, paired_differences, paired_interval
from svdistill.report.tables import (
    accuracy_name,
    count,
    flops,
    mean_deviation,
    not_equally_long,
    percent,
    plain,
    seconds,
    validation_note,
)

STEM = "comparison"
COSTS = ("param.", "MFLOPs")
DASH = "–"
NOTES = (
    "{accuracy}: mean ± sample deviation over the seeds, after the last epoch and at each run's best epoch.",
    "Gain: accuracy after the last epoch less that of the student alone with the same seed and settings, in percentage "
    "points: mean over the common seeds with Student's paired 95 % interval.",
    "FLOPs are those of one image, 2 × multiply-adds; seconds are a run's own training time.",
)
FLATTERED = "The best epoch is chosen on the same images, so that its accuracy flatters."


@dataclass(frozen=True)
class Row:
    """One method with one choice of settings, over its seeds; accuracies are fractions between 0 and 1.

    Attributes:
        method: its name; ``teacher`` for a teacher.
        axes: the settings that vary and that it has, with their values.
        planned: number of seeds that were asked for.
        seeds: those that have finished.
        accuracy: mean and deviation after the last epoch; None where no seed has finished.
        best: mean and deviation at each run's best epoch.
        gain: of the last epoch over the student alone, over the common seeds; None where there is none.
        best_gain: of the best epoch, over the same seeds; None where there is none.
        parameters: of the network.
        flops: of one image.
        epochs: of a run, those of a first stage among them; None where no run says it.
        seconds: mean time of a run.
        failed: for each seed that failed, what went wrong.
    """

    method: str
    axes: Mapping[str, Any]
    planned: int
    seeds: tuple[int, ...] = ()
    accuracy: tuple[float, float | None] | None = None
    best: tuple[float, float | None] | None = None
    gain: Interval | None = None
    best_gain: Interval | None = None
    parameters: float | None = None
    flops: float | None = None
    epochs: int | None = None
    seconds: float | None = None
    failed: Mapping[int, str] = field(default_factory=dict)


def rows(record: Mapping[str, Any]) -> list[Row]:
    """Sum a comparison up, one row for each method and choice of settings.

    Args:
        record: as ``sweep.Comparison.record`` returns it.

    Returns:
        The rows in the order of the record's runs, the teachers first.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in record["runs"]:
        name = [run["method"], run["axes"], run["recipe"] if run["method"] == TEACHER else None]
        groups.setdefault(json.dumps(name, sort_keys=True), []).append(run)
    plain = [group for group in groups.values() if group[0]["method"] == BASELINE]
    return [_row(group, _baseline(group[0], plain)) for group in groups.values()]


def _baseline(run: Mapping[str, Any], plain: Sequence[Sequence[Mapping[str, Any]]]) -> Sequence[Mapping[str, Any]]:
    """Return the runs of the student alone with the same settings, as far as it has them."""
    if run["method"] in (BASELINE, TEACHER):
        return ()
    return next((group for group in plain if group[0]["axes"].items() <= run["axes"].items()), ())


def _row(runs: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]) -> Row:
    done = [run["summary"] | {"seed": run["seed"]} for run in runs if run["summary"] is not None]
    failed = {run["seed"]: run["error"] or "failed" for run in runs if run["state"] == "failed"}
    row: dict[str, Any] = {}
    if done:
        row = {
            "seeds": tuple(run["seed"] for run in done),
            "accuracy": mean_deviation([run["accuracy"] for run in done]),
            "best": mean_deviation([run["best_accuracy"] for run in done]),
            "gain": _gain(runs, baseline, "accuracy"),
            "best_gain": _gain(runs, baseline, "best_accuracy"),
            "parameters": done[0]["parameters"],
            "flops": done[0]["flops"],
            "epochs": done[0].get("epochs"),
            "seconds": statistics.fmean(run["seconds"] for run in done),
        }
    return Row(runs[0]["method"], runs[0]["axes"], len(runs), failed=failed, **row)


def _gain(runs: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]], key: str) -> Interval | None:
    ours, theirs = (
        {run["seed"]: run["summary"][key] for run in side if run["summary"] is not None} for side in (runs, baseline)
    )
    differences = paired_differences(ours, theirs)
    return paired_interval(differences) if differences else None


def table(record: Mapping[str, Any]) -> Group:
    """Put a comparison into a table for the terminal, with what failed below it.

    Args:
        record: as ``sweep.Comparison.record`` returns it.

    Returns:
        A heading, a table with one row for each method and choice of settings, and a line for each failure.
    """
    axes, done = list(record["axes"]), rows(record)
    students = {(row.parameters, row.flops) for row in done if row.method != TEACHER and row.parameters is not None}
    headings = ["seeds", "last, %", "best, %", "gain [95 %]", "time", *(COSTS if len(students) > 1 else ())]
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.add_column("method", no_wrap=True)
    for heading in (*brief_keys(axes).values(), *headings):
        drawn.add_column(heading, justify="right")
    for row in done:
        figures = [_seeds(row), spread(row.accuracy), spread(row.best), gain_interval(row.gain), seconds(row.seconds)]
        costs = _costs(row) if len(students) > 1 else ()
        style = "dim" if row.method == TEACHER else None
        drawn.add_row(plain(row.method), *(plain(_value(row, axis)) for axis in axes), *figures, *costs, style=style)
    lines = [] if len(students) > 1 else [plain(line) for line in _cost_lines(done)]
    failed = [plain(f"failed  {line}", style="red") for line in failures(done)]
    notes = [plain(note)] if (note := uneven(done)) else []
    return Group(plain(_title(record), style="bold"), *lines, drawn, *notes, *failed)


def uneven(done: Sequence[Row]) -> str:
    """Say which methods trained for how long, where some that are compared trained longer than others; else "".

    Args:
        done: the rows of a comparison.
    """
    by_length: dict[str, dict[int, list[str]]] = {}
    for row in done:
        if row.method != TEACHER and row.epochs is not None:
            asked = json.dumps(row.axes.get("train.epochs"))  # who lets it vary compares lengths
            by_length.setdefault(asked, {}).setdefault(row.epochs, []).append(row.method)
    unlike = next((methods for methods in by_length.values() if len(methods) > 1), None)
    if unlike is None:
        return ""
    return f"{not_equally_long(unlike)} With train.first_stage_counts=true all have as many as train.epochs says."


def _costs(row: Row) -> tuple[str, str]:
    return _or_dash(row.parameters, _short), _or_dash(row.flops, lambda value: f"{value / 1e6:.3g}")


def _cost_lines(done: Sequence[Row]) -> Iterator[str]:
    """Say once what all students have in common, and what the teachers have."""
    seen = set()
    for row in sorted(done, key=lambda row: row.method != TEACHER):
        name = TEACHER if row.method == TEACHER else "student"
        line = f"{name}: {' parameters, '.join(_costs(row))} MFLOPs"
        if row.parameters is not None and line not in seen:
            seen.add(line)
            yield line


def markdown(record: Mapping[str, Any]) -> str:
    """Write a comparison as a Markdown page: the table, how to read it, what failed.

    Args:
        record: as ``sweep.Comparison.record`` returns it.

    Returns:
        The page.
    """
    axes, done = list(record["axes"]), rows(record)
    last = ("seeds", "last, %", "best, %", "gain, points [95 %]", "parameters", "MFLOPs", "epochs", "seconds")
    headings = ["method", *(f"`{axis}`" for axis in axes), *last]
    lines = [f"# {_title(record)}", ""]
    if record["overrides"]:
        lines += ["Settings: " + ", ".join(f"`{text}`" for text in record["overrides"]), ""]
    lines += [_line(headings), _line(["---", *["---:"] * (len(headings) - 1)])]
    for row in done:
        costs = (_or_dash(row.parameters, count), _or_dash(row.flops, flops), _or_dash(row.epochs, count))
        figures = (_seeds(row), spread(row.accuracy), spread(row.best), gain_interval(row.gain))
        took = _or_dash(row.seconds, "{:.1f}".format)
        lines.append(_line([row.method, *(_value(row, axis) for axis in axes), *figures, *costs, took]))
    notes = [note.format(accuracy=_accuracy(record).capitalize()) for note in NOTES]
    students = _summaries({"runs": [run for run in record["runs"] if run["method"] != TEACHER]})
    notes += [FLATTERED] if any(VALIDATION_ACCURACY not in summary for summary in students) else []
    notes += [note for note in (validation_note(students), uneven(done)) if note]
    lines += ["", *(part for note in notes for part in (note, ""))]
    if failed := list(failures(done)):
        lines += ["## Failed", "", *(f"- {_escaped(failure)}" for failure in failed), ""]
    return "\n".join(lines)


def comma_separated(record: Mapping[str, Any]) -> str:
    """Write a comparison as CSV, one line for each row; accuracies and gains are fractions between 0 and 1.

    Args:
        record: as ``sweep.Comparison.record`` returns it.

    Returns:
        The text, with a line of headings.
    """
    axes = list(record["axes"])
    text = io.StringIO()
    lines = [_flat(row, axes) for row in rows(record)]
    writer = csv.DictWriter(text, list(_flat(Row("", {}, 0), axes)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _flat(row: Row, axes: Sequence[str]) -> dict[str, Any]:
    gain, best_gain = row.gain or (None, None, None), row.best_gain or (None, None, None)
    return {
        "method": row.method,
        **{axis: json.dumps(row.axes[axis]) if axis in row.axes else "" for axis in axes},
        "planned": row.planned,
        "seeds": " ".join(map(str, row.seeds)),
        **dict(zip(("accuracy", "accuracy_deviation"), row.accuracy or (None, None), strict=True)),
        **dict(zip(("best_accuracy", "best_accuracy_deviation"), row.best or (None, None), strict=True)),
        **dict(zip(("gain", "gain_low", "gain_high"), gain, strict=True)),
        **dict(zip(("best_gain", "best_gain_low", "best_gain_high"), best_gain, strict=True)),
        "parameters": row.parameters,
        "flops": row.flops,
        "epochs": row.epochs,
        "seconds": row.seconds,
        "failed": "; ".join(f"seed {seed}: {error}" for seed, error in row.failed.items()),
    }


def as_json(record: Mapping[str, Any], *, folder: Path) -> str:
    """Write a comparison as JSON: its record and its rows.

    Args:
        record: as ``sweep.Comparison.record`` returns it.
        folder: where the file will lie; the runs' folders are written relative to it, so that both can be moved.

    Returns:
        The text.
    """
    runs = [{**run, "folder": _relative(run["folder"], folder)} for run in record["runs"]]
    done = [
        {
            "method": row.method,
            "axes": dict(row.axes),
            "planned": row.planned,
            "seeds": list(row.seeds),
            "accuracy": _named(("mean", "deviation"), row.accuracy),
            "best_accuracy": _named(("mean", "deviation"), row.best),
            "gain": _named(Interval._fields, row.gain),
            "best_gain": _named(Interval._fields, row.best_gain),
            "parameters": row.parameters,
            "flops": row.flops,
            "epochs": row.epochs,
            "seconds": row.seconds,
            "failed": {str(seed): error for seed, error in row.failed.items()},
        }
        for row in rows(record)
    ]
    return json.dumps({**record, "runs": runs, "rows": done}, indent=2, ensure_ascii=False) + "\n"


def write(record: Mapping[str, Any], folder: str | os.PathLike[str]) -> None:
    """Write ``comparison.md``, ``comparison.csv`` and ``comparison.json``, each in one piece.

    Args:
        record: as ``sweep.Comparison.record`` returns it.
        folder: where to; made if need be.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    write_atomically(folder / f"{STEM}.json", as_json(record, folder=folder).encode(errors="backslashreplace"))
    write_atomically(folder / f"{STEM}.csv", comma_separated(record).encode(errors="backslashreplace"))
    write_atomically(folder / f"{STEM}.md", markdown(record).encode(errors="backslashreplace"))


def free_folder(base: Path, record: Mapping[str, Any]) -> Path:
    """Return where a comparison is written without loss: to one folder whenever it is called again, or grown.

    Args:
        base: the folder that is wanted.
        record: as ``sweep.Comparison.record`` returns it.

    Returns:
        `base`, or where that holds a comparison with finished runs that this one lacks, the first of ``base-2``,
        ``base-3``, … that does not.
    """
    runs = {os.path.realpath(run["folder"]) for run in record["runs"]}
    names = itertools.chain([base], (base.with_name(f"{base.name}-{number}") for number in itertools.count(2)))
    return next(folder for folder in names if _loses_nothing(folder / f"{STEM}.json", runs))


def _loses_nothing(file: Path, runs: Collection[str]) -> bool:
    if not file.exists():
        return True
    try:
        return all(os.path.realpath(one.folder) in runs for one in named_in(file) if one.state == "finished")
    except DataError:  # somebody else's file
        return False


def plan_table(record: Mapping[str, Any]) -> Group:
    """List what a comparison would train, and which of its runs are there already.

    Args:
        record: as ``sweep.Comparison.record`` returns it.

    Returns:
        A heading and a table with one row for each run.
    """
    states = {
        "new": "to be trained",
        "begun": "to be resumed",
        "finished": "found",
        "failed": "damaged",
        "unneeded": "not needed",
    }
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("run", "seed", "state", "accuracy", "folder"):
        drawn.add_column(heading, no_wrap=heading != "folder", overflow="fold")
    for run in record["runs"]:
        title = " ".join([run["method"], *brief_settings(run["axes"])])
        accuracy = DASH if run["summary"] is None else percent(run["summary"]["accuracy"])
        state = states.get(run["state"], run["state"])
        drawn.add_row(plain(title), str(run["seed"]), state, accuracy, plain(run["folder"]))
    there = sum(run["state"] == "finished" for run in record["runs"])
    return Group(Text(f"{len(record['runs'])} runs, {there} of them found finished", style="bold"), drawn)


def _title(record: Mapping[str, Any]) -> str:
    runs = record["runs"]
    done = sum(run["state"] in ("finished", "failed", "unneeded") for run in runs)
    so_far = "" if done == len(runs) else f", {done} of {len(runs)} runs so far"
    methods, seeds = len(record["methods"]), len(record["seeds"])
    return f"{record['recipe']}: {_many(methods, 'method')}, {_many(seeds, 'seed')}, {_accuracy(record)}{so_far}"


def _accuracy(record: Mapping[str, Any]) -> str:
    return accuracy_name(_summaries(record))


def _summaries(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [run["summary"] for run in record["runs"] if run["summary"] is not None]


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def failures(done: Sequence[Row]) -> Iterator[str]:
    """Say which runs failed, and why.

    Args:
        done: the rows of a comparison.

    Yields:
        A line for each row and reason.
    """
    for row in done:
        title = " ".join([row.method, *(f"{axis}={row.axes[axis]}" for axis in row.axes)])
        for error in dict.fromkeys(row.failed.values()):
            seeds = [str(seed) for seed, reason in row.failed.items() if reason == error]
            yield f"{title} seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: {error}"


def _value(row: Row, axis: str) -> str:
    if axis not in row.axes:
        return DASH
    value = row.axes[axis]
    return value if isinstance(value, str) else json.dumps(value)


def _seeds(row: Row) -> str:
    return str(row.planned) if len(row.seeds) == row.planned else f"{len(row.seeds)} of {row.planned}"


def spread(values: tuple[float, float | None] | None) -> str:
    """Write a mean and its deviation, fractions between 0 and 1, in percent; a dash where there is none."""
    if values is None:
        return DASH
    mean, deviation = values
    return f"{100 * mean:.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}")


def gain_interval(values: Interval | None) -> str:
    """Write a gain and its interval, fractions between 0 and 1, in points; a dash where there is none."""
    if values is None:
        return DASH
    mean, low, high = values
    return f"{100 * mean:+z.2f}" + ("" if low is None or high is None else f" [{100 * low:+z.2f}, {100 * high:+z.2f}]")


def _short(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.1f} k"


def _or_dash(value: float | None, write: Callable[[float], str]) -> str:
    return DASH if value is None else write(value)


def _named(names: Sequence[str], values: Sequence[float | None] | None) -> dict[str, float | None] | None:
    return None if values is None else dict(zip(names, values, strict=True))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    return printable(text.replace("|", "\\|").replace("\n", " "))


def _relative(path: str, folder: Path) -> str:
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on another drive
        return os.path.abspath(path)
