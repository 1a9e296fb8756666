"""The notebooks run, and show what they did."""

import re
from importlib.util import find_spec

import pytest

from manual import notebooks

FILES = sorted(notebooks.FOLDER.glob("*.ipynb"))


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request):
    """Each notebook."""
    return request.param


def code(notebook):
    """Return its cells of code."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def kinds(notebook):
    """Return for each cell what it shows, texts that differ each time aside."""
    return [[kind for kind, _ in notebooks.shown(cell["outputs"])] for cell in code(notebook)]


def test_what_is_kept_is_of_this_code(file):
    """Whoever changes a cell runs the notebook again: `python -m manual.notebooks`."""
    notebook = notebooks.read(file)
    assert notebooks.is_current(notebook)
    assert [cell["execution_count"] for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))


def test_runs(file, tmp_path):
    """From the first cell to the last, in an empty folder, with networks that learn next to nothing."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    kept = notebooks.read(file)
    assert len(notebooks.PARAMETER.findall(notebooks.source(code(kept)[0]))) == 1
    made = notebooks.run(kept, tmp_path, epochs=1)
    assert kinds(made) == kinds(kept)


def test_page(file):
    """The page has the words, the code, and what they show; its links lead to pages and its pictures are there."""
    notebook = notebooks.read(file)
    text, pictures = notebooks.page(notebook, file.stem)
    for cell in notebook["cells"]:
        assert notebooks.source(cell) in text
    assert sum(kind == "picture" for shown in kinds(notebook) for kind in shown) == len(pictures) > 0
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target in pictures or (notebooks.FOLDER / target).exists(), target


@pytest.mark.parametrize(("name", "library"), [("digits", "matplotlib"), ("own", "svdistill")])
def test_a_library_that_is_not_installed_is_one_line(name, library, monkeypatch):
    """The first cell says what to install."""
    first = notebooks.source(code(notebooks.read(notebooks.FOLDER / f"{name}.ipynb"))[0])
    monkeypatch.setattr("importlib.util.find_spec", lambda wanted: None if wanted == library else find_spec(wanted))
    with pytest.raises(SystemExit, match=r"^this notebook .*: pip install '?svdistill.*again from here$"):
        exec(first, {})
