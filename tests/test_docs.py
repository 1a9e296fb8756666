"""What the documentation shows can be done as it is written there."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from svdistill import data

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
QUICK = {
    "demo": ["--epochs", "1", "--seeds", "1"],
    "train": ["train.epochs=1", "teacher.overrides.train.epochs=1"],
    "doctor": ["train.epochs=1", "data.train_size=50"],
    "compare": ["train.epochs=1", "teacher.overrides.train.epochs=1", "--seeds", "1", "--methods", "alone,svd"],
}


def blocks(language: str) -> list[tuple[str, str]]:
    """Return the code blocks of a language as (page, text)."""
    found = []
    for page in PAGES:
        for text in re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            found.append((page.name, text))
    return found


def draw_scans(folder: Path) -> None:
    """Write a few digits as pictures."""
    folder.mkdir()
    for number, pixels in enumerate(data.load("digits").test.images[:3, 0]):
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")


def commands() -> list[str]:
    """Return every `svdistill` command of the README that can be run here in a minute or less."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [re.sub(r"\s+#.*", "", line) for line in lines if line.startswith("svdistill ")]


@pytest.mark.parametrize(("page", "text"), blocks("python"))
def test_python(page, text, tmp_path, monkeypatch):
    """Each Python example runs; one with an ellipsis needs something that is not here, and is only compiled."""
    monkeypatch.chdir(tmp_path)
    code = compile(text, page, "exec")
    if "…" not in text:
        exec(code, {"__name__": "example"})


def test_readme_commands(tmp_path, monkeypatch):
    """The README's commands run one after the other, shortened to one epoch."""
    from svdistill.cli.app import app

    monkeypatch.chdir(tmp_path)
    lines = commands()
    draw_scans(tmp_path / "scans")
    assert lines
    for line in lines:
        words = shlex.split(line)[1:]
        if words[:1] == ["train"] and "fashion-mnist" in words[1]:
            continue  # minutes long, and needs the data set; the recipes have their own tests
        extra = QUICK.get(words[0], [])
        if words[0] == "train" and not words[1].endswith(("/svd-recommended", "/soft-target")):
            extra = extra[:1]
        if words[0] in ("evaluate", "predict", "export"):
            words[1] = str(next(Path("runs").glob("digits/svd-recommended/[0-9]*")))
        if words[0] == "export" and find_spec("onnxruntime") is None:
            continue  # an extra, which has tests of its own
        result = CliRunner().invoke(app, [*words, *extra])
        assert result.exit_code == 0, (line, result.output)


def test_links():
    """Links between pages, and pictures, lead somewhere."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), (page.name, target)


def test_reliability():
    """Every test that is named there exists."""
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:\w+/)*test_\w+\.py)(?:::(\w+))?`", page)
    assert len(named) > 50
    for file, function in named:
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert not function or f"def {function}(" in text, (file, function)
