"""What the demo found: a table, and what it means in one sentence. Reads records only."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from svdistill.methods import BASELINE, TEACHER
from svdistill.report.comparison import DASH, Row, failures, gain_interval, rows, spread
from svdistill.report.statistics import Interval
from svdistill.report.tables import count

# What helps a student, as the subject of a sentence and beside a curve.
HELP = {BASELINE: "alone", "soft-target": "soft targets", "svd-recommended": "KD-SVD"}


def table(record: Mapping[str, Any]) -> Group:
    """Put the demo's results into a table of 80 columns, with what failed below it.

    Args:
        record: of the comparison that ``sweep.demo`` returns.

    Returns:
        A table with a part for each kind of teacher, what its columns mean, and a line for each failure.
    """
    found = rows(record)
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.add_column("", no_wrap=True)
    for heading in ("labels", "accuracy, %", "gain [95 % interval]"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for teacher in record["axes"]["teacher"]:
        part = [row for row in found if row.axes["teacher"] == teacher]
        drawn.add_row(f"teacher of the {teacher}", style="bold")
        for row in part:
            gain = "" if row.method in (TEACHER, BASELINE) else gain_interval(row.gain)
            cells = (_name(row.method), _labels(record, row), spread(row.accuracy), gain)
            drawn.add_row(*cells, style="dim" if row.method == TEACHER else None)
        for method in _missing(record, part):
            drawn.add_row(_name(method), "", "impossible", DASH)
        drawn.add_section()
    failed = [Text(f"failed  {line}", style="red") for line in failures(found)]
    return Group(drawn, *(Text(line, style="dim") for line in _notes(record, found)), *failed)


def _name(method: str) -> str:
    if method in (TEACHER, BASELINE):
        return "  the teacher itself" if method == TEACHER else "  student alone"
    return f"  student with {HELP[method]}"


def _labels(record: Mapping[str, Any], row: Row) -> str:
    """Return the number of labelled images that the runs of a row were trained on."""
    mine = (run for run in record["runs"] if run["method"] == row.method and run["axes"] == row.axes)
    seen = {count(run["summary"]["train_images"]) for run in mine if run["summary"] is not None}
    return " or ".join(sorted(seen))


def _missing(record: Mapping[str, Any], part: Sequence[Row]) -> list[str]:
    """Return the methods that one teacher allows and this one does not."""
    return [method for method in record["methods"] if method not in {row.method for row in part}]


def _notes(record: Mapping[str, Any], found: Sequence[Row]) -> Iterator[str]:
    if len(record["seeds"]) > 1:
        yield f"Accuracy on the test scans; students: mean ± deviation of {len(record['seeds'])} draws of labels."
    yield "Gain: percentage points over the student alone with the same labels. KD-SVD trains half as long again."
    yield "Soft targets are a teacher's outputs: they need one that knows the student's classes."
    costs = {row.method: row.flops for row in found if row.flops is not None}
    if TEACHER in costs and BASELINE in costs:
        yield f"An image costs the student {100 * costs[BASELINE] / costs[TEACHER]:.0f} % of what it costs its teacher."


def sentence(record: Mapping[str, Any]) -> str:
    """Say in one sentence what the gains mean: which are gains, which are losses, and which may be chance.

    Args:
        record: of the comparison that ``sweep.demo`` returns.

    Returns:
        The sentence, made of the intervals that were found.
    """
    found, parts = rows(record), []
    for teacher in record["axes"]["teacher"]:
        helped = [row for row in found if row.axes["teacher"] == teacher and row.method not in (TEACHER, BASELINE)]
        verdicts = " and ".join(verdict(HELP[row.method], row.gain) for row in helped)
        parts.append(f"from a teacher of the {teacher}, {verdicts}")
    single = all(row.gain is None or row.gain.low is None for row in found)
    doubt = " That is one run of each, which proves nothing." if single else ""
    return f"Of 100 test scans, compared with the student alone: {'; '.join(parts)}.{doubt}"


def verdict(name: str, gain: Interval | None) -> str:
    """Say what a gain over the student alone is: a gain, a loss, or perhaps chance.

    Args:
        name: what helps the student.
        gain: in fractions of the test images, with its 95 % interval; None where there is none.

    Returns:
        A few words.
    """
    if gain is None:
        return f"no result with {name}"
    difference = f"{100 * abs(gain.mean):.1f} {'fewer' if gain.mean < 0 else 'more'} are right with {name}"
    if gain.low is None or gain.high is None:
        return difference
    if gain.low <= 0 <= gain.high:
        return f"{difference} (cannot be told apart from zero: the interval includes it)"
    return f"{difference} (a {'gain' if gain.low > 0 else 'loss'}: the interval excludes zero)"
