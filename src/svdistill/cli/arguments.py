"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name (see 'svdistill recipes') or path of a .yaml file.")
]
StudentPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run's folder, one with a single run in it, or a student.safetensors.")
]
RunsFolder = Annotated[Path, typer.Option(metavar="DIR", help="Folder of all runs.")]
RUNS = Path("runs")
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Let code of your own, PACKAGE.MODULE:CALLABLE, run.")]


def settings(overrides: list[str] | None, allow_code: bool) -> list[str]:
    """Return the settings of a command line, leave to run code among them."""
    return [*(overrides or ()), *(["allow_code=true"] if allow_code else [])]
