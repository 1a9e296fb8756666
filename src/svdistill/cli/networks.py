"""``svdistill networks``."""

from typing import Annotated

import typer

from svdistill.cli.console import results, say


def networks(
    image_size: Annotated[int, typer.Option(min=1, metavar="N", help="Height and width of an image.")] = 32,
    classes: Annotated[int, typer.Option(min=1, metavar="N", help="Number of classes.")] = 100,
    channels: Annotated[int, typer.Option(min=1, metavar="N", help="Channels of an image.")] = 3,
    width: Annotated[float, typer.Option(metavar="X", help="Scales every channel count.")] = 1.0,
    taps: Annotated[
        str | None, typer.Option(metavar="NAME", help="Show the maps at the taps of this network instead.")
    ] = None,
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
        console.print(tables.taps_table(taps, shapes))
        return
    entries = nets.survey(image_size=image_size, num_classes=classes, in_channels=channels, width=width)
    console.print(tables.networks_table(entries))
    say("the maps at the taps of one:  svdistill networks --taps NAME")
    say("all places of any model:       svdistill taps MODEL")
