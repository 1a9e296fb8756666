"""Tests of the tables that are made from figures: the published page cannot drift from them."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.__main__ import NAMES
from benchmarks.gpu.session import PARTS

from benchmarks import table

TIMES = {"median_ms": 12.345, "q1_ms": 9.87, "q3_ms": 1234.5, "runs": 5}
RATES = {"median_per_s": 512.34, "q1_per_s": 3.14159, "q3_per_s": 99.94, "runs": 5}
MACHINE = {
    "cpu": "A chip",
    "instructions": ["avx2", "amx_bf16"],
    "cores": 2,
    "threads": 1,
    "gpu": None,
    "torch": "2.9",
    "python": "3.11",
    "allocator": "default of glibc",
    "load_before": 0.25,
    "date": "2026-01-02",
}


def test_the_published_page_is_what_the_figures_give() -> None:
    """Nobody has changed a table by hand, and none is older than its figures."""
    places = []
    for path in table.PAGES:
        page = path.read_text()
        assert table.filled(page, table.FIGURES) == page
        places += table.sections(page)
    for name in (*(name for name in NAMES if name != "gpu"), *(f"gpu-{part}" for part in PARTS)):
        assert places.count(name) == 1


def test_a_page_is_filled_between_its_marks(tmp_path: Path) -> None:
    """Prose stays, old sections go, a section without figures says so, and doing it twice changes nothing."""
    (tmp_path / "one.json").write_text(json.dumps({"machine": MACHINE, "wait": TIMES}))
    page = "before\n<!-- one -->\nold\n<!-- /one -->\nbetween\n<!-- two -->\n<!-- /two -->\nafter\n"
    made = table.filled(page, tmp_path)
    assert "old" not in made
    assert [line for line in made.splitlines() if line in ("before", "between", "after")] == [
        "before",
        "between",
        "after",
    ]
    assert "| wait | 12.3 | 9.87–1,234 |" in made
    assert f"<!-- two -->\n\n{table.NOT_MEASURED}\n\n<!-- /two -->" in made
    assert table.filled(made, tmp_path) == made


def test_a_page_that_has_no_place(tmp_path: Path) -> None:
    """Figures that would be left out, and a section without an end, are named."""
    (tmp_path / "one.json").write_text(json.dumps({"machine": MACHINE}))
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(SystemExit, match="no page has a place for one"):
        table.update([tmp_path / "page.md"], figures=tmp_path)
    with pytest.raises(SystemExit, match=r"no <!-- /one -->"):
        table.filled("<!-- one -->\n", tmp_path)


def test_fresh_figures_are_taken_over(tmp_path: Path) -> None:
    """Fresh figures replace the published ones of the same name; the others stay."""
    fresh, kept = tmp_path / "fresh", tmp_path / "kept"
    fresh.mkdir()
    kept.mkdir()
    with pytest.raises(SystemExit, match="no JSON files"):
        table.adopt(fresh, figures=kept)
    (kept / "a.json").write_text("{}")
    (kept / "b.json").write_text("stays")
    (fresh / "a.json").write_text("{ }")
    assert table.adopt(fresh, figures=kept) == [kept / "a.json"]
    assert ((kept / "a.json").read_text(), (kept / "b.json").read_text()) == ("{ }", "stays")
    page = tmp_path / "page.md"
    page.write_text("<!-- c -->\n<!-- /c -->")
    (kept / "a.json").unlink()
    (kept / "b.json").unlink()
    table.update([page], figures=kept)
    assert table.NOT_MEASURED in page.read_text()


@pytest.mark.parametrize(
    ("value", "limits", "expected"),
    [
        (1.08, {"at_most": 1.1}, "1.08 (target ≤ 1.1: met)"),
        (1.1, {"at_most": 1.1}, "1.10 (target ≤ 1.1: met)"),
        (1.104, {"at_most": 1.1}, "1.104 (target ≤ 1.1: **not met**)"),
        (1.2, {"at_most": 1.1}, "1.20 (target ≤ 1.1: **not met**)"),
        (24.998, {"at_least": 25}, "25 (target ≥ 25: **not met**)"),
        (25.0, {"at_least": 25}, "25.00 (target ≥ 25: met)"),
        (3.0, {}, "3.00"),
    ],
)
def test_targets(value: float, limits: dict[str, float], expected: str) -> None:
    """A miss is marked, and no rounding turns it into a hit."""
    assert table.judged(value, **limits) == expected


def test_figures_by_their_shape() -> None:
    """Times, rates, single figures, targets, lists and parts each find their form."""
    figures = {
        "batch": 64,
        "note": "A remark.",
        "a_step": TIMES,
        "decoded": RATES,
        "share": 1.25,
        "target_share": 1.2,
        "times_faster": 2.5,
        "target_times_faster": 2,
        "bound": {"value": 7.0, "at_least": 8.0},
        "layout, times faster": 0.9,
        "cases": [{"size": 8, "time": TIMES, "ok": True}, {"size": 9, "more": None}],
        "part": {"inner": TIMES},
    }
    made = table.by_shape(figures)
    for line in (
        "A remark.",
        "| a step | 12.3 | 9.87–1,234 | 5,184 |",
        "| decoded | 512 | 3.14–99.9 |",
        "- batch: 64",
        "- share: 1.25 (target ≤ 1.2: **not met**)",
        "- times faster: 2.50 (target ≥ 2: met)",
        "- bound: 7.00 (target ≥ 8: **not met**)",
        "- layout, times faster: 0.90 **slower**",
        "### cases",
        "| size | time | ok | more |",
        "| 8 | 12.3 (9.87–1,234) | True | – |",
        "### part",
        "| inner | 12.3 | 9.87–1,234 | 5,184 |",
    ):
        assert line in made.splitlines()
    assert "target_" not in made.replace("target ", "")


def test_the_machine() -> None:
    """Below each table stands where it was measured, and that there was no GPU."""
    line = table.machine_line(MACHINE)
    assert line.startswith(
        "Measured on: A chip (avx2, amx_bf16); 2 cores; 1 thread; **no GPU was measured**; torch 2.9;"
    )
    assert "load before the start 0.25; 2026-01-02." in line
    other: dict[str, Any] = {**MACHINE, "gpu": "A GPU", "load_before": None, "allocator": {"MALLOC_X": "1"}}
    assert "; A GPU; " in table.machine_line(other)
    assert "allocator MALLOC_X=1; load before the start not taken" in table.machine_line(other)


def test_the_loss() -> None:
    """A column for each case; what does not fit into memory, and what was scaled, is said."""
    result = {
        "taps": "VGG",
        "rank": 1,
        "batch": 128,
        "ours": TIMES,
        "floor": TIMES,
        "floors": 7.0,
        "target_floors": 6,
        "peak_over_taps": 1.2,
        "target_peak_over_taps": 2,
        "straightforward": TIMES,
        "straightforward_batch": 4,
        "times_faster": 30.0,
        "target_times_faster": 25,
        "straightforward_peak_over_taps": 30.9,
        "ours_samples_with_broken_gradient": 0,
    }
    large = {**result, "rank": 4, "straightforward": None, "times_faster": None, "straightforward_batch": None}
    made = table.loss({"batch": {"VGG": 128, "WRN": 32}, "results": [result, large]})
    assert "Batch VGG 128, WRN 32." in made
    assert "| | VGG, k = 1 | VGG, k = 4 |" in made
    assert "12.3 (9.87–1,234), scaled from 4 of 128 images |" in made
    assert made.count("does not fit into memory") == 2
    assert "| 30 (target ≥ 25: met) | does not fit into memory |" in made
    assert "| 7.0 (target ≤ 6: **not met**) | 7.0 (target ≤ 6: **not met**) |" in made


def test_the_pipeline() -> None:
    """A table for each part, in which what is slower is marked."""
    row = {
        "pixels": "32 × 32",
        "device": "cpu",
        "svdistill, images/s": RATES,
        "times faster": 0.5,
        "times faster than Pillow": 2.0,
    }
    figures: dict[str, Any] = {key: [row] for key in ("decoded", "augmented", "from_memory")}
    figures["augmented"] = [row, {**row, "pixels": "224 × 224"}]
    steps = {"32 × 32": 51.234, "224 × 224": 512.34, "64 × 64": 1.0}
    figures["consumed"] = [
        {"pixels": size, "device": "cpu", "images/s": {**RATES, "median_per_s": rate}} for size, rate in steps.items()
    ]
    made = table.pipeline({"batch": 128, **figures})
    assert made.count("| 32 × 32 | cpu | 512 (3.14–99.9) | 0.50 **slower** | 2.00 |") == 3
    # Decoding and augmenting each take as long as the step, so that half as many arrive.
    for line in (
        "| 32 × 32 | cpu | 51.2 (3.14–99.9) | 10.0 |",
        "| 224 × 224 | cpu | 512 (3.14–99.9) | 0.50 **too few** |",
        "| 64 × 64 | cpu | 1.00 (3.14–99.9) | – |",
    ):
        assert line in made.splitlines()
    assert made.count("### ") == 4


def test_scaling() -> None:
    """A column for each width."""
    result = {
        "one process": RATES,
        "two_processes_over_one_thread": 1.5,
        "two_processes_over_two_threads": 0.9,
        "efficiency": 0.75,
        "reduced_mb": 12.5,
        "all_reduce": TIMES,
        "all_reduce_share_of_step": 0.0123,
        "updates_differ_by": 1.2e-6,
    }
    made = table.scaling({"batch": 64, "results": [{"width": 0.5, **result}, {"width": 1.0, **result}]})
    for line in (
        "| | VGG pair, width 0.5 | VGG pair, width 1 |",
        "| one process, images/s | 512 (3.14–99.9) | 512 (3.14–99.9) |",
        "| two processes / one process with two threads | 0.90 **slower** | 0.90 **slower** |",
        "| efficiency: the last, by the number of processes | 75% | 75% |",
        "| its share of the step | 1.2% | 1.2% |",
        "| what two processes learned differs from what one did by | 1e-06 | 1e-06 |",
    ):
        assert line in made.splitlines()
