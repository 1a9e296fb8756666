"""What of the runs in a folder can go, and its removal; what a run or another process still needs stays."""

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svdistill.atomic import locked
from svdistill.errors import OptionError, nearest
from svdistill.records import RunRecord
from svdistill.runs.listing import DAMAGED, FINISHED, SET_ASIDE, RunInfo, look

CHECKPOINTS = "checkpoints"
KINDS = (CHECKPOINTS, DAMAGED, SET_ASIDE)


@dataclass(frozen=True)
class Removal:
    """What of one run can go.

    Attributes:
        kind: ``checkpoints`` of a finished run, or all that a training wrote of a ``damaged`` or ``set-aside`` one.
        run: the run.
        bytes: how much that frees.
    """

    kind: str
    run: RunInfo
    bytes: int

    @property
    def path(self) -> Path:
        """The folder whose files are removed."""
        return RunRecord(self.run.path).checkpoints if self.kind == CHECKPOINTS else self.run.path

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {"kind": self.kind, "path": str(self.path), "bytes": self.bytes, "reason": self.run.reason}


def removals(runs: Iterable[RunInfo], kinds: Collection[str] = KINDS) -> list[Removal]:
    """Return what of some runs can go.

    Checkpoints can where a run has finished and every file of it is sound, as only they could mend one that is not. A
    damaged run can where calling its training again would not mend it and its trained network is lost; one that was
    interrupted, or that another process has locked, never. Nor can a folder that only looks like that of a run, or
    what a user has put beside a run's own files.

    Args:
        runs: of `find`; all that lie in one folder, since a folder with another run in it stays.
        kinds: of `KINDS`, those that are wanted.

    Raises:
        OptionError: an unknown kind.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise OptionError(f"--only: no kind {kind!r}{nearest(kind, KINDS)}")
    runs = list(runs)
    found = [removal for run in runs if (removal := _of(run)) is not None and removal.kind in kinds]
    return [one for one in found if one.kind == CHECKPOINTS or not _holds_another(one.run, runs)]


def remove(removal: Removal) -> bool:
    """Remove what can go, while no other process has the run locked.

    Args:
        removal: of `removals`.

    Returns:
        Whether it was removed; False where another process has the run locked, or it has changed since.

    Raises:
        OSError: the files cannot be removed.
    """
    run = removal.run.path
    try:
        with locked(run, wait=False):
            now = _of(look(run, is_ours=True))
            if now is None or now.kind != removal.kind:
                return False
            if removal.kind == CHECKPOINTS:
                for file in _checkpoints(RunRecord(run)):
                    file.unlink()
            else:
                RunRecord(run).remove()
            if removal.kind == SET_ASIDE:  # nobody trains under this name
                run.with_name(f".{run.name}.lock").unlink(missing_ok=True)
    except BlockingIOError:
        return False
    return True


def _of(run: RunInfo) -> Removal | None:
    record = RunRecord(run.path)
    if not record.is_ours:
        return None
    if run.state == SET_ASIDE:
        return Removal(SET_ASIDE, run, _bytes(record.own_files()))
    if run.state == DAMAGED and not run.mends and not record.has_whole_student():
        return Removal(DAMAGED, run, _bytes(record.own_files()))
    if run.state == FINISHED and (files := list(_checkpoints(record))) and not record.damage():
        return Removal(CHECKPOINTS, run, _bytes(files))
    return None


def _bytes(files: Iterable[Path]) -> int:
    return sum(os.lstat(file).st_size for file in files)


def _checkpoints(record: RunRecord) -> Iterator[Path]:
    return (file for file in sorted(record.checkpoints.glob("*.pt")) if file.is_file())


def _holds_another(run: RunInfo, runs: Iterable[RunInfo]) -> bool:
    return any(run.path in other.path.parents for other in runs)
