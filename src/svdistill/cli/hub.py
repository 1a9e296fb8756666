"""``svdistill push`` and ``svdistill pull``."""

from pathlib import Path
from typing import Annotated

import typer

from svdistill.cli.arguments import AllowCode, StudentPath
from svdistill.cli.console import notes, say

Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hugging Face hub.")]


def push(
    path: StudentPath,
    repo: Repository,
    also: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE…", help="Further files to put beside it, e.g. an export.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
    allow_code: AllowCode = False,
) -> None:
    """Put a trained network on the Hugging Face hub, with a model card.

    The card has the results and the recipe of the run.
    """
    from svdistill import jobs

    with notes().status(f"pushing to {repo}"):
        address = jobs.push(path, repo, also=also or (), private=private, allow_code=allow_code)
    say(f"pushed  {address}")


def pull(
    repo: Repository,
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="By default one of the repository's name, here.")
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="NAME", help="A branch, tag or commit.")] = None,
) -> None:
    """Fetch a trained network from the Hugging Face hub."""
    from svdistill import jobs

    with notes().status(f"fetching {repo}"):
        file = jobs.pull(repo, folder, revision=revision)
    say(file)
