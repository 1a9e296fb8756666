"""What the demo says about its numbers, whatever they are."""

import io
from typing import Any

import pytest
from rich.console import Console

from svdistill.report import demo as report
from svdistill.report.statistics import Interval


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (Interval(0.0634, 0.02, 0.10), "6.3 more are right with KD-SVD (a gain: the interval excludes zero)"),
        (Interval(-0.04, -0.05, -0.03), "4.0 fewer are right with KD-SVD (a loss: the interval excludes zero)"),
        (
            Interval(0.04, -0.01, 0.09),
            "4.0 more are right with KD-SVD (cannot be told apart from zero: the interval includes it)",
        ),
        (
            Interval(-0.04, -0.08, 0.0),
            "4.0 fewer are right with KD-SVD (cannot be told apart from zero: the interval includes it)",
        ),
        (Interval(0.04, None, None), "4.0 more are right with KD-SVD"),
        (None, "no result with KD-SVD"),
    ],
)
def test_verdict(gain: Interval | None, said: str) -> None:
    """A gain, a loss, neither, and too little to tell."""
    assert report.verdict("KD-SVD", gain) == said


def runs(method: str, teacher: str, *accuracies: float | None, labels: int = 50, flops: float = 2e6) -> list[Any]:
    """The runs of one row, one a seed; those without an accuracy have failed."""
    return [
        {
            "method": method,
            "recipe": f"digits/{method}",
            "axes": {"teacher": teacher},
            "seed": seed,
            "state": "failed" if accuracy is None else "finished",
            "error": "no memory" if accuracy is None else None,
            "summary": None
            if accuracy is None
            else {
                "accuracy": accuracy,
                "best_accuracy": accuracy,
                "train_images": labels,
                "parameters": 1000,
                "flops": flops,
                "seconds": 3.0,
            },
        }
        for seed, accuracy in enumerate(accuracies)
    ]


def record(svd: tuple[float | None, ...], others: tuple[float | None, ...]) -> dict[str, Any]:
    """A demo in which soft targets help by 10 points, and KD-SVD as is said."""
    return {
        "recipe": "demo",
        "overrides": [],
        "methods": ["alone", "soft-target", "svd-recommended"],
        "seeds": [0, 1, 2],
        "axes": {"teacher": ["same digits", "other digits"]},
        "runs": [
            *runs("teacher", "same digits", 0.97, labels=1000, flops=8e6),
            *runs("teacher", "other digits", 0.98, labels=500, flops=8e6),
            *runs("alone", "same digits", 0.80, 0.82, 0.84),
            *runs("soft-target", "same digits", 0.90, 0.92, 0.94),
            *runs("svd-recommended", "same digits", *svd),
            *runs("alone", "other digits", 0.90, 0.90, 0.90, labels=25),
            *runs("svd-recommended", "other digits", *others, labels=25),
        ],
    }


def test_sentence_follows_the_numbers() -> None:
    """The same runs with other accuracies make another sentence: gains of 5, 6, 7 points, then losses."""
    start = (
        "Of 100 test scans, compared with the student alone: from a teacher of the same digits, 10.0 more are right "
        "with soft targets (a gain: the interval excludes zero) and "
    )
    assert report.sentence(record((0.85, 0.88, 0.91), (0.87, 0.90, 0.93))) == start + (
        "6.0 more are right with KD-SVD (a gain: the interval excludes zero); from a teacher of the other digits, "
        "0.0 more are right with KD-SVD (cannot be told apart from zero: the interval includes it)."
    )
    assert report.sentence(record((0.74, 0.77, 0.80), (None, None, None))) == start + (
        "5.0 fewer are right with KD-SVD (a loss: the interval excludes zero); from a teacher of the other digits, "
        "no result with KD-SVD."
    )


def test_table_fits_into_80_columns() -> None:
    """Every number is there in full, soft targets are impossible with the other teacher, and failures are told."""
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(report.table(record((0.85, 0.88, 0.91), (0.95, None, 0.97))))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "…" not in shown
    assert "the teacher itself 1,000 97.00" in lines
    assert "student alone 50 82.00 ± 2.00" in lines
    # mean 6 and deviation 1 of the differences, and t = 4.3027 for three of them: 1 * 4.3027 / sqrt(3) = 2.48
    assert "student with KD-SVD 50 88.00 ± 3.00 +6.00 [+3.52, +8.48]" in lines
    assert "student with soft targets impossible –" in lines
    assert "failed svd-recommended teacher=other digits seed 1: no memory" in lines
    assert "An image costs the student 25 % of what it costs its teacher." in lines
