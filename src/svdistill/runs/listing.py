"""What the runs in a folder are, each told in plain values, also where one of them is broken."""

import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from svdistill.atomic import is_locked
from svdistill.errors import DataError, OptionError, nearest
from svdistill.records import RunRecord, is_set_aside
from svdistill.runs.settings import epochs_of, method_of

FINISHED, INTERRUPTED, TRAINING, DAMAGED, SET_ASIDE = STATES = (
    "finished",
    "interrupted",
    "training",
    "damaged",
    "set-aside",
)
_MARKS = ("recipe.yaml", "metrics.jsonl")  # a folder with either is that of a run
_NAMED = 6  # runs in a message, at most


@dataclass(frozen=True)
class RunInfo:
    """A run, as its folder tells.

    Attributes:
        path: its folder.
        recipe: name of its recipe; None where that cannot be read.
        method: what helped the student, ``alone`` where nothing did; None where the recipe cannot be read.
        seed: None where the recipe cannot be read.
        state: one of `STATES`. ``training``: another process has it locked; ``set-aside``: it was renamed to make room.
        accuracy: after the last epoch, 0 to 1; None where the run has not ended.
        epochs: how many have been trained.
        of_epochs: how many there are to be; None where the recipe cannot be read.
        seconds: how long the training took; None where the run has not ended.
        bytes: the size of all its files.
        checkpoint_bytes: of the checkpoints among them.
        changed: when its record was last written, in seconds since 1970.
        reason: what is wrong with a damaged run; "" otherwise.
        mends: whether the training itself mends the damage, when it is called again.
    """

    path: Path
    recipe: str | None
    method: str | None
    seed: int | None
    state: str
    accuracy: float | None
    epochs: int
    of_epochs: int | None
    seconds: float | None
    bytes: int
    checkpoint_bytes: int
    changed: float
    reason: str = ""
    mends: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class Filter:
    """Which runs are wanted; None = any.

    Attributes:
        recipe: its name, in which ``*`` stands for anything, or a part of it.
        method: its name, in which ``*`` stands for anything.
        seed: its number.
        state: one of `STATES`.
    """

    recipe: str | None = None
    method: str | None = None
    seed: int | None = None
    state: str | None = None

    def __post_init__(self) -> None:
        if self.state is not None and self.state not in STATES:
            raise OptionError(f"--state: no state {self.state!r}{nearest(self.state, STATES)}")

    def keeps(self, run: RunInfo) -> bool:
        """Whether a run is wanted."""
        return (
            (self.recipe is None or fnmatch.fnmatchcase(run.recipe or "", _anywhere(self.recipe)))
            and (self.method is None or fnmatch.fnmatchcase(run.method or "", self.method))
            and self.seed in (None, run.seed)
            and self.state in (None, run.state)
        )


def _anywhere(part: str) -> str:
    return part if "*" in part else f"*{part}*"


# By what runs can be sorted; the best, largest, longest and newest stand first.
_ORDERS: Mapping[str, Callable[[RunInfo], Any]] = {
    "path": lambda run: run.path.parts,
    "accuracy": lambda run: -1.0 if run.accuracy is None else run.accuracy,
    "size": lambda run: run.bytes,
    "time": lambda run: run.seconds or 0.0,
    "age": lambda run: run.changed,
}
SORTS = tuple(_ORDERS)


def find(folder: str | os.PathLike[str]) -> list[RunInfo]:
    """Look at all runs in a folder, at any depth; none of them, whatever its state, is an error.

    Args:
        folder: a folder of runs, or that of a run.

    Returns:
        In order of their paths, those that were set aside among them.

    Raises:
        DataError: there is no such folder.
    """
    return [look(path) for path in _folders(folder)]


def select(runs: Iterable[RunInfo], wanted: Filter, *, sort: str = "path", reverse: bool = False) -> list[RunInfo]:
    """Choose and order some runs.

    Args:
        runs: of `find`.
        wanted: which of them.
        sort: one of `SORTS`: paths in alphabetical order, all else with the best, largest, longest or newest first.
        reverse: the other way round.

    Raises:
        OptionError: an unknown order.
    """
    if sort not in _ORDERS:
        raise OptionError(f"--sort: no order {sort!r}{nearest(sort, SORTS)}")
    return sorted(filter(wanted.keeps, runs), key=_ORDERS[sort], reverse=reverse != (sort != "path"))


def only_run(folder: str | os.PathLike[str]) -> Path:
    """Return the only run in a folder, at any depth; those that were set aside do not count.

    Args:
        folder: the folder of a run, which is returned as it is, or one with a run in it.

    Raises:
        DataError: there is none in it, or there are several, which the message names.
    """
    folder = Path(folder)
    if RunRecord(folder).exists:
        return folder
    runs = [record.path for record in RunRecord.find(folder)] if folder.is_dir() else []
    if not runs:
        raise DataError(
            f"{folder} is not the folder of a run, and there is none in it; give one that 'svdistill train' has named, "
            "or see 'svdistill runs list'"
        )
    if len(runs) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in runs[:_NAMED])
        more = f" and {len(runs) - _NAMED} more" if len(runs) > _NAMED else ""
        raise DataError(f"{folder} holds {len(runs)} runs; give the folder of one: {names}{more}")
    return runs[0]


def look(path: str | os.PathLike[str], *, is_ours: bool = False) -> RunInfo:
    """Look at a run; the large files are not read.

    Args:
        path: its folder, in whatever state.
        is_ours: whether it is this process that has it locked.
    """
    record = RunRecord(path)
    recipe, summary, damage = _read(record)
    size, checkpoints = _sizes(record)
    has_checkpoint = any(file.is_file() for file in (record.last, record.previous))
    return RunInfo(
        path=record.path,
        recipe=_text(recipe.get("name")),
        method=_text(summary.get("method")) or (method_of(recipe) if recipe else None),
        seed=_whole(recipe.get("seed")),
        state=_state(record, damaged=bool(damage), is_ours=is_ours),
        accuracy=_number(summary.get("accuracy")),
        epochs=_whole(summary.get("epochs")) or _epochs(record),
        of_epochs=epochs_of(recipe),
        seconds=_number(summary.get("seconds")),
        bytes=size,
        checkpoint_bytes=checkpoints,
        changed=max(_changed(record), default=0.0),
        reason="; ".join(f"{name} {what}" for name, what in damage.items()),
        mends=has_checkpoint and (not record.ended or record.can_finish_again(damage)),
    )


def _state(record: RunRecord, *, damaged: bool, is_ours: bool) -> str:
    if is_set_aside(record.path):
        return SET_ASIDE
    if not is_ours and is_locked(record.path):
        return TRAINING
    if damaged:
        return DAMAGED
    return FINISHED if record.ended else INTERRUPTED


def _read(record: RunRecord) -> tuple[Mapping[str, Any], Mapping[str, Any], dict[str, str]]:
    """Return the recipe and the summary, {} where there is none, and what is wrong with each file."""
    recipe: Mapping[str, Any] = {}
    summary: Mapping[str, Any] = {}
    damage: dict[str, str] = {}
    try:
        recipe = record.recipe()
    except (DataError, OSError):
        damage["recipe.yaml"] = "is damaged" if record.exists else "is missing"
    if not record.ended:
        return recipe, summary, damage
    try:
        summary = record.summary()
        damage |= record.damage(large=False)
        damage |= {file.name: "is missing" for file in record.missing()}
    except (DataError, OSError):
        damage["summary.json"] = "is damaged"
    return recipe, summary, damage


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _epochs(record: RunRecord) -> int:
    try:
        return record.metrics.count()
    except OSError:
        return 0


def _sizes(record: RunRecord) -> tuple[int, int]:
    """Return the bytes of all files, and of the checkpoints."""
    size = checkpoints = 0
    for folder, _, names in os.walk(record.path):
        for name in names:
            try:
                found = os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # gone by now, for instance a temporary file
                continue
            size += found
            checkpoints += found if Path(folder) == record.checkpoints else 0
    return size, checkpoints


def _changed(record: RunRecord) -> Iterator[float]:
    for name in (*_MARKS, "summary.json"):
        try:
            yield (record.path / name).stat().st_mtime
        except OSError:
            continue


def _folders(folder: str | os.PathLike[str]) -> Sequence[Path]:
    if not os.path.isdir(folder):
        raise DataError(f"there is no folder {os.fspath(folder)}; give a folder of runs")
    found = [
        Path(where) for where, _, names in os.walk(folder, onerror=_refuse) if any(mark in names for mark in _MARKS)
    ]
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise DataError(
        f"cannot look into {error.filename} ({error.strerror}), where there may be runs; give a folder that can be read"
    ) from error
