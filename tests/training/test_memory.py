"""Tests of what is asked of the allocator, and of when it is left alone."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from svdistill import training
from svdistill.training.memory import keep_freed_memory

FAULTS = """
import resource, sys, torch
from svdistill.training.memory import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else "")
for _ in range(3):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.fixture
def asked(monkeypatch):
    """A C library that writes down what it is asked, and an environment without settings."""
    calls = []
    library = SimpleNamespace(mallopt=lambda *values: calls.append(values) or 1)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    for key in [key for key in os.environ if key.startswith(("MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(key)
    return calls


def test_no_block_is_mapped_and_none_handed_back(asked):
    """M_MMAP_MAX 0 and the largest M_TRIM_THRESHOLD."""
    assert keep_freed_memory()
    assert asked == [(-4, 0), (-1, 2**31 - 1)]


@pytest.mark.parametrize("key", ["MALLOC_ARENA_MAX", "LD_PRELOAD", "GLIBC_TUNABLES"])
def test_settings_of_a_user_stay(asked, monkeypatch, key):
    """Whoever has chosen an allocator or its settings keeps them."""
    monkeypatch.setenv(key, "x")
    assert not keep_freed_memory()
    assert asked == []


def test_another_c_library_is_left_alone(asked, monkeypatch):
    """Musl and macOS have no mallopt, Windows no library of that name."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert not keep_freed_memory()


def test_a_run_on_a_cpu_asks_for_it(asked):
    """With everything else that makes its engine."""
    training.launch(device="cpu", seed=0)
    assert len(asked) == 2


def test_it_saves_page_faults():
    """In a process of its own, which allocates 64 MB eight times: hardly any fault is left."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}

    def faults(how):
        found = subprocess.run(
            [sys.executable, "-c", FAULTS, how], env=clean, check=True, capture_output=True, text=True
        ).stdout.split("\n")
        if how == "keep" and found[0] == "False":
            pytest.skip("this system has no glibc")
        return int(found[1])

    kept, usual = faults("keep"), faults("usual")
    assert kept < 2_000
    assert kept <= usual
