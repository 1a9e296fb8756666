"""Compiled runs, each in a process of its own, that share torch's cache on disk."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which

import pytest
from tests.processes import SOURCE

pytestmark = pytest.mark.skipif(not any(map(which, ("g++", "clang++"))), reason="inductor needs a C++ compiler")
PROGRAM = Path(__file__).with_name("compiled_runs.py")
ROOT = Path(__file__).parents[2]


def in_turn(folder, kinds):
    """Make runs one after the other; returns the weights of each by its kind."""
    shared = {"PYTHONPATH": f"{SOURCE}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    shared["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "cache")
    weights = {}
    for kind in kinds:
        program = [sys.executable, PROGRAM, folder / kind, kind]
        end = subprocess.run(program, env={**os.environ, **shared}, capture_output=True, text=True, timeout=300)
        assert end.returncode == 0, f"{kind}: {end.stderr}"
        weights[kind] = json.loads(end.stdout.splitlines()[-1])
    return weights


def test_whatever_came_before_compiled_runs_come_to_the_same(tmp_path):
    """One stage after two, two after one, and both after a program whose backward passes give away their input."""
    orders = ["one stage", "two stages"], ["other program", "two stages", "one stage"]
    with ThreadPoolExecutor(len(orders)) as threads:
        first, second = threads.map(in_turn, (tmp_path / "first", tmp_path / "second"), orders)
    for kind in ("one stage", "two stages"):
        assert first[kind] == second[kind]
