"""The page of runs that are still training."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.report.runs import make_comparison, make_run
from tests.report.test_page import read, sections

from svdistill.atomic import locked
from svdistill.records import RunRecord
from svdistill.report import collect, live, progress
from svdistill.report.live import LiveReport
from svdistill.runs import epochs_of

LINE = {"seconds": 2.0, "loss": 1.5}


class Clock:
    """A clock that is put forward."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def under_way(runs: Path, *, done: int = 3, seed: int = 0, method: str = "svd") -> Path:
    """Write a run of six epochs that is in the middle."""
    lines = [{"epoch": epoch, "accuracy": 0.1 * epoch, **LINE} for epoch in range(1, done + 1)]
    return make_run(runs, method, seed, finished=False, metrics=lines)


def text_of(report: LiveReport, clock: Clock | None = None) -> str:
    """Return what the page says, in one line; a script that is not the page's own would be refused by browsers."""
    if clock is not None:
        clock.now += 100
    html = report.current().html.decode()
    assert html.count("<script>") == 1
    assert f"<script>{live.SCRIPT}</script>" in html
    return " ".join("".join(read(html.replace(live.SCRIPT, "").replace("<script></script>", "")).text).split())


def test_empty_then_training_then_finished(tmp_path: Path) -> None:
    """It says what it waits for, shows a run's progress while another process trains it, and then its report."""
    clock = Clock()
    runs = tmp_path / "runs"
    report = LiveReport([runs], clock=clock)
    assert "runs is not there yet" in text_of(report)
    runs.mkdir()
    assert "has no run in it yet" in text_of(report, clock)
    path = under_way(runs)
    with locked(path):
        text = text_of(report, clock)
    assert "0 of 1 run have finished, 1 training now. Those that train now end in about" in text
    row = "bags/svd seed 0", "training", "3/6", "30.00 %", "1.500"
    assert "".join(row).replace(" ", "") in "".join(text.split())
    assert "Accuracy so far" in text
    assert "1 interrupted" in text_of(report, clock)
    shutil.rmtree(path)
    make_run(runs, "svd", diagnostics=False)
    text_of(report, clock)
    assert report._artist is not None
    report._artist.join()
    assert "KD-SVD reaches" in text_of(report, clock)
    assert sections(report.current().html.decode())[:2] == ["live", "results"]


def test_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three epochs of two seconds are left, less what the one under way has taken; never less than nothing."""
    path = under_way(tmp_path)
    run = progress.read(path)
    assert (run.epochs, run.done, run.pace, run.now().left) == (6, 3, 2.0, None)
    monkeypatch.setattr(progress, "is_locked", lambda path: True)
    for since, left in ((0.5, 5.5), (90.0, 4.0)):
        monkeypatch.setattr(progress.time, "time", lambda since=since: run.noted + since)
        assert run.now().left == pytest.approx(left)
    assert progress.read(under_way(tmp_path, done=6, seed=1)).now().left == 0
    recipes: list[dict[str, Any]] = [{"train": {"epochs": 10, "first_stage": first}} for first in (0, 0.25, 3, None)]
    assert [epochs_of(recipe) for recipe in (*recipes, {}, {"train": 3})] == [10, 13, 13, 10, None, None]
    counted = [{"train": recipe["train"] | {"first_stage_counts": True}} for recipe in recipes]
    assert [epochs_of(recipe) for recipe in counted] == [10] * 4


def test_reads_only_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked again at once, it looks at nothing; asked later, it reads the run that has changed and no other."""
    make_comparison(tmp_path, seeds=1, methods=("alone",))
    paths = [under_way(tmp_path, seed=seed) for seed in (0, 1)]
    seen: list[Path] = []
    for module in (progress, collect):
        monkeypatch.setattr(module, "read", lambda path, read=module.read: (seen.append(path), read(path))[1])
    clock = Clock()
    report = LiveReport([tmp_path], clock=clock)
    first = report.current()
    assert len(seen) == 4
    seen.clear()
    RunRecord(paths[1]).metrics.append({"epoch": 4, "accuracy": 0.9, **LINE})
    clock.now += 1
    assert report.current() is first
    clock.now += 100
    assert "90.00" in text_of(report)
    assert seen == [paths[1]]
    clock.now += 100
    assert report.current().name != first.name


def test_broken_runs_are_named(tmp_path: Path) -> None:
    """Whatever is broken, the page is there, names it, and reports on the others."""
    make_run(tmp_path, "alone", diagnostics=False)
    (make_run(tmp_path, "svd", diagnostics=False) / "metrics.jsonl").write_text("{}\n")
    (under_way(tmp_path, method="svd-k2") / "recipe.yaml").write_text("[")
    (under_way(tmp_path, method="soft-target") / "metrics.jsonl").write_bytes(b"\xff\n")
    (tmp_path / "comparison.json").write_text("{")
    text = text_of(LiveReport([tmp_path, tmp_path / "comparison.json"]))
    assert "2 of 4 runs have finished, 2 damaged" in text
    for name in ("bags/svd/0-", "bags/svd-k2/0-", "bags/soft-target/0-", "comparison.json is not a comparison"):
        assert name in text
    assert "Student alone reaches" in text


def test_a_comparison_names_what_is_to_come(tmp_path: Path) -> None:
    """Runs without a folder yet are counted, and those that failed are told."""
    path = make_run(tmp_path, "alone", diagnostics=False)
    runs = [{"folder": str(path), "state": "finished", "error": None}]
    runs += [{"folder": f"bags/svd/{n}", "state": state, "error": why} for n, state, why in ((0, "new", None),)]
    runs += [{"folder": "bags/svd/1", "state": "failed", "error": "the disk is full"}]
    (tmp_path / "comparison.json").write_text(json.dumps({"runs": runs}))
    text = text_of(LiveReport([tmp_path / "comparison.json"]))
    assert "1 of 3 runs has finished, 2 yet to begin" in text
    assert "failed (the disk is full)" in text
