"""``svdistill watch``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from svdistill.cli.arguments import RUNS
from svdistill.cli.browser import OpenIt, open_or_say
from svdistill.cli.console import note, say

_NICE = 10  # the training beside it comes first


def watch(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN...", help="Folders of runs, run folders, or a comparison.json; by default runs."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65_535, metavar="N", help="Where to listen; by default 8321 or the next free one."),
    ] = None,
    open_it: OpenIt = False,
) -> None:
    """Show runs in the browser while they train.

    The page of 'report', with the runs that are under way on top: progress,
    time left, curves so far. It renews itself, is for this machine alone, and
    only reads. Ctrl-C ends it.
    """
    from svdistill.report.extra import check_can_draw

    check_can_draw("the page")
    from svdistill.report.server import open_server

    paths = runs or [RUNS]
    with open_server(paths, port) as server:
        if os.name == "posix":
            os.nice(_NICE)
        say(f"{', '.join(map(str, paths))} at {server.address}")
        note("Ctrl-C ends it")
        if open_it:
            open_or_say(server.address, server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            note("ended")
