"""Time and memory of functions side by side, and the machine they ran on."""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch.profiler import ProfilerActivity, profile

from svdistill.machine import usable_cores
from svdistill.records import environment

RESULTS = Path("bench-results")
# Set by `python -m benchmarks` before it starts: afterwards the load is that of the benchmark itself.
LOAD_BEFORE = "SVDISTILL_LOAD_BEFORE"
# What matrix products and convolutions can use, in the words of /proc/cpuinfo.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "asimd", "sve", "bf16")


def side_by_side(
    functions: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2, title: str = "", rotate: bool = True
) -> dict[str, list[float]]:
    """Run functions in turn, so that a change in the machine's speed affects all of them alike.

    Each round begins with a different one, because whoever follows one that leaves much memory behind pays for it.

    Args:
        functions: by name.
        rounds: how often each is timed.
        warmup: how often each is run before.
        title: of the progress bar.
        rotate: False begins each round with the first.

    Returns:
        Seconds of each run, by name.
    """
    for _ in range(warmup):
        for function in functions.values():
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for number in track(range(rounds), description=title, transient=True):
        first = number % len(names) if rotate else 0
        for name in names[first:] + names[:first]:
            _synchronize()
            start = time.perf_counter()
            functions[name]()
            _synchronize()
            times[name].append(time.perf_counter() - start)
    return times


def spread(seconds: list[float]) -> dict[str, float]:
    """Return median, first and third quartile in milliseconds, and the number of runs."""
    low, middle, high = (
        statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else (seconds[0],) * 3
    )
    return {"median_ms": 1e3 * middle, "q1_ms": 1e3 * low, "q3_ms": 1e3 * high, "runs": len(seconds)}


def rate(seconds: list[float], images: int) -> dict[str, float]:
    """Return median, first and third quartile in images a second, and the number of runs, of ``images`` each."""
    found = spread([images / s for s in seconds])
    return {**{key.replace("_ms", "_per_s"): value / 1e3 for key, value in found.items()}, "runs": len(seconds)}


def target(value: float, *, at_most: float | None = None, at_least: float | None = None) -> dict[str, float]:
    """Return a figure with its target, which the page of tables marks as met or not met."""
    if (at_most is None) == (at_least is None):
        raise ValueError("a target is either at_most or at_least")
    return {"value": value, **({"at_most": at_most} if at_most is not None else {"at_least": at_least or 0.0})}


def ratio(slow: list[float], fast: list[float]) -> float:
    """Return the median over rounds of slow / fast, both taken in the same round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def peak_bytes(function: Callable[[], object]) -> int:
    """Return the peak of tensor memory that a function holds, above what was held before.

    Counted from torch's own allocator, by its profiler, so the figure is exact and the same on every run.
    """
    function()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        result = function()
    del result
    held = peak = 0
    events = trace.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return int(peak)


def machine() -> dict[str, Any]:
    """Return what a figure depends on.

    Returns:
        Versions, processor and those of its instructions that matter, GPU, cores, threads, settings of the allocator,
        the load average over the minute before the start (None where it was not measured), and the date.
    """
    allocator = {k: v for k, v in os.environ.items() if k.startswith("MALLOC_") or k == "LD_PRELOAD"}
    load = os.environ.get(LOAD_BEFORE)
    return {
        **{key: value for key, value in environment().items() if key != "command"},
        "instructions": _instructions(),
        "cores": usable_cores(),
        "allocator": allocator or "default of glibc",
        "load_before": None if load is None else float(load),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def write(name: str, figures: Mapping[str, Any]) -> Path:
    """Write figures with the machine's description to ``bench-results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n")
    return path


def _instructions() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    flags = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [name for name in _INSTRUCTIONS if name in flags]


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
