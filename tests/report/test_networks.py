"""Tests of the tables of networks."""

from io import StringIO

import pytest
from rich.console import Console

from svdistill.nets import survey, tap_shapes
from svdistill.report.networks import networks_table, short_taps, taps_table


def printed(renderable: object) -> list[str]:
    """Return the lines that a terminal of 80 columns shows."""
    console = Console(file=StringIO(), width=80)
    console.print(renderable)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def test_counted_and_printed_side_by_side() -> None:
    """A row has both figures, nothing is cut at 80 columns, and differences are explained below."""
    lines = printed(networks_table(survey()))
    row = next(line.split() for line in lines if line.startswith(" resnext-student "))
    assert row == ["resnext-student", "0.341", "0.34", "273.07", "247.6", "stem,", "stage1–3"]
    row = next(line.split() for line in lines if line.startswith(" vgg-bn-stride-student "))
    assert row == ["vgg-bn-stride-student", "3.753", "33.60", "block1–4"]
    text = " ".join(" ".join(lines).split())
    assert "as printed by Lee et al. 2018: vgg-teacher, vgg-student," in text
    assert "taps: and the last hidden features, which the output layer reads" in text
    assert "resnext-student: printed FLOPs that look like 274.6" in text
    assert "…" not in text


def test_nothing_printed_elsewhere() -> None:
    """At another width the printed columns are empty and no source is named."""
    text = "\n".join(printed(networks_table(survey(width=0.5))))
    assert "Lee et al." not in text


def test_taps() -> None:
    """Each tap has its map and the matrix that it becomes."""
    lines = printed(taps_table("resnext-teacher", tap_shapes("resnext-teacher")))
    assert lines[0] == "taps of resnext-teacher"
    assert " ".join(lines[-3].split()) == "stage3 256 × 8 × 8 64 × 256"
    assert " ".join(lines[-2].split()) == "classifier.flatten 256 1 × 256"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["block1", "block2", "block3"], "block1–3"),
        (["stem", "stage1", "stage2"], "stem, stage1–2"),
        (["stage1", "stage3", "stage4"], "stage1, stage3–4"),
        (["a1", "b2", "b"], "a1, b2, b"),
        (["layer2.0", "layer2.1"], "layer2.0–1"),
        ([], ""),
    ],
)
def test_ranges(names: list[str], expected: str) -> None:
    """Numbers that count up become a range, nothing else does."""
    assert short_taps(names) == expected
