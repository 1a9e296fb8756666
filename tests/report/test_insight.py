"""The arrays of a run, of which only those that fit each other are drawn."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.report.runs import make_diagnostics

from svdistill.report import insight


def written(folder: Path, **changed: Any) -> Path:
    """Write the arrays of a run, some of them others than they should be."""
    np.savez(folder / "insight.npz", **{**make_diagnostics(), **changed})
    return folder / "insight.npz"


def test_sound(tmp_path: Path) -> None:
    """All arrays of a run come back; a run without any has none, and nothing is wrong with it."""
    found, wrong = insight.read(written(tmp_path))
    assert (found.keys(), wrong) == (make_diagnostics().keys(), "")
    assert insight.read(tmp_path / "none") == ({}, "")


@pytest.mark.parametrize(
    ("name", "value", "lost"),
    [
        ("student_spectrum", 1.0, {"student_spectrum"}),
        ("student_spectrum", np.full((3, 2), np.inf), {"student_spectrum"}),
        ("teacher_spectrum", np.zeros((2, 8)), {"teacher_spectrum"}),
        ("classes", ["a"], {"labels", "confusion"}),
        ("classes", [1, 2, 3, 4], {"classes", "labels", "confusion"}),
        ("confusion", -np.ones((4, 4), dtype=int), {"confusion"}),
        ("student_vectors_0", 0.0, {"student_vectors_0", "student_vectors_1", "student_vectors_2"}),
        ("teacher_vectors_1", np.full((2, 8), np.nan), {f"teacher_vectors_{tap}" for tap in range(3)}),
        ("labels", [99, -5], {"labels"}),
        ("alignment", "x", {"alignment"}),
        ("images", np.zeros((2, 1, 0, 8), dtype=np.uint8), {"images", "labels"}),
    ],
)
def test_of_another_form(name: str, value: Any, lost: set[str], tmp_path: Path) -> None:
    """What is of another form is named and left out, with what cannot be read without it; the rest stays."""
    whole = make_diagnostics()
    found, wrong = insight.read(written(tmp_path, **{name: np.array(value)}))
    assert whole.keys() - found.keys() == lost
    assert all(one.removesuffix(f"_{one[-1]}") in wrong for one in lost)


def test_taps_of_another_number(tmp_path: Path) -> None:
    """Names of taps that do not fit the rest take all that is told by taps with them."""
    found, wrong = insight.read(written(tmp_path, student_taps=np.array(["a", "b", "c", "d"])))
    assert found.keys() == {"student_taps", "teacher_taps", "classes", "confusion", "images", "labels"}
    assert wrong.startswith("has student_spectrum, teacher_spectrum, alignment, student_vectors, teacher_vectors of")


def test_that_unpacks_to_more(tmp_path: Path) -> None:
    """A few bytes that would fill memory, or state that they would, are left alone."""
    path = written(tmp_path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as member:
        for _ in range(257):
            member.write(bytes(1 << 20))
    assert insight.read(path) == ({}, "cannot be read (holds more than 268,435,456 bytes)")
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("alignment.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + bytes(64))
    found, wrong = insight.read(path)
    assert found == {}
    assert wrong.startswith("cannot be read (")
