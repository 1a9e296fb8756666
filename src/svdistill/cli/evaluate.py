"""``svdistill evaluate``."""

from pathlib import Path
from typing import Annotated

import typer

from svdistill.cli.arguments import AllowCode, AsJson, StudentPath
from svdistill.cli.console import results, say_json


def evaluate(
    path: StudentPath,
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="Data set to measure on; by default the one it was trained on.")
    ] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder with the data set's files.")] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Measure a trained network on the test images, class by class."""
    from svdistill import jobs
    from svdistill.report import tables

    measured = jobs.evaluate(path, name=data, root=root, device=device, allow_code=allow_code)
    if as_json:
        say_json(measured)
        return
    results().print(tables.accuracy_table(measured))
