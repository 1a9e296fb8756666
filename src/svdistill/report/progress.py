"""How far runs are that have not finished, from the metrics that they have written so far."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from svdistill.atomic import is_locked
from svdistill.errors import DataError, SvdistillError
from svdistill.records import RunRecord
from svdistill.report import sound
from svdistill.report.collect import MAX_EPOCHS
from svdistill.report.named import named_in
from svdistill.report.numbers import is_finite
from svdistill.report.tables import measured
from svdistill.runs import epochs_of, method_of

_FILES = ("recipe.yaml", "data.json", "metrics.jsonl", "summary.json", "insight.npz")
_LAST = 5  # epochs that tell how long the next will take

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Underway:
    """A run that has not finished.

    Attributes:
        path: its folder.
        name: of its recipe.
        seed: of the run.
        method: what helps the student.
        epochs: how many are to be; 0 where its recipe does not say.
        done: how many are done.
        loss: main loss of the last epoch.
        accuracy: the last that was measured, 0 to 1.
        pace: seconds that an epoch took lately; None where nothing tells.
        noted: when the last epoch was written down, in seconds since 1970.
        curve: epochs, and accuracy after each in which it was measured.
        training: whether a process is training it; otherwise it was interrupted.
        left: seconds until it ends; None where nothing tells.
    """

    path: Path
    name: str
    seed: int
    method: str
    epochs: int
    done: int
    loss: float | None
    accuracy: float | None
    pace: float | None
    noted: float
    curve: tuple[Sequence[int], Sequence[float]] = field(repr=False)
    training: bool = False
    left: float | None = None

    def now(self) -> "Underway":
        """Return the same with what changes while its files do not: whether it trains, and the time that is left."""
        training = is_locked(self.path)
        if not training or self.pace is None or self.epochs < self.done:
            return replace(self, training=training, left=None)
        since = min(max(0.0, time.time() - self.noted), self.pace)
        return replace(self, training=training, left=max(0.0, (self.epochs - self.done) * self.pace - since))


@dataclass(frozen=True)
class Found:
    """The runs in some folders.

    Attributes:
        ended: with the state of their files, by which a change is noticed.
        open: the same of those that have not ended.
        not_begun: runs that a comparison names and that have no folder yet.
        failed: runs that a comparison names as failed, with the reason.
        missing: what was given and is not there yet, or is no comparison.
    """

    ended: Mapping[Path, Stamp]
    open: Mapping[Path, Stamp]
    not_begun: Sequence[Path]
    failed: Mapping[Path, str]
    missing: Sequence[str]


def look(paths: Sequence[Path]) -> Found:
    """Find the runs in folders and comparisons, and see which of their files have changed; none is opened.

    Args:
        paths: run folders, folders of runs at any depth, or ``comparison.json`` files; they may not be there yet.
    """
    records: dict[Path, RunRecord] = {}
    not_begun: list[Path] = []
    failed: dict[Path, str] = {}
    missing: list[str] = []
    for path in paths:
        if path.is_dir():
            found = [RunRecord(path)] if RunRecord(path).exists else _find(path, missing)
        elif path.exists():
            found = _named(path, not_begun, failed, missing)
        else:
            found = []
            missing.append(f"{path} is not there yet")
        records |= {record.path: record for record in found}
    stamps = {path: _stamp(path) for path in records}
    ended = {path: stamp for path, stamp in stamps.items() if records[path].ended}
    still_open = {path: stamp for path, stamp in stamps.items() if path not in ended}
    return Found(ended, still_open, not_begun, failed, missing)


def read(path: Path) -> Underway:
    """Read how far a run is.

    Raises:
        DataError: its recipe or metrics are damaged.
    """
    record = RunRecord(path)
    recipe = record.recipe()
    if fault := sound.recipe_fault(recipe):
        raise DataError(f"the recipe of {path} is damaged ({fault})")
    lines = record.metrics.read(most=MAX_EPOCHS)
    points = [(line["epoch"], found[1]) for line in lines if (found := measured(line)) and is_finite(found[1])]
    took = [float(line["seconds"]) for line in lines[-_LAST:] if is_finite(line.get("seconds"))]
    loss: Any = lines[-1].get("loss") if lines else None
    return Underway(
        path=path,
        name=str(recipe.get("name", path.parent.name)),
        seed=int(recipe.get("seed", 0)),
        method=method_of(recipe),
        epochs=epochs_of(recipe) or 0,
        done=int(lines[-1]["epoch"]) if lines else 0,
        loss=float(loss) if is_finite(loss) else None,
        accuracy=points[-1][1] if points else None,
        pace=sum(took) / len(took) if took else None,
        noted=os.stat(path / "metrics.jsonl").st_mtime if lines else 0.0,
        curve=([epoch for epoch, _ in points], [accuracy for _, accuracy in points]),
    )


def _find(folder: Path, missing: list[str]) -> list[RunRecord]:
    try:
        found = RunRecord.find(folder)
    except OSError as error:
        missing.append(f"{folder} cannot be looked into ({error.strerror or error})")
        return []
    if not found:
        missing.append(f"{folder} has no run in it yet")
    return found


def _named(file: Path, not_begun: list[Path], failed: dict[Path, str], missing: list[str]) -> list[RunRecord]:
    try:
        named = named_in(file)
        begun = [one for one in named if RunRecord(one.folder).exists]
    except (SvdistillError, OSError, ValueError) as error:
        missing.append(str(error))
        return []
    not_begun += [one.folder for one in named if one not in begun and one.state != "unneeded"]
    failed |= {one.folder: str(one.error) for one in named if one.state == "failed"}
    return [RunRecord(one.folder) for one in begun]


def _stamp(path: Path) -> Stamp:
    found = []
    for name in _FILES:
        try:
            state = os.stat(path / name)
        except OSError:
            continue
        found.append((name, state.st_mtime_ns, state.st_size))
    return tuple(found)
