"""The kill harness finds what differs; how often trainings survive kills is counted by ``make kill-test``."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.kill.harness import Scenario, Unkilled, differences, run_killed, run_unkilled
from tests.report.runs import make_run

SHORT = (
    *("digits/student", "model.width=0.1", "data.image_size=16", "data.train_size=10", "train.batch_size=5"),
    *("train.epochs=20", "train.device=cpu", "train.checkpoint_minutes=1e-6"),
)


def flip(file: Path) -> None:
    """Change one byte."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def change_arrays(file: Path) -> None:
    """Change one number of the diagnostics."""
    arrays = dict(np.load(file))
    arrays["student_spectrum"][0, 0] += 1e-3
    np.savez_compressed(file, **arrays)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("student.safetensors", flip, "student.safetensors differs"),
        ("insight.npz", change_arrays, "insight.npz differs"),
        ("insight.npz", Path.unlink, "insight.npz is missing"),
        (".last.pt.7.tmp", Path.touch, ".last.pt.7.tmp should not be there"),
    ],
)
def test_differences(tmp_path: Path, name: str, change, said: str) -> None:
    """Equal runs have none; a byte, a number, a file too few or too many is one."""
    run = make_run(tmp_path / "expected").relative_to(tmp_path / "expected")
    shutil.copytree(tmp_path / "expected", tmp_path / "found")
    assert differences(tmp_path / "expected", tmp_path / "found") == []
    change(tmp_path / "found" / run / name)
    assert differences(tmp_path / "expected", tmp_path / "found") == [f"{(run / said).as_posix()}"]


def test_metrics_and_summaries_differ_in_more_than_times(tmp_path: Path) -> None:
    """What a clock says does not count; a loss and an accuracy do."""
    lines = [{"epoch": 1, "seconds": 1.0, "images_per_second": 9.0, "loss": 0.5, "accuracy": 0.5}]
    make_run(tmp_path / "expected", metrics=lines)
    make_run(
        tmp_path / "later", metrics=[{**lines[0], "seconds": 2.0, "images_per_second": 8.0}], summary={"seconds": 7}
    )
    assert differences(tmp_path / "expected", tmp_path / "later") == []
    make_run(tmp_path / "other", metrics=[{**lines[0], "loss": 0.6}], summary={"accuracy": 0.6})
    found = differences(tmp_path / "expected", tmp_path / "other")
    assert [line.rpartition("/")[2] for line in found] == ["metrics.jsonl differs", "summary.json differs"]


def test_a_run_is_killed_resumed_and_compared(tmp_path: Path) -> None:
    """At the moment that was drawn, and then until it has ended."""
    scenario = Scenario("short", SHORT, has_teacher=False)
    unkilled = run_unkilled(scenario, tmp_path / "unkilled", start=None)
    at_once = Unkilled(scenario, unkilled.runs, 0.3, None)
    killed = run_killed(at_once, tmp_path / "killed", most=1, draw=random.Random(0))
    assert len(killed.moments) == 1
    assert killed.differences == []


def test_a_scenario_that_fails_by_itself(tmp_path: Path) -> None:
    """It says nothing about kills."""
    with pytest.raises(RuntimeError, match="no recipe 'digits/none'"):
        run_unkilled(Scenario("none", ("digits/none",)), tmp_path / "runs", start=None)
