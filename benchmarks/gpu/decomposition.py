"""Every solver on every tap of `benchmarks.taps`, on the card; one that is too slow is given up, and that is noted."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.decomposition import student_part, teacher_part
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.sheet import Case, Clock, Sheet
from benchmarks.measure import spread
from benchmarks.taps import TAPS
from svdistill.linalg.solvers import MAX_SQUARING_RANK, SOLVERS, choose_solver
from svdistill.linalg.svd import decompose

HOPELESS = 5  # times as slow as is allowed: not called a second time


class Patience:
    """Which solvers were too slow, and on how large a tap.

    Args:
        limit: seconds that one call may take.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._given_up: dict[str, tuple[float, str]] = {}

    def refuses(self, solver: str, work: float) -> str | None:
        """Return why a solver is not called for so much work; None where it is."""
        least, reason = self._given_up.get(solver, (float("inf"), ""))
        return reason if work >= least else None

    def note(self, solver: str, work: float, seconds: float, where: str) -> None:
        """Note how long a call took; where that was too long, the solver is refused for as much work and for more."""
        if seconds > self.limit and self.refuses(solver, work) is None:
            self._given_up[solver] = work, f"not called: one call took {seconds:.1f} s on {where}"


def measure(sheet: Sheet, scale: Scale, clock: Clock) -> None:
    """Time all solvers, print a table."""
    patience = Patience(scale.slow)
    count = {name: len(taps.maps(1)[0]) for name, taps in TAPS.items()}
    cases = [
        Case(f"{name}, tap {tap}, k = {rank}", partial(one_tap, name, tap, rank, scale, patience), 2 * scale.slow)
        for name, number in count.items()
        for rank in scale.ranks
        for tap in reversed(range(number))  # the deeper a tap, the fewer positions it has
    ]
    sheet.measure(cases, clock)
    table = Table("taps", "N × D", "k", "part", *SOLVERS, title="Decomposition of one tap on the card, ms")
    for rows in sheet.results.values():
        for row in rows:
            shape = f"{row['positions']} × {row['channels']}"
            shown = (f"{row[s]['median_ms']:.2f}" if isinstance(row.get(s), dict) else "–" for s in SOLVERS)
            table.add_row(row["taps"], shape, str(row["rank"]), row["part"], *shown)
    Console().print(table)


def one_tap(taps: str, tap: int, rank: int, scale: Scale, patience: Patience) -> list[dict[str, Any]]:
    """Time every solver on one tap at one rank, as the teacher's and as the student's."""
    maps = TAPS[taps].maps(scale.tap_batch or TAPS[taps].batch)
    student, teacher = (side[tap].detach().flatten(2).to(scale.device) for side in maps)
    targets = decompose(teacher, rank).rows
    cotangent = torch.randn(targets.shape, generator=torch.Generator().manual_seed(0)).to(scale.device)
    answer = partial(student_part, targets=targets, cotangent=cotangent)
    parts: tuple[tuple[str, Callable[[Tensor, int, str], object], Tensor, int], ...] = (
        ("forward", teacher_part, teacher, rank),
        ("forward and backward", answer, student.requires_grad_(), min(rank + 1, *student.shape[1:])),
    )
    rows = []
    for part, function, x, candidates in parts:
        size = min(x.shape[1:])
        work = float(len(x)) * size**2 * max(x.shape[1:])
        where = f"{x.shape[2]} × {x.shape[1]}, batch {len(x)}"
        row: dict[str, Any] = {
            "taps": taps,
            "positions": x.shape[2],
            "channels": x.shape[1],
            "batch": len(x),
            "rank": rank,
            "part": part,
            "auto is": choose_solver(size, candidates, x.dtype, x.device),
        }
        for solver in SOLVERS:
            if solver == "squaring" and candidates > MAX_SQUARING_RANK:
                row[solver] = f"up to {MAX_SQUARING_RANK} vectors"
            elif (reason := patience.refuses(solver, work)) is not None:
                row[solver] = reason
            else:
                row[solver] = _time(partial(function, x, rank, solver), solver, work, where, scale, patience)
        rows.append(row)
    return rows


def _time(
    call: Callable[[], object], solver: str, work: float, where: str, scale: Scale, patience: Patience
) -> dict[str, float]:
    """Time one call, and more where that was quick; the first, which may load a library, counts only if it is slow."""
    seconds: list[float] = []
    while len(seconds) <= scale.rounds and sum(seconds) <= scale.slow:
        seconds.append(_once(call, scale))
    if len(seconds) == 1 and seconds[0] < HOPELESS * scale.slow:  # it may have been slow for having been the first
        seconds.append(_once(call, scale))
    patience.note(solver, work, seconds[-1], where)
    return spread(seconds[1:] or seconds)


def _once(call: Callable[[], object], scale: Scale) -> float:
    start = time.perf_counter()
    call()
    if scale.device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start
