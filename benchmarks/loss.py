"""The transfer loss, forward and backward, against its straightforward form and against its floor.

The floor is what no method can avoid: the Gram products of both networks' taps and one copy of the student's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measure import machine, peak_bytes, ratio, side_by_side, spread, write
from benchmarks.straightforward import straightforward_loss
from benchmarks.taps import vgg_maps
from svdistill.losses import svd_loss

BATCH = 128
TARGETS = {1: (25, 6), 4: (40, 14)}  # rank: at least so many times faster than (a), at most so many floors


def floor(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    """Do the unavoidable work."""
    with torch.no_grad():
        for m in (*student, *teacher):
            x = m.flatten(2)
            torch.bmm(x.mT, x) if x.shape[2] < x.shape[1] else torch.bmm(x, x.mT)
        for m in student:
            m.clone()


def measure(rank: int, *, rounds: int = 30, slow_rounds: int = 3) -> dict[str, Any]:
    """Time one rank; the straightforward form, which takes seconds, is timed in the same run with fewer rounds."""
    student, teacher = vgg_maps(BATCH)

    def ours() -> tuple[Tensor, ...]:
        return torch.autograd.grad(svd_loss(student, teacher, rank=rank, assignment="argmax"), student)

    def slow() -> tuple[Tensor, ...]:
        return torch.autograd.grad(straightforward_loss(student, teacher, rank=rank), student)

    def least() -> None:
        floor(student, teacher)

    fast = side_by_side({"ours": ours, "floor": least}, rounds=rounds, title=f"k = {rank}")
    # The straightforward form leaves gigabytes for the allocator to give back, which must not be charged to ours.
    both = side_by_side(
        {"straightforward": slow, "settle": ours, "ours": ours}, rounds=slow_rounds, warmup=1, title="straightforward"
    )
    taps = sum(m.numel() * m.element_size() for m in student)
    broken = sum(int((~g.isfinite()).flatten(1).any(1).sum()) for g in slow()[:1])
    return {
        "rank": rank,
        "ours": spread(fast["ours"]),
        "floor": spread(fast["floor"]),
        "straightforward": spread(both["straightforward"]),
        "times_faster": ratio(both["straightforward"], both["ours"]),
        "floors": ratio(fast["ours"], fast["floor"]),
        "student_taps_mb": taps / 1e6,
        "peak_over_taps": peak_bytes(ours) / taps,
        "straightforward_peak_over_taps": peak_bytes(slow) / taps,
        "straightforward_samples_with_broken_gradient": broken,
        "ours_samples_with_broken_gradient": sum(int((~g.isfinite()).flatten(1).any(1).sum()) for g in ours()[:1]),
    }


def main() -> None:
    """Measure ranks 1 and 4, print a table, write JSON."""
    results = [measure(rank) for rank in TARGETS]
    table = Table(title=f"Transfer loss, forward and backward, VGG taps, batch {BATCH}, {machine()['threads']} threads")
    for column in ("", *(f"k = {r['rank']}" for r in results)):
        table.add_column(column, justify="right" if column else "left")
    for name in ("ours", "floor", "straightforward"):
        table.add_row(
            f"{name}, ms (quartiles)",
            *(f"{r[name]['median_ms']:.1f} ({r[name]['q1_ms']:.1f}–{r[name]['q3_ms']:.1f})" for r in results),
        )
    rows = {
        "times faster than straightforward": ("times_faster", "{:.0f} (target ≥ {})", 0),
        "floors": ("floors", "{:.1f} (target ≤ {})", 1),
    }
    for label, (key, form, which) in rows.items():
        table.add_row(label, *(form.format(r[key], TARGETS[r["rank"]][which]) for r in results))
    table.add_row("peak memory / student's taps", *(f"{r['peak_over_taps']:.2f} (target ≤ 2)" for r in results))
    table.add_row("straightforward: the same", *(f"{r['straightforward_peak_over_taps']:.1f}" for r in results))
    table.add_row(
        "samples with a broken gradient at tap 1, straightforward / ours",
        *(
            f"{r['straightforward_samples_with_broken_gradient']} / {r['ours_samples_with_broken_gradient']}"
            for r in results
        ),
    )
    Console().print(table)
    print(f"written: {write('loss', {'batch': BATCH, 'results': results})}")


if __name__ == "__main__":
    main()
