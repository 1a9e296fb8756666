"""The transfer loss, forward and backward, against its straightforward form and against its floor.

The floor is what no method can avoid: the Gram products of both networks' taps and one copy of the student's.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measure import machine, peak_bytes, ratio, side_by_side, spread, write
from benchmarks.straightforward import straightforward_loss
from benchmarks.taps import TAPS
from svdistill.losses import svd_loss


class Case(NamedTuple):
    """Settings of the loss.

    Attributes:
        rank: compared vectors, k.
        basis: whose vectors the student is compared by.
        target_times_faster: than the straightforward form, at least; None = no target.
        target_floors: at most.
    """

    rank: int
    basis: Literal["own", "teacher"] = "own"
    target_times_faster: int | None = None
    target_floors: int | None = None

    @property
    def title(self) -> str:
        """What heads its column."""
        return f"k = {self.rank}" + (", teacher's basis" if self.basis == "teacher" else "")


CASES = (
    Case(1, target_times_faster=25, target_floors=6),
    Case(4, target_times_faster=40, target_floors=14),
    Case(8, "teacher"),  # as we recommend it
)
MEMORY_TARGET = 2  # peak above the inputs, in units of the student's taps
RELATIONS_HELD = 5  # dense relations that the straightforward form holds at its peak, as its profile shows
MEMORY_SHARE = 0.6  # of the free memory that the straightforward form may take
SLOW = 5.0  # seconds: what takes longer is timed once


def floor(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    """Do the unavoidable work."""
    with torch.no_grad():
        for m in (*student, *teacher):
            x = m.flatten(2)
            torch.bmm(x.mT, x) if x.shape[2] < x.shape[1] else torch.bmm(x, x.mT)
        for m in student:
            m.clone()


def straightforward_bytes(student: Sequence[Tensor], rank: int) -> int:
    """Return about how much memory the straightforward form needs: almost all of it for dense relations."""
    batch, widths = len(student[0]), [m.shape[1] for m in student]
    relations = sum(front * back for front, back in itertools.pairwise(widths))
    return RELATIONS_HELD * relations * batch * rank * student[0].element_size()


def measure(name: str, case: Case, *, rounds: int = 30, slow_rounds: int = 3) -> dict[str, Any]:
    """Time one set of taps with one setting of the loss; see the keys of what is returned.

    The straightforward form, which takes seconds, is timed in the same run with fewer rounds. Where it does not fit
    into memory, it is timed on part of the batch and its time scaled by the number of samples.
    """
    batch = TAPS[name].batch
    student, teacher = TAPS[name].maps(batch)
    ours = partial(_gradient, student, teacher, case)

    def least() -> None:
        floor(student, teacher)

    fast = side_by_side({"ours": ours, "floor": least}, rounds=rounds, title=f"{name}, {case.title}")
    taps = sum(m.numel() * m.element_size() for m in student)
    return {
        "taps": name,
        "shapes": [list(m.flatten(2).mT.shape[1:]) for m in student],
        "rank": case.rank,
        "basis": case.basis,
        "batch": batch,
        "ours": spread(fast["ours"]),
        "floor": spread(fast["floor"]),
        "floors": ratio(fast["ours"], fast["floor"]),
        "student_taps_mb": taps / 1e6,
        "peak_over_taps": peak_bytes(ours) / taps,
        "ours_samples_with_broken_gradient": _broken(ours()),
        **_against_straightforward(student, teacher, case, slow_rounds),
        "target_times_faster": case.target_times_faster,
        "target_floors": case.target_floors,
        "target_peak_over_taps": MEMORY_TARGET,
    }


def _gradient(student: Sequence[Tensor], teacher: Sequence[Tensor], case: Case) -> tuple[Tensor, ...]:
    made = svd_loss(student, teacher, rank=case.rank, basis=case.basis, assignment="argmax")
    return torch.autograd.grad(made, student)


def _against_straightforward(
    student: Sequence[Tensor], teacher: Sequence[Tensor], case: Case, rounds: int
) -> dict[str, Any]:
    batch, needed = len(student[0]), straightforward_bytes(student, case.rank)
    part = min(batch, int(batch * MEMORY_SHARE * _free_bytes() / needed))
    if part < 1:
        return {"straightforward": None, "straightforward_needs_gb": needed / 1e9, "times_faster": None}
    few = [m[:part].detach().requires_grad_() for m in student], [m[:part] for m in teacher]
    ours = partial(_gradient, student, teacher, case)
    broken = 0

    def slow() -> None:
        nonlocal broken
        broken = _broken(torch.autograd.grad(straightforward_loss(*few, rank=case.rank, basis=case.basis), few[0]))

    # The straightforward form leaves gigabytes for the allocator to give back, which must not be charged to ours.
    functions: dict[str, Callable[[], object]] = {
        "straightforward": slow,
        "settle": ours,
        "ours": ours,
        "floor": partial(floor, student, teacher),
    }
    first = side_by_side(functions, rounds=1, warmup=0, title="straightforward")
    both = first
    if first["straightforward"][0] < SLOW:
        both = side_by_side(functions, rounds=rounds, warmup=0, title="straightforward", rotate=False)
    whole = [seconds * batch / part for seconds in both["straightforward"]]
    taps = sum(m.numel() * m.element_size() for m in few[0])
    return {
        "straightforward": spread(whole),
        "straightforward_batch": part,  # smaller than the batch: its time is scaled
        "straightforward_needs_gb": needed / 1e9,
        "times_faster": ratio(whole, both["ours"]),
        "times_faster_at_the_floor": ratio(whole, both["floor"]),  # no method can be faster than this
        "straightforward_peak_over_taps": peak_bytes(slow) / taps,
        "straightforward_samples_with_broken_gradient": broken,
    }


def _broken(gradients: Sequence[Tensor]) -> int:
    """Count samples of the first tap whose gradient is not finite."""
    return int((~gradients[0].isfinite()).flatten(1).any(1).sum())


def _free_bytes() -> int:
    """Return the memory that is available without swapping, as Linux reports it."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def main() -> None:
    """Measure every set of taps with every setting, print a table, write JSON."""
    cases = [(name, case) for name in TAPS for case in CASES]
    results = [measure(name, case, rounds=30 if name != "ResNet-50" else 10) for name, case in cases]
    table = Table(title=f"Transfer loss, forward and backward, {machine()['threads']} threads")
    for column in ("", *(f"{name}, {case.title}" for name, case in cases)):
        table.add_column(column, justify="right" if column else "left")
    for name in ("ours", "floor", "straightforward"):
        table.add_row(f"{name}, ms (quartiles)", *(_time(r[name]) for r in results))
    table.add_row(
        "samples on which straightforward was timed", *(str(r.get("straightforward_batch", 0)) for r in results)
    )
    for key, form in {
        "times_faster": "{:.0f} (target ≥ {})",
        "times_faster_at_the_floor": "{:.0f}",
        "floors": "{:.1f} (target ≤ {})",
        "peak_over_taps": "{:.2f} (target ≤ {})",
        "straightforward_peak_over_taps": "{:.1f}",
    }.items():
        cells = (form.format(r[key], r.get(f"target_{key}") or "–") if r.get(key) else "does not fit" for r in results)
        table.add_row(key.replace("_", " "), *cells)
    Console().print(table)
    print(f"written: {write('loss', {'batch': {n: t.batch for n, t in TAPS.items()}, 'results': results})}")


def _time(figure: dict[str, float] | None) -> str:
    if figure is None:
        return "does not fit"
    return f"{figure['median_ms']:.1f} ({figure['q1_ms']:.1f}–{figure['q3_ms']:.1f})"


if __name__ == "__main__":
    main()
