"""The notebooks in `docs/notebooks/`: `python -m manual.notebooks` runs them and keeps what they show.

The site has them as pages, made of what is kept.
"""

import argparse
import base64
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
PARAMETER = re.compile(r"^(EPOCHS = )\d+", re.MULTILINE)
_WRITES_YAML = re.compile(r"%%writefile \S+\.yaml\n")
_MADE_OF = "made_of"  # where a notebook keeps the digest of the sources that its outputs are of

Notebook = dict[str, Any]


def read(file: Path) -> Notebook:
    """Read a notebook."""
    notebook: Notebook = json.loads(file.read_text(encoding="utf-8"))
    return notebook


def source(cell: Mapping[str, Any]) -> str:
    """Return the text of a cell."""
    return "".join(cell["source"])


def digest(notebook: Notebook) -> str:
    """Return a digest of the code of a notebook, without its outputs."""
    code = [source(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def is_current(notebook: Notebook) -> bool:
    """Whether a notebook shows what the code in it gave."""
    return bool(notebook["metadata"].get(_MADE_OF) == digest(notebook))


def run(notebook: Notebook, folder: Path, *, epochs: int | None = None) -> Notebook:
    """Run the cells of a notebook, in order, in a kernel of its own.

    Args:
        notebook: as `read` gives it; it stays as it is.
        folder: where it runs and leaves what it writes.
        epochs: replaces the number of epochs that stands in its first cell; None = as it stands there.

    Returns:
        The notebook with what its cells show.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised an error.
    """
    import nbformat
    from nbclient import NotebookClient

    made = nbformat.reads(json.dumps(notebook), as_version=4)
    if epochs is not None:
        for cell in made.cells:
            cell.source = PARAMETER.sub(rf"\g<1>{epochs}", source(cell))
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(made, timeout=None, kernel_name="python3", resources=where).execute()
    result: Notebook = json.loads(nbformat.writes(made))
    return result


def keep(file: Path, folder: Path) -> None:
    """Run a notebook and keep in its file what it shows, without what differs each time or names the machine."""
    made = run(read(file), folder)
    for cell in made["cells"]:
        cell["metadata"] = {}
    made["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        _MADE_OF: digest(made),
    }
    file.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def page(notebook: Notebook, name: str) -> tuple[str, dict[str, bytes]]:
    """Turn a notebook with its outputs into a page.

    Args:
        notebook: as `read` gives it.
        name: of its file, without the ending.

    Returns:
        Markdown, and its pictures by the names of the files that it refers to.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append(source(cell))
        else:
            language = "yaml" if _WRITES_YAML.match(source(cell)) else "python"
            parts.append(f"```{language}\n{source(cell)}\n```")
            for kind, content in shown(cell["outputs"]):
                if kind == "text":
                    parts.append(f"```text\n{content}\n```")
                else:
                    file = f"{name}-{len(pictures) + 1}.png"
                    pictures[file] = base64.b64decode(content)
                    parts.append(f"![What the code above draws]({file})")
    told = f'*This page is a notebook that was run: <a href="{name}.ipynb" download>{name}.ipynb</a>.*'
    return "\n\n".join([parts[0], told, *parts[1:]]) + "\n", pictures


def shown(outputs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield what a cell shows: text, or a picture in base64."""
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            yield "picture", "".join(data["image/png"])
        elif words := "".join(output.get("text", data.get("text/plain", ""))).strip("\n"):
            yield "text", words


def main() -> None:
    """Run the notebooks that the command line names, or all."""
    names = sorted(file.stem for file in FOLDER.glob("*.ipynb"))
    parser = argparse.ArgumentParser(prog="python -m manual.notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(names)}; all without one")
    parser.add_argument("--folder", type=Path, help="where they run; runs that are there are found again")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in names]:
        parser.error(f"unknown notebook {unknown[0]!r}; known: {', '.join(names)}")
    for name in given.names or names:
        with tempfile.TemporaryDirectory() as empty:
            folder = given.folder / name if given.folder else Path(empty)
            folder.mkdir(parents=True, exist_ok=True)
            keep(FOLDER / f"{name}.ipynb", folder)
        print(FOLDER / f"{name}.ipynb")


if __name__ == "__main__":
    main()
