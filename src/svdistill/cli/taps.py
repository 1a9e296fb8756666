"""``svdistill taps``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from svdistill.cli.arguments import AllowCode
from svdistill.cli.console import results, say

_MODEL = "Name of a network, name or path of a recipe, a run's folder, or a .safetensors file."


def taps(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL)],
    pair: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The teacher, whose taps are paired with those of the first.")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Count the singular vectors of the maps on these: a data set, or a folder."),
    ] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder with the data set's files.")] = None,
    classes: Annotated[int | None, typer.Option(min=0, metavar="N", help="Number of classes.")] = None,
    image_size: Annotated[int | None, typer.Option(min=1, metavar="N", help="Height and width of an image.")] = None,
    channels: Annotated[int, typer.Option(min=1, metavar="N", help="Channels of an image.")] = 3,
    width: Annotated[float, typer.Option(metavar="X", help="Scales every channel count.")] = 1.0,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="With the weights of the model's library.")] = False,
    allow_code: AllowCode = False,
    everything: Annotated[bool, typer.Option("--all", help="Show every submodule, also inside of blocks.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show where a network can be tapped, and which taps are suggested.

    They are the ends of its stages, or four of its equal blocks, and the
    last hidden features. With --pair those of two networks are paired by
    depth. The options from --classes on are for networks given by name.
    """
    from svdistill.jobs.taps import Settings, find_taps
    from svdistill.report import networks as tables

    settings = Settings(classes, image_size, channels, width, pretrained, allow_code)
    found = find_taps(model, pair=pair, images=images, root=root, settings=settings)
    if as_json:
        print(json.dumps(found, indent=2, allow_nan=False))
        return
    console = results()
    for network in found["networks"] if everything or not found["pairs"] else []:
        console.print(tables.places_table(network, everything=everything))
    if found["pairs"]:
        console.print(tables.pairs_table(found["networks"]))
    for key, network in zip(("model", "teacher"), found["networks"], strict=False):
        drop = f"  {key}.drop_tokens: {network['drop_tokens']}" if network["drop_tokens"] else ""
        say(f"in a recipe:  {key}.taps: [{', '.join(network['taps'])}]{drop}")
