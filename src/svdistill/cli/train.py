"""``svdistill train``."""

import shlex
from typing import Annotated

import typer

from svdistill.cli.arguments import RUNS, AllowCode, AsJson, RecipeName, RunsFolder, settings
from svdistill.cli.console import hearing, note, results, say, say_json
from svdistill.errors import TrainingError


def train(
    recipe: RecipeName,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Settings that replace the recipe's, e.g. seed=1 data.train_size=500."
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Train the student by this method instead; see 'svdistill recipes methods'."),
    ] = None,
    runs: RunsFolder = RUNS,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train again; the earlier run is renamed, not deleted.")
    ] = False,
    allow_code: AllowCode = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the path of the trained network.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train one network, alone or from a teacher.

    A teacher that the recipe names is trained first, once. A run that has
    finished is reused, one that was interrupted resumes after its last
    checkpoint.
    """
    from svdistill import jobs, signs
    from svdistill.cli.progress import Reporter
    from svdistill.report import tables
    from svdistill.runs import rules_of

    overrides = settings(overrides, allow_code)
    callbacks = jobs.NoCallbacks() if quiet else Reporter()
    with hearing() as warned:
        try:
            run = jobs.train(recipe, overrides=overrides, method=method, runs=runs, fresh=fresh, callbacks=callbacks)
        except TrainingError:
            warned.append("it ended")
            raise
        finally:
            if warned and not quiet:
                chosen = [*overrides, *(("--method", method) if method else ()), "--runs", str(runs)]
                note(f"what may be the matter:  {shlex.join(['svdistill', 'doctor', recipe, *chosen])}")
    console = results()
    if as_json:
        say_json({"path": run.path, "student": run.student_file, "summary": run.summary})
        return
    if quiet:
        say(run.student_file)
        return
    console.print(tables.run_table(run.summary, run.metrics))
    values = tables.health(run.metrics)
    sign = signs.of_gradients(values["ratio"], values["passed"], rules_of(run.record.recipe()))
    if sign is not None:
        say(f"look at          {sign.found}")
        say(f"                 → {sign.advice}")
    say(f"trained network  {run.student_file}")
    say(f"measure it       svdistill evaluate {shlex.quote(str(run.path))}")
