"""Tables from records."""

import io
import statistics
from typing import Any

import pytest
from rich.console import Console, RenderableType

from svdistill.report import tables

SUMMARY: dict[str, Any] = {
    "recipe": "digits/svd",
    "seed": 1,
    "accuracy": 0.875,
    "best_accuracy": 0.9,
    "best_epoch": 7,
    "train_images": 1000,
    "epochs": 12,
    "parameters": 231290,
    "flops": 2110464,
    "seconds": 125.2,
}
HEALTHY = {
    "ratio": 0.5,
    "clipped": 0.25,
    "alignment": 0.9,
    "energy_student": 0.75,
    "energy_teacher": 0.8,
    "set_aside": 2,
    "dropped": 0,
}


def text(table: RenderableType, width: int = 80) -> str:
    """Return what a terminal of this width shows."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    shown: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in shown.splitlines())
    return " ".join(shown.split())


def test_mean_deviation() -> None:
    """Mean and deviation with n − 1; one value has no deviation."""
    values = [1.0, 2.0, 4.0]
    assert tables.mean_deviation(values) == (pytest.approx(7 / 3), pytest.approx(statistics.stdev(values)))
    assert tables.mean_deviation([3.0]) == (3.0, None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (0.0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125.2, "2 min 05 s"),
        (4200.0, "1 h 10 min"),
    ],
)
def test_seconds(value: float | None, expected: str) -> None:
    """Durations read as people say them, without a 60th second."""
    assert tables.seconds(value) == expected


def test_percent() -> None:
    """A fraction is shown in percent, nothing as a dash."""
    assert [tables.percent(0.12345), tables.percent(1.0, digits=0)] == ["12.35 %", "100 %"]
    assert [tables.percent(None), tables.percent(float("nan"))] == ["–", "–"]


def test_health() -> None:
    """Medians over the epochs, totals of counts, None where there is no transfer task or an epoch has no figure."""
    second = {**HEALTHY, "ratio": 1.5, "alignment": None}
    summed = tables.health([HEALTHY, second, {**HEALTHY, "ratio": 0.7}])
    assert (summed["ratio"], summed["alignment"], summed["set_aside"]) == (0.7, 0.9, 6)
    assert set(tables.health([{"epoch": 1, "accuracy": 0.1}]).values()) == {None}


def test_run_table() -> None:
    """A run's end tells accuracy, cost, time and health; a run without a teacher has no health."""
    shown = text(tables.run_table(SUMMARY, [HEALTHY]))
    for part in ("digits/svd, seed 1", "87.50 %", "90.00 % (epoch 7)", "231,290", "2.11", "2 min 05 s", "0.5 (median"):
        assert part in shown
    assert "student 75 %, teacher 80 %" in shown
    assert "without averaging" not in shown
    assert "without averaging, last epoch 75.00 %" in text(tables.run_table({**SUMMARY, "raw_accuracy": 0.75}, []))
    validated = text(tables.run_table({**SUMMARY, "validation_accuracy": 0.75}, []))
    assert "validation accuracy, best epoch 75.00 % (epoch 7) test accuracy of that epoch 87.50 %" in validated
    assert "last epoch" not in validated
    alone = text(tables.run_table(SUMMARY, [{"epoch": 1}]))
    assert "gradient" not in alone
    assert "energy" not in alone


def test_health_of_soft_targets() -> None:
    """A loss without alignment shows its gradient ratio alone."""
    shown = text(tables.run_table(SUMMARY, [{"ratio": 2.0, "clipped": 0.0, "dropped": 3}]))
    assert "2 (median" in shown
    assert "alignment" not in shown
    assert "gradients dropped, not finite 3" in shown


def test_comparison_table() -> None:
    """Methods side by side fit a terminal of 80 columns, with mean ± deviation over the seeds."""
    runs = [{**SUMMARY, "accuracy": value} for value in (0.80, 0.82, 0.84)]
    shown = text(tables.comparison_table([("teacher", [SUMMARY]), ("student, soft targets", runs)]))
    assert "82.00 ± 2.00" in shown
    assert "teacher 231,290 2.11 87.50 125.2" in shown


def test_accuracy_table() -> None:
    """One row a class, the whole set last, also for a class without images."""
    classes = [{"name": "cat", "images": 4, "right": 3}, {"name": "dog", "images": 0, "right": 0}]
    evaluation = {"model": "vgg-student", "data": "pets", "images": 4, "accuracy": 0.75, "classes": classes}
    shown = text(tables.accuracy_table(evaluation))
    assert "cat 4 3 75.00 %" in shown
    assert "dog 0 0 –" in shown
    assert "all 4 3 75.00 %" in shown


def test_names_do_nothing_to_a_terminal() -> None:
    """Markup, escape sequences and bytes that are not text in the name of a class are shown as they are."""
    names = ["[bold]x[/bold]", "b\x1b[31mred", "caf\udce9", "[link=http://x]y"]
    classes = [{"name": name, "images": 1, "right": 1} for name in names]
    evaluation = {"model": "[red]m", "data": "d\x07", "images": 4, "accuracy": 1.0, "classes": classes}
    buffer = io.StringIO()
    Console(file=buffer, width=100).print(tables.accuracy_table(evaluation))
    shown = buffer.getvalue()
    for name in ("[bold]x[/bold]", "b\\x1b[31mred", "caf\\xe9", "[link=http://x]y", "[red]m on", r"of d\x07"):
        assert name in shown
    assert not {"\x1b", "\x07", "\udce9"} & set(shown)
