"""Opening a page in the user's browser, where there is one."""

import os
import sys
import webbrowser
from typing import Annotated

import typer

from svdistill.cli.console import note, say

OpenIt = Annotated[bool, typer.Option("--open", help="Open it in the browser.")]


def open_or_say(address: str, shown: str) -> None:
    """Open a page in the browser; where there is none, say where the page is.

    Args:
        address: of the page.
        shown: what a user would give to a browser.
    """
    if not _has_screen() or not _open(address):
        say(f"there is no browser here; open {shown} in one")


def _has_screen() -> bool:
    # Without a screen the system's next choice would be a browser in the terminal, which is in use.
    screens = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform in ("win32", "darwin") or any(os.environ.get(name) for name in screens)


def _open(address: str) -> bool:
    try:
        return webbrowser.open(address)
    except webbrowser.Error as error:
        note(str(error))
        return False
