"""``svdistill networks``."""

from typing import Annotated

import typer

from svdistill.cli.arguments import AsJson
from svdistill.cli.console import results, say, say_json


def networks(
    image_size: Annotated[int, typer.Option(min=1, metavar="N", help="Height and width of an image.")] = 32,
    classes: Annotated[int, typer.Option(min=1, metavar="N", help="Number of classes.")] = 100,
    channels: Annotated[int, typer.Option(min=1, metavar="N", help="Channels of an image.")] = 3,
    width: Annotated[float, typer.Option(metavar="X", help="Scales every channel count.")] = 1.0,
    taps: Annotated[
        str | None, typer.Option(metavar="NAME", help="Show the maps at the taps of this network instead.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the networks: parameters and FLOPs, beside those of their papers.

    The papers' figures are shown where they apply: 32 × 32 × 3 images,
    width 1, and the papers' number of classes (100, for some networks 10).
    """
    from svdistill import nets
    from svdistill.report import networks as tables

    console = results()
    if taps is not None:
        shapes = nets.tap_shapes(taps, image_size=image_size, num_classes=classes, in_channels=channels, width=width)
        if as_json:
            say_json({"network": taps, "taps": [tap._asdict() for tap in shapes]})
        else:
            console.print(tables.taps_table(taps, shapes))
        return
    entries = nets.survey(image_size=image_size, num_classes=classes, in_channels=channels, width=width)
    if as_json:
        printed = [(one, one.published and one.published._asdict()) for one in entries]
        say_json([{**one._asdict(), "published": published} for one, published in printed])
        return
    console.print(tables.networks_table(entries))
    say("the maps at the taps of one:  svdistill networks --taps NAME")
    say("all places of any model:       svdistill taps MODEL")
