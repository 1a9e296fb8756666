"""Every solver on every shape of tap, and the table by which `auto` chooses between eigh and the block iteration.

Each shape is timed in both of its parts: as a teacher's tap (k vectors, forward only) and as a student's (k + 1
candidates, of which k answer given targets, forward and backward). Run it after a change to the solvers of
`svdistill.linalg` and replace `SUBSPACE_FROM` by the line that it prints.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measure import machine, ratio, side_by_side, spread, write
from benchmarks.taps import TAPS
from svdistill.choices import Assignment
from svdistill.linalg.align import assign
from svdistill.linalg.solvers import MAX_SQUARING_RANK, SOLVERS, choose_solver
from svdistill.linalg.svd import decompose

RANKS = (1, 2, 4)
TABLE_SIZES = (8, 12, 16, 24, 32, 48, 64, 128, 256)
TABLE_RANKS = (1, 2, 3, 4, 5, 8)
LARGE, LARGE_BATCH, BATCH = 128, 32, 128  # from this side of a Gram matrix on, a smaller batch is enough
QUICK = 32  # up to this side a call takes milliseconds
TARGET = 1.2  # auto over the best solver
REFERENCE = "lapack"  # timed once, as products alone are on large matrices: they are many times slower


def teacher_part(x: Tensor, rank: int, solver: str) -> object:
    """Decompose without gradient."""
    return decompose(x, rank, solver=solver)  # type: ignore[arg-type]


def student_part(x: Tensor, rank: int, solver: str, *, targets: Tensor, cotangent: Tensor) -> object:
    """Decompose into one candidate more than there are targets, and differentiate the answers."""
    rule: Assignment = "argmax" if rank == 1 else "one_to_one"
    found = decompose(x, rank + 1, targets=targets, assign=partial(assign, assignment=rule), solver=solver)  # type: ignore[arg-type]
    return torch.autograd.grad((found.rows * cotangent).sum(), x)


def measure(taps: str, tap: int, rank: int) -> list[dict[str, Any]]:
    """Time one tap in both of its parts at one rank."""
    student, teacher = (m[tap].detach().flatten(2) for m in TAPS[taps].maps(TAPS[taps].batch))
    targets = decompose(teacher, rank).rows
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(targets.shape, generator=generator)
    answer = partial(student_part, targets=targets, cotangent=cotangent)
    parts: dict[str, tuple[Callable[[Tensor, int, str], object], Tensor, int]] = {
        "forward": (teacher_part, teacher, 0),
        "forward and backward": (answer, student.requires_grad_(), 1),
    }
    results = []
    for part, (function, x, more) in parts.items():
        candidates, size = min(rank + more, *x.shape[1:]), min(x.shape[1:])
        solvers = [s for s in SOLVERS if s != "squaring" or candidates <= MAX_SQUARING_RANK]
        seldom = [s for s in solvers if s == REFERENCE or (s == "squaring" and size >= LARGE)]
        solvers = [s for s in solvers if s not in seldom]
        title = f"{taps}, tap {tap}, k = {rank}, {part}"
        rounds = 9 if size > QUICK else 41  # what takes a millisecond or two varies by a third from call to call
        often: dict[str, Callable[[], object]] = {s: partial(function, x, rank, s) for s in solvers}
        times = side_by_side(often, rounds=rounds, title=title)
        slow: dict[str, Callable[[], object]] = {s: partial(function, x, rank, s) for s in seldom}
        once = side_by_side(slow, rounds=1, warmup=0, title=title)
        best = min((s for s in solvers if s != "auto"), key=lambda s: spread(times[s])["median_ms"])
        results.append(
            {
                "taps": taps,
                "positions": x.shape[2],
                "channels": x.shape[1],
                "size": size,
                "batch": len(x),
                "rank": rank,
                "part": part,
                **{s: spread(t) for s, t in {**times, **once}.items()},
                "auto_is": choose_solver(size, candidates, x.dtype, x.device),
                "best": best,
                "auto_over_best": ratio(times["auto"], times[best]),
            }
        )
    return results


def maps(size: int) -> Tensor:
    """Return post-ReLU maps (B, size, 2 size) whose spectrum falls off like that of features."""
    generator = torch.Generator().manual_seed(size)
    batch = BATCH if size < LARGE else LARGE_BATCH
    mixing = torch.randn(size, size, generator=generator) / torch.arange(1, size + 1)
    return torch.relu(mixing @ torch.randn(batch, size, 2 * size, generator=generator) + 0.3)


def crossover(*, rounds: int = 9) -> tuple[dict[int, dict[int, float]], dict[int, int]]:
    """Return the time of eigh over that of the block iteration by rank and size, and the size where the latter wins."""
    wins: dict[int, dict[int, float]] = {rank: {} for rank in TABLE_RANKS}
    for size in TABLE_SIZES:
        x = maps(size)
        for rank in TABLE_RANKS:
            run = {s: partial(teacher_part, x, rank, s) for s in ("eigh", "subspace")}
            times = side_by_side(run, rounds=rounds, title=f"rank {rank}, m = {size}")
            wins[rank][size] = ratio(times["eigh"], times["subspace"])
    least = {
        rank: min((s for s in TABLE_SIZES if all(row[t] > 1.05 for t in TABLE_SIZES if t >= s)), default=0)
        for rank, row in wins.items()
    }
    return wins, {rank: size for rank, size in least.items() if size}


def main() -> None:
    """Time all shapes and the table, print both and the line to paste, write JSON."""
    count = {name: len(taps.maps(1)[0]) for name, taps in TAPS.items()}
    results = [r for name, n in count.items() for tap in range(n) for rank in RANKS for r in measure(name, tap, rank)]
    shown = [s for s in SOLVERS if s != "auto"]
    table = Table(title=f"Decomposition of one tap, ms, {machine()['threads']} threads")
    for column in ("taps", "N x D", "B", "k", "part", *shown, "auto", "auto is", "auto / best"):
        table.add_column(column, justify="right")
    for r in results:
        times = (f"{r[s]['median_ms']:.1f}" if s in r else "" for s in (*shown, "auto"))
        shape = f"{r['positions']} x {r['channels']}"
        ends = (r["auto_is"], f"{r['auto_over_best']:.2f}")
        table.add_row(r["taps"], shape, str(r["batch"]), str(r["rank"]), r["part"], *times, *ends)
    Console().print(table)
    worst = max(r["auto_over_best"] for r in results)
    print(f"auto / best solver: at most {worst:.2f} (target ≤ {TARGET})")
    wins, least = crossover()
    table = Table(title="eigh / subspace, forward: above 1 the block iteration wins")
    for column in ("rank", *(f"m = {size}" for size in TABLE_SIZES)):
        table.add_column(column, justify="right")
    for rank, row in wins.items():
        table.add_row(str(rank), *(f"{row[size]:.2f}" for size in TABLE_SIZES))
    Console().print(table)
    print(f"SUBSPACE_FROM = {least}")
    figures = {
        "batch": {name: taps.batch for name, taps in TAPS.items()},
        "results": results,
        "worst_auto_over_best": worst,
        "target_auto_over_best": TARGET,
        "eigh_over_subspace": wins,
        "eigh_over_subspace_batch": {size: BATCH if size < LARGE else LARGE_BATCH for size in TABLE_SIZES},
        "subspace_from": least,
    }
    print(f"written: {write('decomposition', figures)}")


if __name__ == "__main__":
    main()
