"""The site has every page, in an order, and reads as the same files read on GitHub."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from manual.links import PAGES
from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent.parent
SOURCES = [*sorted((ROOT / "docs").rglob("*.md")), *(ROOT / name for name in PAGES)]
_COUNTED = re.compile(r"<(li|pre|tr|td|h\d|ul|ol|em|strong|a)\b")


@pytest.mark.parametrize("page", SOURCES, ids=lambda page: page.name)
def test_reads_the_same_on_github(page):
    """The site's Markdown and CommonMark make the same lists, tables and code of a page."""
    markdown = pytest.importorskip("markdown")
    text = re.sub(r"<!--.*?-->", "", page.read_text("utf-8"), flags=re.DOTALL)
    there = MarkdownIt("commonmark").enable("table").render(text)
    here = markdown.markdown(text, extensions=["attr_list", "tables", "toc", "pymdownx.superfences"])
    assert Counter(_COUNTED.findall(here)) == Counter(_COUNTED.findall(there))


def test_loads_nothing_from_elsewhere():
    """No font, no script, and no address of pages: the site works where there is no network."""
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert re.search(r"^  font: false$", text, re.MULTILINE)
    assert re.search(r"^use_directory_urls: false$", text, re.MULTILINE)
    assert "://" not in text


def test_anchors():
    """What follows # in a link is a heading of the page that it leads to, as GitHub and the site name it."""
    anchors = {}
    for page in SOURCES:
        headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
        bare = (re.sub(r"\]\([^)]*\)", "", heading).lower() for heading in headings)
        anchors[page] = {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in bare}
    for page in SOURCES:
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)#([^)]+)\)", page.read_text("utf-8")):
            found = (page.parent / target).resolve() if target else page
            made = found.name == "commands.md"  # its sections are made of the program
            assert made or anchor in anchors[found], f"{page.name}: no {anchor} in {found.name}"


def test_home():
    """The home page has the README's first words and its table, figure by figure."""
    home, readme = ((ROOT / name).read_text("utf-8") for name in ("docs/index.md", "README.md"))
    table = re.compile(r"^\| what one has .*?\n\n", re.DOTALL | re.MULTILINE)
    assert table.search(home)[0] == table.search(readme)[0]
    assert readme.partition("\n\n|")[0] in home


def test_citing():
    """The page says what CITATION.cff says."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    paper = cited["references"][0]
    page = (ROOT / "docs/citing.md").read_text("utf-8")
    names = " and ".join(f"{one['family-names']}, {one['given-names']}" for one in paper["authors"])
    wanted = [cited["version"], cited["license"], paper["title"], paper["collection-title"], paper["doi"], names]
    assert [text for text in [*wanted, str(paper["year"])] if f"{{{text}}}" not in page] == []
