"""The site has every page, in an order, and reads as the same files read on GitHub."""

import re
from collections import Counter
from pathlib import Path

import pytest
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
