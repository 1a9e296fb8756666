"""``svdistill runs``."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from svdistill.cli.arguments import RUNS, AsJson
from svdistill.cli.console import note, results, say, say_json
from svdistill.errors import DataError, OptionError

if TYPE_CHECKING:
    from svdistill.records import RunRecord

T = TypeVar("T")

runs_app = typer.Typer(
    help="List the runs in a folder, look at one, compare some, or free the disk.",
    epilog="Example: svdistill runs list runs --state finished --sort accuracy",
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of runs; those at any depth count.")]


@runs_app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """List the runs in a folder, look at one, compare some, or free the disk."""
    if context.invoked_subcommand is None:
        list_runs()


@runs_app.command("list", epilog="Example: svdistill runs list --method 'svd*' --sort accuracy")
def list_runs(
    folder: Folder = RUNS,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only those of this recipe: a part of its name, or with *.")
    ] = None,
    method: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this method; may have *.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Only those of this seed.")] = None,
    state: Annotated[
        str | None,
        typer.Option(metavar="STATE", help="Only finished, interrupted, training, damaged or set-aside ones."),
    ] = None,
    sort: Annotated[str, typer.Option(metavar="BY", help="path, accuracy, size, time or age.")] = "path",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    as_json: AsJson = False,
) -> None:
    """List runs: state, accuracy, epochs, size on disk, age.

    The best, largest, longest or newest stand first. A broken run is a row
    like any other, and a line below says what is wrong with it.
    """
    from svdistill import runs
    from svdistill.report import runs as tables

    wanted = runs.Filter(recipe=recipe, method=method, seed=seed, state=state)
    found = runs.select(runs.find(folder), wanted, sort=sort, reverse=reverse)
    if as_json:
        say_json([run.to_dict() for run in found])
        return
    console = results()
    if found:
        console.print(tables.runs_table(found, folder, width=console.width))
        say("one of them:  svdistill runs show RUN")
    else:
        say(f"no such run in {folder}")


@runs_app.command("show", epilog="Example: svdistill runs show runs/digits/svd")
def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a folder with one run in it.")],
    as_json: AsJson = False,
) -> None:
    """Show a run: how it differs from its recipe, its figures, its files."""
    from svdistill import runs
    from svdistill.recipes.original import original
    from svdistill.records import RunRecord
    from svdistill.report import runs as tables
    from svdistill.report.tables import run_table

    about = runs.look(runs.only_run(run))
    record = RunRecord(about.path)
    recipe, summary, metrics = _read(record)
    base = original(recipe) if recipe else None
    changed = runs.changed(recipe, base.settings) if base else {}
    files = _files(about.path)
    if as_json:
        settings = {key: {"recipe": before, "run": now} for key, (before, now) in changed.items()}
        compared = {"compared_with": base.title if base else None, "settings": settings}
        say_json({**about.to_dict(), **compared, "summary": summary, "metrics": metrics, "files": files})
        return
    console = results()
    state = f"{about.state}: {about.reason}" if about.reason else about.state
    say(f"{about.path}  {state}")
    if summary:
        console.print(run_table(summary, metrics))
    elif metrics:
        console.print(tables.epoch_table(metrics[-1]))
    if base is not None:
        console.print(tables.settings_table(changed, base.title))
    console.print(tables.files_table(files))


@runs_app.command("compare", epilog="Example: svdistill runs compare runs/digits/svd/0-… runs/digits/svd/1-…")
def compare_runs(
    run: Annotated[list[Path], typer.Argument(metavar="RUN RUN…", help="Folders of two or more runs.")],
    as_json: AsJson = False,
) -> None:
    """Put runs side by side: the settings in which they differ, and their figures."""
    from svdistill import runs
    from svdistill.records import RunRecord
    from svdistill.report import runs as tables

    if len(run) < 2:
        raise OptionError(f"one run, {run[0]}, compares with nothing; give two or more")
    about = [runs.look(runs.only_run(path)) for path in run]
    recipes, figures = [], []
    for one in about:
        recipe, summary, metrics = _read(RunRecord(one.path))
        recipes.append(recipe)
        figures.append(tables.figures_of(summary, metrics))
    differing = {
        "settings": runs.differing(recipes),
        "machine": runs.differing([tables.machine(_sound(RunRecord(one.path).environment, {})) for one in about]),
    }
    shown = [{**one.to_dict(), "figures": figure} for one, figure in zip(about, figures, strict=True)]
    if as_json:
        say_json({"runs": shown, "differing": differing})
        return
    results().print(tables.compare_table(shown, differing))


@runs_app.command("clean", epilog="Example: svdistill runs clean runs --only checkpoints")
def clean(
    folder: Folder = RUNS,
    only: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Only checkpoints, damaged or set-aside; several times.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking, as in a script.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON; without --yes nothing is removed.")
    ] = False,
) -> None:
    """Remove what is not needed any more; shows it first, and asks.

    That is: the checkpoints of runs that have finished and are whole, with
    which one that loses a file later cannot be mended; damaged runs that
    their training would not mend and whose network is lost; and runs that
    --fresh has set aside. What was interrupted stays, what another process
    has locked, and every file that no training has written.
    """
    from svdistill import runs
    from svdistill.report import runs as tables
    from svdistill.report.tables import file_size

    found = runs.removals(runs.find(folder), only or runs.KINDS)
    if as_json:
        say_json([{**one.to_dict(), "removed": yes and runs.remove(one)} for one in found])
        return
    if not found:
        say(f"nothing in {folder} can go")
        return
    results().print(tables.removals_table(found, folder))
    if not yes:
        if not sys.stdin.isatty():
            raise OptionError("nothing is removed, as there is no terminal to ask in; add --yes")
        if not typer.confirm("Remove all of it?"):
            say("nothing is removed")
            return
    freed = 0
    for one in found:
        if runs.remove(one):
            freed += one.bytes
        else:
            note(f"left: {one.path}, which another process has locked or has changed")
    say(f"freed  {file_size(freed)}")


def _read(record: "RunRecord") -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Return recipe, summary and metrics of a run, each empty where it is not there or broken."""
    return (
        _sound(record.recipe, {}),
        _sound(record.summary, {}) if record.ended else {},
        _sound(record.metrics.read, []),
    )


def _sound(read: Callable[[], T], otherwise: T) -> T:
    """Return what can be read of a run; a note tells where that cannot be."""
    try:
        return read()
    except DataError as error:
        note(str(error))
        return otherwise


def _files(folder: Path) -> dict[str, int]:
    """Return the bytes of each file of a run, by its path in the run's folder."""
    files = [Path(where) / name for where, _, names in os.walk(folder) for name in names]
    return {str(file.relative_to(folder)): file.lstat().st_size for file in sorted(files)}
