"""Run folders as a training leaves them, made up: no network is trained."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from svdistill.records import RunRecord

CLASSES = ("T-shirt/top", "trouser", "ankle boot", "bag")
WIDTHS = (6, 8, 70)
LOSSES: dict[str, Any] = {
    "alone": None,
    "svd": {"name": "svd", "rank": 1, "beta": 8.0},
    "svd-k2": {"name": "svd", "rank": 2, "beta": 8.0},
    "soft-target": {"name": "soft-target", "temperature": 4.0},
    "svd+soft-target": [{"name": "svd", "rank": 1}, {"name": "soft-target", "temperature": 4.0}],
}
GAINS = {"alone": 0.0, "svd": 0.02, "svd-k2": 0.03, "soft-target": -0.01, "svd+soft-target": 0.01}


def make_run(
    runs: Path,
    method: str = "alone",
    seed: int = 0,
    *,
    size: int = 1000,
    epochs: int = 6,
    finished: bool = True,
    diagnostics: bool = True,
    metrics: Sequence[Mapping[str, Any]] | None = None,
    summary: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """Write a student's run, or with method ``teacher`` a teacher's, and return its folder."""
    teacher = method == "teacher"
    recipe = {
        "name": f"bags/{method}",
        "description": "made up",
        "seed": seed,
        "data": {"name": "bags", "root": None, "train_size": None if teacher else size},
        "model": {"name": "big" if teacher else "small", "width": 1.0},
        "teacher": None if teacher or method == "alone" else {"recipe": "bags/teacher", "overrides": {}},
        "loss": None if teacher else LOSSES[method],
        "optimizer": {"name": "sgd", "lr": 0.1},
        "train": {"epochs": epochs, "first_stage": 0, "device": "cpu"},
    }
    recipe |= settings
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:6]
    record = RunRecord.create(runs / "bags" / method / f"{seed}-{digest}", recipe)
    helped = recipe["teacher"] is not None
    last = 0.9 if teacher else 0.7 + GAINS[method] + 0.01 * seed + 0.00002 * size
    for line in metrics or [_epoch(e, epochs, last, helped=helped, method=method) for e in range(1, epochs + 1)]:
        record.metrics.append(line)
    record.student.write_bytes(b"weights of the teacher" if teacher else b"weights")
    noted = hashlib.sha256(b"weights of the teacher").hexdigest() if helped else None
    (record.path / "data.json").write_text(json.dumps({"labels": "…", "teacher": noted}))
    if diagnostics:
        np.savez_compressed(record.diagnostics, **make_diagnostics(seed, helped=helped))
    if finished:
        costs = {"parameters": 678_106 if teacher else 231_290, "flops": 30_000_000 if teacher else 6_000_000}
        times = {"train_images": 60_000 if teacher else size, "epochs": epochs, "seconds": 963.0 + seed}
        whole = {"recipe": recipe["name"], "seed": seed, "accuracy": last, "best_accuracy": last + 0.001}
        record.finish({**whole, "best_epoch": epochs, **costs, **times, **(summary or {})})
    return record.path


def finish_again(run: Path) -> None:
    """Let the files of a run be those that it ended with."""
    record = RunRecord(run)
    summary = record.summary()
    record.reopen()
    record.finish(summary)


def _epoch(epoch: int, epochs: int, last: float, *, helped: bool, method: str) -> dict[str, Any]:
    line = {"epoch": epoch, "seconds": 1.0, "loss": 2.0 / epoch, "train_accuracy": 0.5}
    if helped:
        line |= {"transfer": 30.0 / epoch, "ratio": 0.4 * epoch, "clipped": 0.3, "dropped": 0}
    if method.startswith("svd"):
        line |= {"alignment": 0.8, "energy_student": 0.7, "energy_teacher": 0.6, "set_aside": 0}
    return {**line, "accuracy": last * (1 - 0.5 / epoch) if epoch < epochs else last}


def make_diagnostics(seed: int = 0, *, helped: bool = True, images: int = 2) -> dict[str, Any]:
    """Return what ``insight.npz`` holds, of three taps."""
    random = np.random.default_rng(seed)
    spectrum = np.full((3, 8), np.nan, dtype=np.float32)
    for tap, count in enumerate((6, 8, 4)):
        spectrum[tap, :count] = np.exp(-np.arange(count))
        spectrum[tap, :count] /= spectrum[tap, :count].sum()

    def vectors() -> list[Any]:
        drawn = [random.standard_normal((images, width)) for width in WIDTHS]
        return [(v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32) for v in drawn]

    found: dict[str, Any] = {
        "classes": np.array(CLASSES),
        "confusion": (np.eye(4) * 20 + random.integers(0, 5, (4, 4))).astype(np.uint32),
        "images": np.random.default_rng(0).integers(0, 256, (images, 1, 10, 8)).astype(np.uint8),
        "labels": np.arange(images),
        "student_taps": np.array(["block1", "block2", "block3"]),
        "student_spectrum": spectrum,
        **{f"student_vectors_{tap}": v for tap, v in enumerate(vectors())},
    }
    if helped:
        found |= {f"teacher_vectors_{tap}": v for tap, v in enumerate(vectors())}
        names = np.array(["stem", "stage1", "stage2"])
        found |= {"teacher_taps": names, "teacher_spectrum": spectrum**1.2, "alignment": np.array([0.9, 0.8, 0.5])}
    return found


def make_comparison(runs: Path, *, seeds: int = 3, methods: Sequence[str] = tuple(LOSSES), size: int = 1000) -> None:
    """Write a teacher's run and runs of all methods and seeds."""
    make_run(runs, "teacher")
    for method in methods:
        for seed in range(seeds):
            make_run(runs, method, seed, size=size)
