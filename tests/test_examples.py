"""Each example trains a student on digits; those of a library that is not installed are skipped."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
RUNNER = Path(__file__).with_name("run_example.py")
NEEDS = {
    "plain": None,
    "lightning_manual": "lightning",
    "accelerate_loop": "accelerate",
    "hf_trainer": "transformers",
    "timm_task": "timm",
    "torchdistill_loss": "torchdistill",
}


def check(said):
    """The transfer loss falls, and the student is far above chance, which is 10 %."""
    transfer = [float(value) for value in re.findall(r"transfer (\d\.\d+)", said)]
    assert transfer == [] or transfer[-1] < transfer[0], said
    assert float(re.search(r"accuracy (\d+\.\d) %", said)[1]) > 60, said


@pytest.mark.parametrize("name", NEEDS)
def test_example(name, tmp_path):
    """As one would start it, in a folder of its own."""
    library = NEEDS[name]
    if library is not None and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    path = os.pathsep.join([processes.SOURCE, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, RUNNER, EXAMPLES / f"{name}.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    check(done.stdout)


def test_two_processes():
    """They end with the same weights."""
    first, second = processes.run(EXAMPLES / "ddp.py", timeout=300)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "processes agree: True" in first[1]
    assert second[1] == ""
    check(first[1])


def test_all_are_tried_and_shown():
    """None is forgotten here, or in the page about them."""
    names = {path.stem for path in EXAMPLES.glob("*.py")} - {"digits"}
    assert names == {*NEEDS, "ddp"}
    page = (ROOT / "docs/loops.md").read_text(encoding="utf-8")
    assert all(f"(../examples/{name}.py)" in page for name in names)
