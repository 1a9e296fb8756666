"""What this machine lends to this process."""

import os

import pytest

from svdistill.machine import usable_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot bind a process to some cores")
def test_usable_cores_are_those_that_this_process_is_bound_to() -> None:
    """Not the cores of the machine: a batch system may lend a few of them."""
    before = os.sched_getaffinity(0)
    assert usable_cores() == len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_system_that_cannot_bind_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """There all cores count; one where even their number is unknown."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cores() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
