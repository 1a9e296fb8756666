"""Tables on narrow terminals."""

import re

import pytest
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from svdistill.cli.fitting import Fitting

NUMBERS = ("231,290", "44.83 ± 8.32", "[+1.68, +53.52]")


def table() -> Table:
    """Return one as commands have them: a name, words, and numbers to the right."""
    made = Table(box=box.SIMPLE_HEAD)
    made.add_column("method", no_wrap=True)
    made.add_column("what it is", overflow="fold")
    for heading in ("parameters", "accuracy, %", "gain [95 %]"):
        made.add_column(heading, justify="right")
    made.add_row("svd-recommended", "some words on what it is", *NUMBERS[:2], f"+27.60 {NUMBERS[2]}")
    return made


def shown(width: int, *, header: bool = True) -> str:
    """Print it in a group, on a terminal of a width."""
    console = Console(width=width, highlight=False)
    console.push_render_hook(Fitting())
    made = table()
    made.show_header = header
    with console.capture() as capture:
        console.print(Group("a title", made))
    return capture.get()


@pytest.mark.parametrize("width", [28, 40, 60, 80, 100, 140])
@pytest.mark.parametrize("header", [True, False])
def test_nothing_is_cut(width: int, header: bool) -> None:
    """Whatever the width, every number stands in one line, no line is too long, and no word is lost."""
    text = shown(width, header=header)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for number in ("svd-recommended", "+27.60", "231,290", "44.83", "± 8.32", "[+1.68, +53.52]"):
        assert any(number in line for line in lines)
    words = re.sub(r"\W", "", text)
    assert len(re.findall("some|words|what|it|is", words)) >= 5


def test_as_cards_and_as_a_table() -> None:
    """Where there is room it is a table; with less, intervals, then deviations stand below; with far less, cards."""
    wide, middle, tight, narrow = shown(120), shown(88), shown(80), shown(40)
    for text in (wide, middle, tight):
        assert "───" in text
    assert [f"+27.60 {NUMBERS[2]}" in text for text in (wide, middle, tight)] == [True, False, False]
    assert [NUMBERS[1] in text for text in (wide, middle, tight)] == [True, True, False]
    assert "───" not in narrow
    assert narrow.splitlines()[:4] == [
        "a title",
        "svd-recommended",
        "  what it is  some words on what it is",
        "  parameters  231,290",
    ]


def test_a_path_is_broken_after_a_slash() -> None:
    """What room numbers leave goes to it, and no name in it is cut in two where a line holds it."""
    made = Table(box=box.SIMPLE_HEAD)
    made.add_column("run", overflow="fold")
    made.add_column("accuracy", justify="right")
    path = "regimes/digits-few/svd-recommended/0-e69416d677"
    made.add_row(Text(path), "93.07 %")
    for width, lines in ((70, [path]), (50, ["regimes/digits-few/svd-recommended/", "0-e69416d677"])):
        console = Console(width=width, highlight=False)
        console.push_render_hook(Fitting())
        with console.capture() as capture:
            console.print(made)
        assert [line.split()[0] for line in capture.get().splitlines()[3:] if line.strip()] == lines
