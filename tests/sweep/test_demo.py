"""The demo's runs."""

from pathlib import Path

import pytest

from svdistill import sweep
from svdistill.errors import OptionError


def test_runs(tmp_path: Path) -> None:
    """Two teachers and five kinds of students in one queue; a second call trains nothing."""
    done = sweep.demo(seeds=1, epochs=2, runs=tmp_path)
    assert [member.error for member in done.members] == [None] * 7
    assert [(member.method, member.axes["teacher"]) for member in done.members] == [
        ("teacher", "same digits"),
        ("teacher", "other digits"),
        ("alone", "same digits"),
        ("soft-target", "same digits"),
        ("svd-recommended", "same digits"),
        ("alone", "other digits"),
        ("svd-recommended", "other digits"),
    ]
    summaries = [member.run.summary for member in done.members]
    assert [summary["train_images"] for summary in summaries] == [1000, 500, 50, 50, 50, 25, 25]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")}
    assert len(before) == 7
    again = sweep.demo(seeds=1, epochs=2, runs=tmp_path)
    assert all(member.found for member in again.members)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")} == before


def test_the_teachers_know_what_the_parts_say(tmp_path: Path) -> None:
    """The second teacher and its students share no digit."""
    planned = sweep.plan_demo(seeds=2, runs=tmp_path)
    classes = [
        (member.method, member.recipe.data.classes)
        for member in planned.members
        if member.axes["teacher"] == "other digits"
    ]
    assert all(len(of or ()) == 5 for _, of in classes)
    (teachers,) = {tuple(of or ()) for method, of in classes if method == "teacher"}
    (students,) = {tuple(of or ()) for method, of in classes if method != "teacher"}
    assert not set(teachers) & set(students)
    assert list(tmp_path.iterdir()) == []


def test_no_seed(tmp_path: Path) -> None:
    """No seed at all is refused."""
    with pytest.raises(OptionError, match=r"^seeds: expected at least 1, got 0$"):
        sweep.demo(seeds=0, runs=tmp_path)
