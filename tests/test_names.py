"""Tests of names: how they are compared and shown."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from svdistill.errors import DataError, SvdistillWarning, one_line
from svdistill.names import brief_keys, printable, same


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain [red]$x_1$ & <b>", "plain [red]$x_1$ & <b>"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("caf\udce9", r"caf\xe9"),
        ("\ud800", r"\ud800"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("cafe\u0301", "cafe\u0301"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("a\u2028b\x85c\u200b", r"a\u2028b\x85c\u200b"),
        ("\ufffe\U0001ffff", r"\ufffe\U0001ffff"),
        ("猫 кот \U0001f468\u200d\U0001f469", "猫 кот \U0001f468\u200d\U0001f469"),
    ],
)
def test_printable(name: str, shown: str) -> None:
    """What a terminal, a page or a file would obey is written out; all else stays, and the result is text anywhere."""
    assert printable(name) == shown
    assert printable(shown) == shown
    shown.encode()


def test_the_form_that_is_compared() -> None:
    """é of one character and of two are the same; a byte that is not UTF-8 is neither."""
    assert same("cafe\u0301") == same("caf\xe9") == "caf\xe9" != same("caf\udce9") == "caf\udce9"


def test_messages() -> None:
    """The text of an error or warning is one harmless line whatever the names in it hold."""
    name = "a\x1b[2J\nb\udce9"
    assert str(DataError(f"no folder {name}")) == r"no folder a\x1b[2J b\xe9"
    assert str(SvdistillWarning(name)) == one_line(name) == r"a\x1b[2J b\xe9"
    console = Console(file=io.StringIO(), force_terminal=False, width=80)
    console.print(Text(printable("[bold]x[/bold]")))
    assert console.file.getvalue() == "[bold]x[/bold]\n"  # type: ignore[attr-defined]


def test_brief_keys() -> None:
    """As short as tells them apart; one that is the end of another is whole."""
    assert brief_keys(["loss.svd.weight", "loss.dkd.weight", "loss.rank", "seed", "data.seed"]) == {
        "loss.svd.weight": "svd.weight",
        "loss.dkd.weight": "dkd.weight",
        "loss.rank": "rank",
        "seed": "seed",
        "data.seed": "data.seed",
    }
