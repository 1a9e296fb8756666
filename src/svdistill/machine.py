"""What this process may use of the machine."""

import os


def usable_cores() -> int:
    """Return the number of processor cores that this process may use, at least 1."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # a system that cannot bind processes to cores
        return os.cpu_count() or 1
