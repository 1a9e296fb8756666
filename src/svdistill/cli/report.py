"""``svdistill report``."""

from pathlib import Path
from typing import Annotated

import typer

from svdistill.cli.arguments import AsJson
from svdistill.cli.browser import OpenIt, open_or_say
from svdistill.cli.console import note, say, say_json


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, folders of runs, or a comparison.json."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page.")] = Path("report.html"),
    open_it: OpenIt = False,
    as_json: AsJson = False,
) -> None:
    """Make one HTML page about finished runs.

    What won and whether that may be chance, why, what to try next; tables,
    training curves, gains, the health of the transfer task, spectra,
    distilled features and confusion matrices, in one file that works offline.
    Runs that have not finished are left out.
    """
    from svdistill.report.extra import check_can_draw

    check_can_draw("the report")
    from svdistill.report import facts, page

    written = page.write(runs, output)
    if as_json:
        say_json({"path": written.path, **facts.facts(written.context)})
    else:
        for path, reason in written.left_out:
            note(f"left out: {path} {reason}")
        say(f"report on {written.runs} runs  {written.path}")
    if open_it:
        open_or_say(written.path.resolve().as_uri(), str(written.path))
