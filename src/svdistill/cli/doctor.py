"""``svdistill doctor``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from svdistill.cli.arguments import RUNS, AllowCode, RecipeName, settings
from svdistill.cli.console import notes, results


def doctor(
    recipe: RecipeName,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings that replace the recipe's, as for 'train'."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="Train the student by this method instead, as for 'train'.")
    ] = None,
    runs: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of all runs, where a trained teacher is found.")
    ] = RUNS,
    allow_code: AllowCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Look at a recipe before a long run: what stands out, and what to change.

    Takes about a minute and writes nothing to the runs. Compares the images
    by content, measures the teacher, looks at both networks' maps, takes
    some steps of each stage on weights that are thrown away, and says what
    the run would take.
    """
    from svdistill.jobs.doctor import examine
    from svdistill.records import finite
    from svdistill.report.doctor import doctor_tables

    with notes().status("reading recipe and images") as status:
        chosen = settings(overrides, allow_code)
        found = examine(recipe, overrides=chosen, method=method, runs=runs, phase=status.update).to_dict()
    if as_json:
        print(json.dumps(finite(found), indent=2, allow_nan=False))
        return
    results().print(doctor_tables(found))
