"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer


def _recipes(incomplete: str) -> list[str]:
    """Complete the name of a recipe, for the shell."""
    from svdistill.recipes import names

    return [name for name in names() if name.startswith(incomplete)]


RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="Name (see 'svdistill recipes') or path of a .yaml file.", autocompletion=_recipes
    ),
]
StudentPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run's folder, one with a single run in it, or a student.safetensors.")
]
RunsFolder = Annotated[Path, typer.Option(metavar="DIR", help="Folder of all runs.")]
RUNS = Path("runs")
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Let code of your own, PACKAGE.MODULE:CALLABLE, run.")]


def settings(overrides: list[str] | None, allow_code: bool) -> list[str]:
    """Return the settings of a command line, leave to run code among them."""
    return [*(overrides or ()), *(["allow_code=true"] if allow_code else [])]
