"""Every command that a page shows is one that the program would take."""

import re
import shutil
from pathlib import Path

import pytest
import typer
import yaml
from manual.links import PAGES
from tests.manual.shell import check, lines

from svdistill import recipes
from svdistill.errors import SvdistillError

UsageError = typer.BadParameter.__mro__[1]  # what the parser of options raises
ROOT = Path(__file__).parent.parent.parent
_EARLIER = ("CHANGELOG.md",)  # speaks of what was
SOURCES = [*sorted((ROOT / "docs").rglob("*.md")), *(ROOT / name for name in PAGES if name not in _EARLIER)]


@pytest.mark.parametrize("page", SOURCES, ids=lambda page: page.name)
def test_commands(page):
    """Commands, options, recipes, methods, settings, networks, targets of the Makefile and modules exist."""
    for line in lines(page):
        check(line)


@pytest.mark.parametrize(
    "line",
    [
        "svdistill trian digits/svd",
        "svdistill train digits/svdd",
        "svdistill train digits/svd loss.rnk=2",
        "svdistill train digits/svd loss.rank=0",
        "svdistill train mine.yaml --metod fsp",
        "svdistill train mine.yaml --method fps",
        "OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m svdistill train digits/svd train.epoch=1",
        "svdistill compare digits/svd loss.rank=[1,0]",
        "svdistill compare digits/svd --methods alone,fps",
        "svdistill cache digits/svd view=8",
        "svdistill recipes digit",
        "svdistill data show digits data.augment.flap=true",
        "svdistill data fetch cifar",
        "svdistill taps resnet21",
        "svdistill demo --seed 1",
        "make tests",
        "python -m benchmarks.paintings",
    ],
)
def test_a_wrong_line_is_noticed(line):
    """What does not exist is an error, so that the test above can fail."""
    with pytest.raises((AssertionError, SvdistillError, UsageError)):
        check(line)


def blocks(page):
    """Return the YAML blocks of a page."""
    return re.findall(r"^```yaml\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in SOURCES if blocks(page)], ids=lambda page: page.name)
def test_recipes(page, tmp_path):
    """What a page shows of a recipe is valid: a whole one by itself, a part of one within another."""
    for text in blocks(page):
        settings = yaml.safe_load(text)
        if "extends" in settings:
            shutil.copytree(ROOT / "examples/own_model", tmp_path, dirs_exist_ok=True)
            (tmp_path / "shown.yaml").write_text(text, "utf-8")
            recipes.load(tmp_path / "shown.yaml")
        else:
            if "teacher" in settings:  # one that takes the place of the recipe's own
                settings["teacher"].setdefault("recipe", None)
            recipes.load("fashion-mnist/svd", settings)
