"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name (see 'svdistill recipes') or path of a .yaml file.")
]
RunsFolder = Annotated[Path, typer.Option(metavar="DIR", help="Folder of all runs.")]
RUNS = Path("runs")
