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

from svdistill.records import environment

RESULTS = Path("bench-results")


def side_by_side(
    functions: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2, title: str = ""
) -> dict[str, list[float]]:
    """Run functions in turn, so that a change in the machine's speed meets all of them alike.

    Args:
        functions: by name.
        rounds: how often each is timed.
        warmup: how often each is run before.
        title: of the progress bar.

    Returns:
        Seconds of each run, by name.
    """
    for _ in range(warmup):
        for function in functions.values():
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in track(range(rounds), description=title, transient=True):
        for name, function in functions.items():
            _synchronize()
            start = time.perf_counter()
            function()
            _synchronize()
            times[name].append(time.perf_counter() - start)
    return times


def spread(seconds: list[float]) -> dict[str, float]:
    """Return median, first and third quartile in milliseconds, and the number of runs."""
    low, middle, high = (
        statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else (seconds[0],) * 3
    )
    return {"median_ms": 1e3 * middle, "q1_ms": 1e3 * low, "q3_ms": 1e3 * high, "runs": len(seconds)}


def ratio(slow: list[float], fast: list[float]) -> float:
    """Return the median over rounds of slow / fast, both taken in the same round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def peak_bytes(function: Callable[[], object]) -> int:
    """Return the largest sum of tensor memory that a function holds at one time, above what was there before.

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
    """Return what a figure depends on: processor, threads, versions, allocator settings, date."""
    allocator = {k: v for k, v in os.environ.items() if k.startswith("MALLOC_") or k == "LD_PRELOAD"}
    return {
        **{key: value for key, value in environment().items() if key != "command"},
        "cores": os.cpu_count(),
        "allocator": allocator or "default of glibc",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def write(name: str, figures: Mapping[str, Any]) -> Path:
    """Write figures with the machine's description to ``bench-results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n")
    return path


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
