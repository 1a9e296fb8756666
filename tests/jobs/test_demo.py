"""The demo's runs."""

from pathlib import Path

import pytest

from svdistill import jobs
from svdistill.errors import OptionError


def test_runs(tmp_path: Path) -> None:
    """One teacher, three kinds of students, one run a seed; a second call trains nothing."""
    done = jobs.demo(seeds=1, epochs=1, runs=tmp_path)
    assert list(done.students) == ["alone", "KD-SVD", "soft targets"]
    assert [run.summary["seed"] for runs in done.students.values() for run in runs] == [0, 0, 0]
    assert done.teacher.summary["train_images"] == 1000
    assert len([p for p in (tmp_path / "digits" / "teacher").iterdir() if p.is_dir()]) == 1
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")}
    assert len(before) == 4
    jobs.demo(seeds=1, epochs=1, runs=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")} == before


def test_no_seed(tmp_path: Path) -> None:
    """No seed at all is refused."""
    with pytest.raises(OptionError, match=r"^seeds: expected at least 1, got 0$"):
        jobs.demo(seeds=0, runs=tmp_path)
