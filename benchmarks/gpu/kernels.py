"""What a step's time goes into, kernel by kernel."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def by_kernel(step: Callable[[], None], count: int, *, device: str) -> list[dict[str, Any]]:
    """Run steps under the profiler, also those that a graph replays.

    Args:
        step: is called ``count`` times.
        count: number of steps.
        device: whose kernels count; on a CPU operations stand in for them.

    Returns:
        A mapping for each kernel, the costliest first: its ``kernel`` name, ``µs`` and ``calls`` a step, and its
        ``share`` of the time of all.
    """
    cuda = device.startswith("cuda")
    activities = [ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    with profile(activities=activities) as trace:
        for _ in range(count):
            step()
        if cuda:
            torch.cuda.synchronize()
    rows = []
    for event in trace.key_averages():
        if (event.device_type.name == "CUDA") == cuda:
            time = event.self_device_time_total if cuda else event.self_cpu_time_total
            rows.append({"kernel": event.key[:120], "µs": time / count, "calls": event.count / count})
    whole = total(rows) or 1.0
    rows.sort(key=lambda row: -float(row["µs"]))
    return [{**row, "share": row["µs"] / whole} for row in rows]


def total(rows: Sequence[dict[str, Any]]) -> float:
    """Return the time of all kernels, µs a step."""
    return float(sum(row["µs"] for row in rows))
