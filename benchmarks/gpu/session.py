"""Runs the parts in turn, each in a process of its own and within its share of the time, and ends before it is over."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.gpu.sheet import read, say
from benchmarks.gpu.teacher import PATTERN

PARTS = ("numerics", "step", "decomposition", "row")
# Of the time of a call; what a part leaves over is the later ones', and the last has all that is left.
SHARES = {"numerics": 0.15, "step": 0.25, "decomposition": 0.10, "row": 0.50}
LAST_WORDS = 3.0  # seconds before the end at which everything must be over
GRACE = 20.0  # seconds that a part may still take for what it has begun, if there are any


@dataclass(frozen=True, kw_only=True)
class Call:
    """What one call was asked for.

    Attributes:
        minutes: that it may take.
        out: where the figures go.
        source: an earlier call's, from which it goes on; None = none.
        parts: to be run, in order.
        data: where CIFAR-100 is; None = where svdistill finds it.
        jobs: number of runs of the row side by side.
        epochs: of each run of the row; None = as published, as far as the time holds.
        rehearse: tiny sizes on a CPU, whose figures mean nothing.
    """

    minutes: float
    out: Path
    source: Path | None = None
    parts: Sequence[str] = PARTS
    data: Path | None = None
    jobs: int = 4
    epochs: int | None = None
    rehearse: bool = False


def shares(parts: Sequence[str], seconds: float) -> dict[str, float]:
    """Divide seconds among parts; what the missing ones would have had goes to the others in proportion."""
    whole = sum(SHARES[part] for part in parts)
    return {part: seconds * SHARES[part] / whole for part in parts}


def run(call: Call) -> int:
    """Run the parts, print what each came to.

    Returns:
        The exit status: 1 where something failed.
    """
    end = time.time() + 60 * call.minutes - LAST_WORDS
    call.out.mkdir(parents=True, exist_ok=True)
    if call.source is not None:
        _take_along(call.source, call.out)
    work = Path(tempfile.mkdtemp(prefix="svdistill-gpu-"))
    states: dict[str, str] = {}
    try:
        due = time.time()
        for part, seconds in shares(call.parts, end - time.time()).items():
            due = min(end, due + seconds)
            states[part] = _run_part(call, part, work, due=due, end=end)
            due = max(due, time.time())
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return _report(call, states)


def _take_along(source: Path, out: Path) -> None:
    """Copy what an earlier call has left, so that the new folder holds all there is."""
    if source.resolve() == out.resolve():
        return
    for path in (*source.glob("gpu-*.json"), *source.glob(PATTERN)):
        shutil.copy(path, out / path.name)


def _run_part(call: Call, part: str, work: Path, *, due: float, end: float) -> str:
    """Run a part until it is over, or for as long as it may take; return how it ended."""
    if due - time.time() < LAST_WORDS:
        return "no time was left"
    say(f"{part}: {due - time.time():.0f} s")
    command = [sys.executable, "-m", "benchmarks.gpu.part", part, "--until", str(due)]
    command += ["--out", str(call.out), "--work", str(work), "--jobs", str(call.jobs)]
    command += ["--from", str(call.source)] if call.source is not None else []
    command += ["--data", str(call.data)] if call.data is not None else []
    command += ["--epochs", str(call.epochs)] if call.epochs is not None else []
    command += ["--rehearse"] if call.rehearse else []
    # A group of its own, so that the row's workers end with it.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        status = process.wait(max(0.0, min(end, due + GRACE) - time.time()))
    except subprocess.TimeoutExpired:
        return "stopped: its time was over"
    finally:
        _end(process)
    return "finished" if status == 0 else "failed" if status == 1 else f"died with status {status}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Make sure that a part and all that it has started are gone."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _report(call: Call, states: dict[str, str]) -> int:
    title = "Rehearsal: these figures mean nothing" if call.rehearse else "Measured"
    table = Table("part", "", "cases", "not measured", "failed", "seconds", title=title)
    bad = False
    for part, state in states.items():
        found = read(call.out / f"gpu-{part}.json") or {"results": {}, "missing": {}, "errors": {}, "seconds": 0.0}
        counts = (len(found[key]) for key in ("results", "missing", "errors"))
        bad = bad or bool(found["errors"]) or state.startswith(("failed", "died"))
        table.add_row(part, state, *map(str, counts), f"{found['seconds']:.0f}")
    console = Console()
    console.print(table)
    for part in states:
        for case, reason in (read(call.out / f"gpu-{part}.json") or {"errors": {}})["errors"].items():
            console.print(f"{part}: {case}: {reason}", markup=False, highlight=False, soft_wrap=True)
    say(f"written to {call.out}; the tables: python -m benchmarks table --from {call.out}")
    return 1 if bad else 0
