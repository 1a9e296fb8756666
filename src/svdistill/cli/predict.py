"""``svdistill predict``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from svdistill.cli.arguments import AllowCode, StudentPath
from svdistill.cli.console import notes, results, warning

UNREADABLE = 1


def predict(
    path: StudentPath,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Pictures, or folders of them.")],
    top: Annotated[int, typer.Option(metavar="N", help="How many classes to name for each.")] = 3,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    allow_code: AllowCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line for each picture.")] = False,
) -> None:
    """Say what a trained network takes pictures for.

    Pictures are scaled and standardized as those that it was measured with.
    The status is 1 if one of them could not be read.
    """
    from svdistill import jobs
    from svdistill.report import deployment

    found = []
    unreadable = 0
    with notes().status("reading the network") as status:
        predictions = jobs.predict(path, images, top=top, device=device, allow_code=allow_code)
        for number, one in enumerate(predictions, start=1):
            status.update(f"{number:,} pictures")
            if one.error is not None:
                unreadable += 1
                warning(f"{one.image} cannot be read: {one.error}")
            if as_json:
                print(json.dumps(one.to_dict()), flush=True)
            else:
                found.append(one.to_dict())
    if not as_json:
        results().print(deployment.predictions_table(found))
    if unreadable:
        raise typer.Exit(UNREADABLE)
