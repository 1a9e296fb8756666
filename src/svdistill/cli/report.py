"""``svdistill report``."""

from pathlib import Path
from typing import Annotated

import typer

from svdistill.cli.console import note, say


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, folders of runs, or a comparison.json."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page.")] = Path("report.html"),
) -> None:
    """Make one HTML page about finished runs.

    Tables, training curves, gains, the health of the transfer task, spectra,
    distilled features and confusion matrices, in one file that works offline.
    Runs that have not finished are left out.
    """
    from svdistill.report.extra import check_can_draw

    check_can_draw("the report")
    from svdistill.report import page

    written = page.write(runs, output)
    for path, reason in written.left_out:
        note(f"left out: {path} {reason}")
    say(f"report on {written.runs} runs  {written.path}")
