"""A comparison summed up: values worked by hand, and what is written."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from svdistill.report import comparison as report
from svdistill.report.statistics import Interval

EPS = 2.3e-16
T2 = 4.302652729749464  # Student's t, 97.5 %, two degrees of freedom


def run(
    method: str, seed: int, accuracy: float | None, *, error: str | None = None, cost: float = 1000.0, **axes: Any
) -> dict[str, Any]:
    """A run that has finished, or has failed, or is to be made."""
    summary = None
    if accuracy is not None:
        summary = {
            "accuracy": accuracy,
            "best_accuracy": accuracy + 0.01,
            "parameters": cost,
            "flops": 2 * cost,
            "seconds": 10.0 + seed,
        }
    state = "finished" if summary else "failed" if error else "new"
    keys = {key.replace("_", "."): value for key, value in axes.items()}
    return {
        "method": method,
        "recipe": f"digits/{method}",
        "axes": keys,
        "seed": seed,
        "folder": f"runs/digits/{method}/{seed}-abc",
        "state": state,
        "error": error,
        "trace": None,
        "summary": summary,
    }


def record(*runs: dict[str, Any], **axes: list[Any]) -> dict[str, Any]:
    """A comparison of these runs."""
    return {
        "recipe": "digits/svd",
        "overrides": ["train.epochs=3"],
        "methods": list(dict.fromkeys(run["method"] for run in runs if run["method"] != "teacher")),
        "seeds": sorted({run["seed"] for run in runs}),
        "axes": {key.replace("_", "."): values for key, values in axes.items()},
        "runs": list(runs),
    }


THREE = record(
    run("teacher", 0, 0.95, cost=5e6),
    *(run("alone", seed, accuracy) for seed, accuracy in enumerate((0.80, 0.82, 0.81))),
    *(run("svd", seed, accuracy) for seed, accuracy in enumerate((0.81, 0.84, 0.84))),
)


def shown(content: dict[str, Any], width: int = 80) -> str:
    """The table as it is printed."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(report.table(content))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_rows_worked_by_hand() -> None:
    """Accuracies 80, 82, 81 and 81, 84, 84: gains 1, 2, 3 points, mean 2, deviation 1."""
    teacher, alone, svd = report.rows(THREE)
    assert (teacher.method, teacher.accuracy, teacher.gain) == ("teacher", (0.95, None), None)
    assert alone.accuracy == pytest.approx((0.81, 0.01), rel=100 * EPS)
    assert alone.gain is None
    assert svd.accuracy == pytest.approx((0.83, math.sqrt(3) / 100), rel=100 * EPS)
    assert svd.best == pytest.approx((0.84, math.sqrt(3) / 100), rel=100 * EPS)
    half = 0.01 * T2 / math.sqrt(3)
    assert svd.gain == pytest.approx((0.02, 0.02 - half, 0.02 + half), rel=1000 * EPS)
    assert svd.best_gain == pytest.approx(svd.gain, rel=1000 * EPS)
    assert (svd.parameters, svd.flops, svd.seconds) == (1000, 2000, 11)
    assert svd.seeds == (0, 1, 2)


def test_gain_counts_common_seeds_only() -> None:
    """A seed that one side lacks is left out; with one left there is no interval, with none no gain."""
    content = record(
        run("alone", 0, 0.8),
        run("alone", 1, None, error="lost"),
        run("svd", 0, 0.85),
        run("svd", 1, 0.9),
        run("fsp", 0, None),
        run("fsp", 1, 0.9),
    )
    alone, svd, fsp = report.rows(content)
    assert alone.failed == {1: "lost"}
    assert svd.gain == Interval(pytest.approx(0.05, rel=1e3 * EPS), None, None)
    assert fsp.gain is None
    assert (fsp.planned, fsp.seeds, fsp.failed) == (2, (1,), {})


def test_gain_is_over_the_same_settings() -> None:
    """Each size has its own student alone; a rank, which that has not, is compared with it all the same."""
    content = record(
        run("alone", 0, 0.5, data_size=10),
        run("svd", 0, 0.6, data_size=10, loss_rank=1),
        run("svd", 0, 0.7, data_size=10, loss_rank=2),
        run("alone", 0, 0.8, data_size=20),
        run("svd", 0, 0.81, data_size=20, loss_rank=1),
        data_size=[10, 20],
        loss_rank=[1, 2],
    )
    gains = [row.gain.mean if row.gain else None for row in report.rows(content)]
    assert gains == [None, pytest.approx(0.1), pytest.approx(0.2), None, pytest.approx(0.01)]


def test_without_the_student_alone_there_is_no_gain() -> None:
    """Nothing is made up where the baseline was not asked for."""
    (row,) = report.rows(record(run("svd", 0, 0.9)))
    assert row.gain is None


def test_table_fits_a_terminal() -> None:
    """Seven methods with their intervals in 80 columns, in one line each, the common cost above."""
    text = shown(THREE)
    assert "digits/svd: 2 methods, 3 seeds, test accuracy" in text
    assert "student: 1.0 k parameters, 0.002 MFLOPs" in text
    (line,) = (line for line in text.splitlines() if line.strip().startswith("svd"))
    assert "83.00 ± 1.73" in line
    assert "+2.00 [-0.48, +4.48]" in line
    assert max(map(len, text.splitlines())) <= 80


def long(method: str, epochs: int, **axes: Any) -> dict[str, Any]:
    """A run of so many epochs."""
    made = run(method, 0, 0.8, **axes)
    return {**made, "summary": {**made["summary"], "epochs": epochs}}


def test_methods_of_another_length() -> None:
    """Told below the table, since the longer training may be what helps; not where all are alike."""
    runs = [long("teacher", 15), long("alone", 20), long("dkd", 20), long("fitnet", 25), long("svd", 30)]
    note = (
        "Not trained equally long: svd for 30 epochs; fitnet for 25 epochs; the others for 20 epochs. With "
        "train.first_stage_counts=true all have as many as train.epochs says."
    )
    text = shown(record(*runs), width=200)
    assert note in text
    assert note in report.markdown(record(*runs))
    assert [row["epochs"] for row in csv.DictReader(io.StringIO(report.comma_separated(record(*runs))))][:2] == [
        "15",
        "20",
    ]
    alike = shown(record(long("teacher", 15), long("alone", 20), long("svd", 20)))
    assert "epochs" not in alike
    assert "Not trained" not in report.markdown(record(long("alone", 20), long("svd", 20)))
    varied = [long(method, epochs, train_epochs=epochs) for epochs in (20, 40) for method in ("alone", "svd")]
    assert report.uneven(report.rows(record(*varied, train_epochs=[20, 40]))) == ""
    assert "svd for 30 epochs; alone for 20 epochs" in report.uneven(
        report.rows(record(long("alone", 20), long("svd", 30)))
    )


def test_table_tells_costs_that_differ_and_failures() -> None:
    """Unequal students get columns; what failed has a line, equal reasons one for all seeds."""
    error = "its process was killed [SIGKILL]"
    content = record(
        run("alone", 0, 0.5, cost=1000, model_width=0.5),
        run("alone", 0, 0.6, cost=4e6, model_width=1.0),
        run("svd", 0, None, error=error, model_width=0.5),
        run("svd", 1, None, error=error, model_width=0.5),
        model_width=[0.5, 1.0],
    )
    text = shown(content, width=120)
    assert "4.00 M" in text
    assert "failed  svd model.width=0.5 seeds 0, 1: its process was killed [SIGKILL]" in text
    assert "0 of 2" in text


def test_markdown() -> None:
    """A table of as many cells a row as it has headings, notes, and what failed; bars inside cells are escaped."""
    content = record(run("alone", 0, 0.5, data_name="a|b"), run("svd", 0, None, error="x | y"), data_name=["a|b"])
    text = report.markdown(content)
    table = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {11}
    assert "paired 95 % interval" in text
    assert "`train.epochs=3`" in text
    assert "- svd seed 0: x \\| y" in text
    assert "## Failed" not in report.markdown(THREE)
    assert "data.validation" not in text
    assert report.FLATTERED in text
    validated = run("alone", 0, 0.8)
    validated["summary"]["validation_accuracy"] = 0.7
    text = report.markdown(record(validated, run("teacher", 0, 0.9)))
    assert "With data.validation a run has one accuracy" in text
    assert report.FLATTERED not in text


def test_comma_separated() -> None:
    """Numbers come back as they were; an axis that means nothing to a row is empty."""
    content = record(run("alone", 0, 0.5), run("svd", 0, 0.625, loss_rank=2), loss_rank=[2])
    alone, svd = csv.DictReader(io.StringIO(report.comma_separated(content)))
    assert (alone["loss.rank"], svd["loss.rank"]) == ("", "2")
    assert (float(svd["accuracy"]), float(svd["gain"]), svd["gain_low"]) == (0.625, 0.125, "")
    assert (svd["method"], svd["seeds"], svd["failed"]) == ("svd", "0", "")


def test_files_are_whole_and_name_the_runs(tmp_path: Path) -> None:
    """Three files, nothing beside them; JSON finds the runs from where it lies."""
    folder = tmp_path / "out" / "deep"
    content = record({**run("svd", 0, 0.9), "folder": str(tmp_path / "runs" / "svd" / "0-abc")})
    report.write(content, folder)
    report.write(content, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["comparison.csv", "comparison.json", "comparison.md"]
    read = json.loads((folder / "comparison.json").read_text())
    assert (folder / read["runs"][0]["folder"]).resolve() == tmp_path / "runs" / "svd" / "0-abc"
    assert read["rows"][0]["accuracy"] == {"mean": 0.9, "deviation": None}
    assert read["overrides"] == ["train.epochs=3"]


def test_plan_table() -> None:
    """What would be trained, and what is there."""
    console = Console(file=io.StringIO(), width=80, color_system=None)
    content = record(run("alone", 0, 0.5), {**run("svd", 0, None, loss_rank=2), "state": "begun"}, loss_rank=[2])
    console.print(report.plan_table(content))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2 runs, 1 of them found finished" in text
    assert "svd rank=2" in text
    assert "to be resumed" in text
