"""``svdistill compare``."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svdistill.cli.arguments import RUNS, AllowCode, AsJson, RunsFolder, settings
from svdistill.cli.console import note, results, say_json
from svdistill.methods import compared

if TYPE_CHECKING:
    from rich.console import RenderableType

MOST_SEEDS = 1000


def compare(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name or path of a recipe with a teacher; its student is trained.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings of all runs; KEY=[A,B,C] lets one vary."),
    ] = None,
    methods: Annotated[
        str, typer.Option(metavar="A,B,C", help="Methods, see docs/compare.md; 'alone' is the plain student.")
    ] = ",".join(compared()),
    seeds: Annotated[str, typer.Option(metavar="N", help="3 for the seeds 0, 1, 2; or a list, 3,5,8-9.")] = "3",
    on: Annotated[
        str, typer.Option(metavar="PLACE", help="'local', or 'ray': runs are spread over a Ray cluster.")
    ] = "local",
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Most runs side by side: here 1, on Ray one for each GPU or CPU; a GPU takes what its memory holds.",
        ),
    ] = None,
    runs: RunsFolder = RUNS,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="For comparison.md, .csv and .json; by default comparisons/RECIPE."),
    ] = None,
    allow_code: AllowCode = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, list the runs and which are there, train nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train by several methods over several seeds, into one table.

    Everything is checked before the first run. Runs that have finished are
    reused, interrupted ones resume: after a crash or a kill, call the same
    command again. A run that fails is reported and does not stop the others;
    the status is then 1.
    """
    from svdistill import sweep
    from svdistill.cli.compare_progress import watch
    from svdistill.report import comparison as report

    sweep.check_backend(on)
    wanted = [name.strip() for name in methods.split(",") if name.strip()]
    chosen = settings(overrides, allow_code)
    planned = sweep.plan(recipe, overrides=chosen, methods=wanted, seeds=parse_seeds(seeds), runs=runs)
    if dry_run:
        _show(planned.record(), report.plan_table, as_json=as_json)
        return
    usual = Path("comparisons") / re.sub(r"[^\w.-]+", "-", re.sub(r"\.ya?ml$", "", recipe)).strip("-.")
    folder = output or report.free_folder(usual, planned.record())
    with _silent_stdout() if on == "ray" else nullcontext(), sweep.open_pool(planned, on=on, jobs=jobs) as pool:
        if pool.description is not None:
            note(pool.description)
        with watch(planned, folder) as observer:
            sweep.carry_out(planned, pool, observer=observer)
    _show(planned.record(), report.table, as_json=as_json)
    note(f"written to {folder / report.STEM}.md, .csv and .json")
    if planned.failed:
        raise typer.Exit(1)


def _show(record: dict[str, Any], table: Callable[[dict[str, Any]], "RenderableType"], *, as_json: bool) -> None:
    if as_json:
        say_json(record)
    else:
        results().print(table(record))


@contextmanager
def _silent_stdout() -> Iterator[None]:
    """Discard what is printed: Ray prints pages about a node that died, while our progress goes to stderr."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def parse_seeds(text: str) -> list[int]:
    """Read the option ``--seeds``: ``3`` → 0, 1, 2; ``4,`` → 4; ``1,5,8-9`` → 1, 5, 8, 9.

    Args:
        text: the option as it was typed.

    Returns:
        The seeds.

    Raises:
        BadParameter: it is neither a number nor a list of numbers and ranges, or means more than a thousand seeds.
    """
    if re.fullmatch(r"\d{1,4}", text) and 1 <= int(text) <= MOST_SEEDS:
        return list(range(int(text)))
    parts = [part.strip() for part in text.split(",")]
    parts = parts[:-1] if parts[-1] == "" and len(parts) > 1 else parts
    found: list[int] = []
    for part in parts:
        match = re.fullmatch(r"(\d{1,10})(?:-(\d{1,10}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not 0 <= last - first < MOST_SEEDS or (match and "," not in text and match[2] is None):
            raise typer.BadParameter(
                f"{text!r}: expected how many (3), a list (0,1,2) or a range (0-9), at most {MOST_SEEDS}",
                param_hint="'--seeds'",
            )
        found += range(first, last + 1)
    return found
