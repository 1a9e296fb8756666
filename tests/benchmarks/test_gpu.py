"""Tests of the one command for a scarce GPU: rehearsed as a whole, and its planning by itself."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.gpu import cifar, teacher
from benchmarks.gpu.decomposition import Patience
from benchmarks.gpu.numerics import FOLLOWED, METHODS
from benchmarks.gpu.row import ROWS, admitted
from benchmarks.gpu.session import PARTS, shares
from benchmarks.gpu.sheet import Case, Clock, NotPossibleError, Sheet, read
from benchmarks.gpu.tables import SECTIONS, TARGETS, WAYS

from benchmarks import table
from svdistill import data, nets

ROOT = Path(__file__).resolve().parents[2]
BUFFERED = "buffered, without a graph"


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as one does, with one thread, so that it leaves room for others."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "gpu", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def figures(folder: Path) -> dict[str, dict[str, Any]]:
    """Read what each part has written."""
    return {part: json.loads((folder / f"gpu-{part}.json").read_text()) for part in PARTS}


def test_a_rehearsal_and_the_next_call(tmp_path: Path) -> None:
    """Everything runs and says that it measured nothing; the next call measures what is missing, and that alone."""
    first, second = tmp_path / "first", tmp_path / "second"
    done = call("--rehearse", "--minutes", "10", "--out", str(first))
    assert done.returncode == 0, done.stdout + done.stderr
    found = figures(first)
    for part in found.values():
        assert (part["rehearsal"], part["finished"], part["errors"], part["missing"]) == (True, True, {}, {})
    numbers = found["numerics"]["results"]
    assert {f"{name}: float64" for name in METHODS} | {f"{name}: {BUFFERED}" for name in FOLLOWED} == set(numbers)
    assert all(numbers[f"{name}: {BUFFERED}"]["weights"]["value"] == 0.0 for name in FOLLOWED)
    steps = found["step"]["results"]
    for way in WAYS:
        assert f"bf16, channels-last, 8: {way.replace('captured', BUFFERED)}" in steps
    assert len(steps["targets"]) == len(TARGETS)
    assert steps["bf16, channels-last, 8: share of the transfer loss"]["kernels"]
    assert {f"{name}, seed 0" for name in ROWS} <= set(found["row"]["results"])
    files = list(first.rglob("*"))
    assert len(files) <= 8
    assert all(file.stat().st_size < 16 * 2**20 for file in files)
    with pytest.raises(SystemExit, match="rehearsal"):
        table.adopt(first, figures=tmp_path)

    lost = {"step": "float32, 8: KD-SVD, eager", "row": "fsp, seed 0"}
    for part, case in lost.items():
        del found[part]["results"][case]
        (first / f"gpu-{part}.json").write_text(json.dumps(found[part]))
    done = call("--rehearse", "--minutes", "10", "--out", str(second), "--from", str(first))
    assert done.returncode == 0, done.stdout + done.stderr
    again = figures(second)
    for part in PARTS:
        kept = {
            case: value for case, value in found[part]["results"].items() if case not in ("targets", "side by side")
        }
        assert {case: again[part]["results"][case] for case in kept} == kept
        assert part not in lost or lost[part] in again[part]["results"]


def test_it_stops_before_its_time_is_over(tmp_path: Path) -> None:
    """A call that is much too short ends in time, and leaves what it has."""
    start = time.time()
    done = call("--rehearse", "--minutes", "0.3", "--out", str(tmp_path), "--parts", "numerics", "row")
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.time() - start < 60 * 0.3 + 10  # Python and torch start before the clock does
    left = read(tmp_path / "gpu-row.json")
    assert left is None or "alone, seed 9" not in left["results"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu() -> None:
    """Without a GPU nothing is begun, and the line says what can be done."""
    done = call("--minutes", "1")
    assert done.returncode == 2
    assert "add --rehearse" in done.stderr


def test_shares_of_the_time() -> None:
    """All of the time is given out, to the parts that run."""
    assert sum(shares(PARTS, 480).values()) == pytest.approx(480)
    assert shares(["row"], 480) == {"row": 480}
    few = shares(["numerics", "row"], 65)
    assert few["row"] == pytest.approx(50)


def test_only_runs_that_finish_are_begun() -> None:
    """Two at a time, in order; one that is too long is left out, and a shorter one may still fit."""
    wanted = [("a", 60.0), ("b", 50.0), ("c", 45.0), ("d", 45.0), ("e", 30.0)]
    assert admitted(wanted, jobs=2, seconds=100.0) == ["a", "b", "c", "e"]
    assert admitted(wanted, jobs=1, seconds=59.0) == ["b"]


def test_a_slow_solver_is_given_up() -> None:
    """One call over the limit is enough, for taps as large and larger ones."""
    patience = Patience(1.0)
    patience.note("eigh", 100.0, 0.9, "a tap")
    assert patience.refuses("eigh", 100.0) is None
    patience.note("eigh", 100.0, 3.0, "a large tap")
    assert patience.refuses("eigh", 99.0) is None
    assert patience.refuses("lapack", 100.0) is None
    assert "3.0 s on a large tap" in str(patience.refuses("eigh", 200.0))


def test_a_sheet_outlives_what_fails(tmp_path: Path) -> None:
    """A failure, an impossible case and one without time are written down beside the others; known ones are kept."""

    def fails() -> None:
        raise ValueError("broken\nhere")

    def impossible() -> None:
        raise NotPossibleError("waits for the host")

    cases = [Case("good", lambda: 1), Case("bad", fails), Case("never", impossible), Case("long", fails, 1e9)]
    sheet = Sheet("step", tmp_path, rehearsal=True)
    sheet.measure(cases, Clock(time.time() + 60))
    left = read(sheet.path)
    assert left is not None
    assert left["results"] == {"good": 1}
    assert left["errors"] == {"bad": "ValueError: broken here"}
    assert left["missing"] == {"never": "waits for the host", "long": "no time was left"}
    later = Sheet("step", tmp_path, rehearsal=True)
    assert later.resume(tmp_path) is not None
    later.measure([Case("good", fails)], Clock(time.time() + 60))
    assert (later.results, later.errors) == ({"good": 1}, {})
    real = Sheet("step", tmp_path, rehearsal=False)
    assert "rehearsal" in str(real.resume(tmp_path))
    assert real.results == {}


def test_a_teacher_survives_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes back in float32 with half precision's rounding, and not at all where a piece is missing."""
    monkeypatch.setattr(teacher, "PART_BYTES", 40_000)
    torch.manual_seed(0)
    network = nets.create("vgg-student", num_classes=10, width=0.125)
    settings = {"name": "vgg-student", "num_classes": 10, "in_channels": 3, "width": 0.125}
    nets.save(network, tmp_path / "whole.safetensors", **settings, extra={"mean": "[0.5]"})
    pieces = teacher.store(tmp_path / "whole.safetensors", tmp_path)
    assert len(pieces) > 1
    back = teacher.restore(tmp_path, tmp_path / "back.safetensors")
    assert back is not None
    assert nets.spec(back) == nets.spec(tmp_path / "whole.safetensors")
    for name, value in nets.load(back).state_dict().items():
        expected = network.state_dict()[name]
        assert value.dtype == expected.dtype
        torch.testing.assert_close(value, expected, rtol=2**-11, atol=1e-7)
    pieces[0].unlink()
    assert teacher.restore(tmp_path, tmp_path / "back.safetensors") is None


def test_made_up_cifar_is_read_as_the_real_one(tmp_path: Path) -> None:
    """It is found and loaded by its layout; where there is none, the line says what to do."""
    folder = cifar.make_up(tmp_path / "there")
    assert cifar.find(folder)[0] == folder
    loaded = data.load("cifar100", root=folder)
    assert (len(loaded.train), len(loaded.test), loaded.train.num_classes) == (200, 100, 100)
    missing, how = cifar.find(tmp_path)
    assert missing is None
    assert "cifar-100-binary.tar.gz" in how


def test_tables_without_figures() -> None:
    """Each says that nothing was measured."""
    page = "".join(f"<!-- gpu-{part} -->\n<!-- /gpu-{part} -->\n" for part in PARTS)
    assert table.filled(page, ROOT / "nowhere").lower().count("not measured") > len(PARTS)


def test_tables_with_figures() -> None:
    """Accuracies become mean, deviation and gain; fewer epochs than published, failures and cuts are said."""
    run = {"epochs": 100, "seconds": 61.0, "gpu": "A GPU", "warnings": []}
    results = {
        "plan": {"epochs": 100, "published epochs": 200},
        "teacher": {**run, "accuracy": 64.0},
        **{f"alone, seed {seed}": {**run, "accuracy": 60.0 + seed} for seed in range(2)},
        **{f"fsp, seed {seed}": {**run, "accuracy": 62.0 + 2 * seed} for seed in range(2)},
    }
    made = SECTIONS["gpu-row"]({"results": results, "errors": {"x": "broke"}, "missing": {}, "finished": False})
    assert "| student alone | 61.37 | 60.50 ± 0.71 | | 2 | 61.0 |" in made
    assert "| FSP, one stage | 64.89 | 63.00 ± 1.41 | +2.50 (-3.85 to +8.85) | 2 | 61.0 |" in made
    assert "100 epochs" in made
    assert "**The paper has 200 epochs**" in made
    assert "- x: **failed**: broke" in made
    assert made.endswith("Cut off before its end.")
    goal = {"value": 2.0, "at_most": 1.5}
    step = {"median_ms": 2.0, "q1_ms": 1.9, "q3_ms": 2.1, "runs": 5, "images_per_s": 64_000.0}
    captured = {"bf16, channels-last, 128: KD-SVD, captured": step, "targets": {"ms a step": goal}}
    made = SECTIONS["gpu-step"]({"results": captured, "errors": {}, "missing": {}, "finished": True})
    assert "| ms a step | 2 (target ≤ 1.5: **not met**) | |" in made
    assert "2.00 (64,000) | not measured |" in made


def test_it_needs_little() -> None:
    """It imports nothing that a machine with torch and the settings' libraries may lack."""
    lacking = "matplotlib", "jinja2", "tensorboard", "sklearn", "pytest"
    code = f"import sys; sys.modules.update(dict.fromkeys({lacking})); import benchmarks.__main__, benchmarks.gpu.part"
    subprocess.run([sys.executable, "-c", f"{code}, svdistill.sweep.worker"], cwd=ROOT, check=True)
