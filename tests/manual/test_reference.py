"""The Python reference has every name that is promised."""

import re
from pathlib import Path

import svdistill
from manual import reference

PAGES = Path(__file__).parent.parent.parent / "docs/reference"


def test_every_public_name_is_there():
    """A function or class has its docstring there, and a subpackage a section or a place in the table of topics."""
    text = "\n".join(reference.fill(page.read_text("utf-8")) for page in sorted(PAGES.glob("*.md")))
    shown = set(re.findall(r"^::: (svdistill\.[\w.]+)$", text, re.MULTILINE))
    told = shown | set(re.findall(r"`(svdistill\.\w+)`", text))
    assert {f"svdistill.{name}" for name in svdistill.__all__} <= told
    assert {name for name in told if name.count(".") == 1} <= {f"svdistill.{name}" for name in svdistill.__all__}


def test_names_of_a_subpackage():
    """A marker becomes the names of a subpackage, without those that svdistill itself has."""
    text = reference.fill("# L\n\n<!-- names of svdistill.linalg -->\n")
    wanted = ("assign", "rbf_distance", "truncated_svd")
    assert text == "\n\n".join(["# L", *(f"::: svdistill.linalg.{name}" for name in wanted)]) + "\n"
    assert "svdistill.losses.SVDLoss" not in reference.names("svdistill.losses")
    assert "svdistill.losses.FSPLoss" in reference.names("svdistill.losses")
