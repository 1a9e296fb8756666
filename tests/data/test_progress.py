"""Tests of the progress bar, on a terminal and elsewhere."""

import io
import sys

import pytest

from svdistill.data.progress import progress_bar


class Terminal(io.StringIO):
    """Text that is shown on a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.mark.parametrize(("unit", "total", "amount"), [("bytes", 4_000_000, "1.0/4.0 MB"), ("images", 400, "100/400")])
def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, unit: str, total: int, amount: str) -> None:
    """Its title, how much is done and of how much; the cursor comes back at the end and the line is cleared."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar("reading [a]", total=total, unit=unit) as show:
        show(total // 4)
    written = sys.stderr.getvalue()
    assert "reading [a]" in written
    assert amount in written
    assert written.endswith("\x1b[2K")


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_is_shown(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """Where there is no terminal, or no bar is wanted."""
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    with progress_bar("reading", total=10, unit="images", wanted=not terminal) as show:
        show(3)
    assert sys.stderr.getvalue() == ""
