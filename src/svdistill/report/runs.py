"""Tables of the runs in a folder, of one, and of several side by side."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from svdistill.report.tables import (
    count,
    file_size,
    flops,
    health,
    percent,
    plain,
    plain_table,
    seconds,
    significant,
    titled,
)
from svdistill.runs import Removal, RunInfo

_WIDE, _NARROW = 100, 60  # columns of a terminal that have room for the method too, and for no table of runs
_STYLES = {"damaged": "red", "training": "cyan", "interrupted": "yellow"}
_HEALTH = ("ratio", "passed", "alignment", "energy_student", "energy_teacher", "set_aside", "dropped")
_FIGURES = ("accuracy", "best_accuracy", "best_epoch", "train_images", "epochs", "parameters", "flops", "seconds")
_LEFT_OUT = ("command",)  # of the environment


def age(moment: float) -> str:
    """Write how long ago a moment, in seconds since 1970, was: ``12 min``, ``5 h``, ``3 d``."""
    passed = max(time.time() - moment, 0)
    unit, factor = next((one for one in (("d", 86400), ("h", 3600)) if passed >= one[1]), ("min", 60))
    return f"{passed / factor:.0f} {unit}"


def runs_table(runs: Sequence[RunInfo], folder: Path, *, width: int) -> Group:
    """List runs.

    Args:
        runs: one row each.
        folder: what their paths are shown relative to.
        width: columns of the terminal; a narrow one has no room for the method, or for a table.

    Returns:
        The table, and a line on what is wrong with each damaged one.
    """
    wrong = [plain(f"{_relative(run.path, folder)}: {run.reason}", style="red") for run in runs if run.reason]
    number = f"{len(runs)} run{'' if len(runs) == 1 else 's'}, {file_size(sum(run.bytes for run in runs))}"
    if width < _NARROW:
        listed = [
            line
            for run in runs
            for line in (
                plain(_relative(run.path, folder)),
                Text("  ") + Text(", ").join(_figures(run, unit=" epochs")),
            )
        ]
        return Group(*listed, *wrong, plain(number))
    table = plain_table()
    table.pad_edge = False
    table.add_column("run", overflow="fold")
    if width >= _WIDE:
        table.add_column("method", overflow="fold")
    table.add_column("state", no_wrap=True)
    for heading in ("accuracy", "epochs", "size", "age"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in runs:
        method = [plain(run.method or "?")] if width >= _WIDE else []
        table.add_row(plain(_relative(run.path, folder)), *method, *_figures(run))
    return Group(table, *wrong, plain(number))


def _figures(run: RunInfo, *, unit: str = "") -> list[Text]:
    epochs = str(run.epochs) if run.epochs == run.of_epochs else f"{run.epochs}/{run.of_epochs or '?'}"
    figures = (percent(run.accuracy), f"{epochs}{unit}", file_size(run.bytes), age(run.changed))
    return [Text(run.state, style=_STYLES.get(run.state, "")), *map(Text, figures)]


def settings_table(changed: Mapping[str, tuple[Any, Any]], title: str) -> Group:
    """Show the settings in which a run differs from something.

    Args:
        changed: by dotted key the other's value and the run's.
        title: what the other is.
    """
    if not changed:
        return Group(plain(f"settings: those of {title}", style="bold"))
    table = plain_table()
    table.add_column("setting", overflow="fold")
    table.add_column("there", overflow="fold")
    table.add_column("here", overflow="fold")
    for key, (before, now) in changed.items():
        table.add_row(plain(key), plain(written(before)), plain(written(now)))
    return titled(f"settings that differ from those of {title}", table)


def epoch_table(line: Mapping[str, Any]) -> Group:
    """Show what a run that has not ended was at after its last epoch.

    Args:
        line: the last of its metrics.
    """
    table = plain_table(header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    for key, value in line.items():
        if isinstance(value, int | float | str) and key != "epoch":
            table.add_row(plain(key.replace("_", " ")), plain(figure(key, value)))
    return titled(f"after epoch {line.get('epoch', '?')}", table)


def files_table(files: Mapping[str, int]) -> Group:
    """Show the files of a run.

    Args:
        files: the bytes of each, by its path in the run's folder.
    """
    table = plain_table(header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for name, size in files.items():
        table.add_row(plain(name), file_size(size))
    table.add_section()
    table.add_row("all", file_size(sum(files.values())), style="bold")
    return titled("files", table)


def figures_of(summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures by which runs are compared: those of its summary, and of the health of its transfer.

    Args:
        summary: as ``RunRecord.summary`` returns it; {} of a run that has not ended.
        metrics: as ``Metrics.read`` returns them.
    """
    found = {key: summary.get(key) for key in _FIGURES}
    return {**found, **{key: value for key, value in health(metrics).items() if key in _HEALTH}}


def compare_table(runs: Sequence[Mapping[str, Any]], differing: Mapping[str, Mapping[str, Sequence[Any]]]) -> Group:
    """Put runs side by side.

    Args:
        runs: of each its ``path``, ``state``, and its ``figures`` as `figures_of` returns them.
        differing: by a title (settings, machine) the values in which they differ, by key.

    Returns:
        Which run is which, the settings in which they differ, and their figures.
    """
    which = [plain(f"{number}  {run['path']}  ({run['state']})") for number, run in enumerate(runs, start=1)]
    shown: list[Text | Group] = [*which]
    for title, values in differing.items():
        if values:
            lines = ((key, map(written, row)) for key, row in values.items())
            shown.append(titled(f"{title} that differ", _side_by_side(lines, len(runs))))
        else:
            shown.append(plain(f"{title}: the same", style="bold"))
    figures = {key: [run["figures"].get(key) for run in runs] for key in runs[0]["figures"]}
    rows = [
        (key.replace("_", " "), [figure(key, value) for value in row])
        for key, row in figures.items()
        if any(value is not None for value in row)
    ]
    if rows:
        shown.append(titled("figures", _side_by_side(rows, len(runs))))
    return Group(*shown)


def removals_table(found: Sequence[Removal], folder: Path) -> Group:
    """Show what can go.

    Args:
        found: one row each.
        folder: what the paths are shown relative to.
    """
    table = plain_table()
    table.add_column("what", overflow="fold")
    table.add_column("why", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    for one in found:
        why = {"checkpoints": "the run has finished", "damaged": one.run.reason, "set-aside": "a fresh run replaced it"}
        table.add_row(plain(_relative(one.path, folder)), plain(why[one.kind]), file_size(one.bytes))
    return Group(table, plain(f"in all {file_size(sum(one.bytes for one in found))}", style="bold"))


def figure(key: str, value: Any) -> str:
    """Write a figure of a run as people read it.

    Args:
        key: its name in a summary or in the metrics.
        value: None where there is none.
    """
    if not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if key.endswith("accuracy") or key in ("passed", "clipped", "energy_student", "energy_teacher"):
        return percent(value)
    if key == "seconds":
        return seconds(value)
    if key == "flops":
        return f"{flops(value)} M"
    return count(value) if isinstance(value, int) else significant(value)


def written(value: Any) -> str:
    """Write a setting as in a recipe."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(written, value))}]"
    return str(value)


def machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a run's environment may make its figures differ from another's."""
    return {key: value for key, value in environment.items() if key not in _LEFT_OUT}


def _side_by_side(rows: Iterable[tuple[str, Iterable[str]]], number: int) -> Table:
    table = plain_table()
    table.add_column("", overflow="fold")
    for one in range(1, number + 1):
        table.add_column(str(one), justify="right", overflow="fold")
    for key, values in rows:
        table.add_row(plain(key), *map(plain, values))
    return table


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(path, folder) if path != folder else str(path)
