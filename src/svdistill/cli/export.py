"""``svdistill export``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from svdistill.cli.arguments import AllowCode, StudentPath
from svdistill.cli.console import notes, results, say


def export(
    path: StudentPath,
    to: Annotated[str, typer.Option(metavar="FORMAT", help="onnx, torch-export or safetensors.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="By default beside the network's own file.")
    ] = None,
    preprocessing: Annotated[
        bool, typer.Option("--preprocessing", help="Standardize within the graph, which then takes uint8 pixels.")
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Write a second ONNX file, in 8-bit integers.")] = False,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Data set to compare on; by default the one it was trained on."),
    ] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder with the data set's files.")] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Compare on the pictures in this folder instead.")
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Calibrate int8 with these pictures, not with the training images."),
    ] = None,
    calibration: Annotated[int, typer.Option(metavar="N", help="Images to calibrate with, at most.")] = 512,
    allow_code: AllowCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Write a trained network alone, for other programs.

    The file takes batches of any size, and says its classes and how images
    are prepared. Before it is written it is read back, and compared with
    PyTorch on real images.
    """
    from svdistill import jobs
    from svdistill.jobs import Pictures
    from svdistill.report import deployment

    pictures = Pictures(data=data, root=root, images=images, calibrate=calibrate, calibration=calibration)
    with notes().status("exporting and comparing"):
        done = jobs.export(
            path, to=to, output=output, preprocessing=preprocessing, int8=int8, pictures=pictures, allow_code=allow_code
        )
    if as_json:
        print(json.dumps(done.to_dict(), indent=2))
        return
    results().print(deployment.export_table(done.to_dict()))
    for file in done.files:
        say(f"wrote  {file}")
