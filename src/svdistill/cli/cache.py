"""``svdistill cache``."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from svdistill.cli.arguments import RUNS, AllowCode, AsJson, RunsFolder, settings
from svdistill.cli.console import results, say, say_json


def cache(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name or path of a recipe with a teacher.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings that replace the recipe's; views=8 is teacher.views=8."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="Store what this method needs, instead of the recipe's own.")
    ] = None,
    runs: RunsFolder = RUNS,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run the teacher again, and replace what is stored.")] = False,
    allow_code: AllowCode = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Store what the losses need of a teacher, for training without it.

    The teacher is run once over a fixed number of views, random variants, of
    every training image. Training by the same recipe and settings then reads
    what it needs of the teacher from disk. An interrupted call resumes where
    it stopped.
    """
    from svdistill import jobs
    from svdistill.cli.progress import Reporter
    from svdistill.jobs.cache import long_form
    from svdistill.report import tables

    overrides = settings(overrides, allow_code)
    callbacks = jobs.NoCallbacks() if quiet else Reporter()
    stored = jobs.cache(recipe, overrides=overrides, method=method, runs=runs, fresh=fresh, callbacks=callbacks)
    console = results()
    if as_json:
        say_json(asdict(stored))
        return
    if quiet:
        say(stored.path)
        return
    console.print(
        tables.cache_table(
            images=stored.images, views=stored.views, size=stored.bytes, taken=stored.taken, duration=stored.seconds
        )
    )
    say(f"stored in  {stored.path}")
    options = [*(["--method", method] if method else []), *(["--runs", str(runs)] if runs != Path("runs") else [])]
    again = shlex.join(["svdistill", "train", recipe, *long_form(overrides), *options])
    say(f"train      {again}")
