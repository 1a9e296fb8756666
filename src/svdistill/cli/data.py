"""``svdistill data``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svdistill.cli.arguments import AsJson
from svdistill.cli.console import note, results, say, say_json

if TYPE_CHECKING:
    from svdistill.data import Augmentation

data_app = typer.Typer(
    help="List the data sets, fetch one, or look at its images.",
    epilog="Example: svdistill data show fashion-mnist --output sheet.png",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a data set; 'svdistill data' lists them.")]


@data_app.callback(invoke_without_command=True)
def default(context: typer.Context, as_json: AsJson = False) -> None:
    """List the data sets, fetch one, or look at its images."""
    if context.invoked_subcommand is None:
        list_data(as_json=as_json)


@data_app.command("list")
def list_data(as_json: AsJson = False) -> None:
    """List the data sets that can be named in a recipe, and whether they are here."""
    from svdistill import data
    from svdistill.report.datasets import datasets_table

    known = [data.describe(name) for name in data.names()]
    if as_json:
        say_json([asdict(one) for one in known])
        return
    results().print(datasets_table(known))
    for one in known:
        if one.found is not None:
            say(f"{one.name} is in {one.found}")
    say("download one:  svdistill data fetch NAME")
    say("look at one:   svdistill data show NAME")


@data_app.command("fetch")
def fetch(
    name: Name,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the files; by default the user's cache.")
    ] = None,
) -> None:
    """Download a data set, or resume its download, and check every file by size and hash."""
    from svdistill import data

    known = data.describe(name)
    if known.size and known.found is None:
        note(f"{name}: up to {known.size / 1e6:,.0f} MB from {known.source}")
    say(data.fetch(name, folder=to))


@data_app.command("show", epilog="Example: svdistill data show cifar100 data.augment.trivial_augment=true")
def show(
    name: Name,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="How images are varied, as in a recipe: data.augment.…; by default flip, rotation and shift.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="PNG file; by default NAME.png here.")] = None,
    root: Annotated[Path | None, typer.Option(metavar="PATH", help="Its folder or archive.")] = None,
    image_size: Annotated[int | None, typer.Option(metavar="PIXELS", help="Height and width.")] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take the classes in this file, one a line.")
    ] = None,
    channels: Annotated[int | None, typer.Option(help="1 = grey, 3 = colour.")] = None,
    rows: Annotated[int, typer.Option(help="The largest number of classes.")] = 10,
    each: Annotated[int, typer.Option(help="Images of each class.")] = 6,
    seed: Annotated[int, typer.Option(help="Of the augmentation.")] = 0,
) -> None:
    """Draw a sheet of sample images, before and after augmentation."""
    from svdistill.report.extra import check_can_draw

    check_can_draw("the sheet")
    from svdistill.jobs.data import samples
    from svdistill.report import sheet

    drawn = samples(
        name,
        root=root,
        image_size=image_size,
        classes=classes,
        channels=channels,
        rows=rows,
        each=each,
        overrides=overrides or (),
        seed=seed,
    )
    path = output or Path(f"{name}.png")
    size = "×".join(map(str, drawn.images.shape[2:]))
    title = f"{name}: {drawn.train:,} training and {drawn.test:,} test images, {size}, {drawn.num_classes} classes"
    words = ", ".join(_in_words(drawn.augmentation))
    heads = ("as they are", f"augmented: {words}" if words else "not augmented")
    sheet.draw_sheet(drawn.images, drawn.varied, drawn.classes, path, title=title, heads=heads)
    say(path)


def _in_words(done: "Augmentation") -> list[str]:
    words = ["resized crop"] if done.resized_crop else []
    words += ["flip"] if done.flip else []
    words += [f"±{done.rotation:g}°"] if done.rotation else []
    words += [f"±{done.shift} px"] if done.shift else []
    words += ["TrivialAugment"] if done.trivial_augment else []
    words += ["colour jitter"] if done.colour_jitter else []
    words += ["erasing"] if done.erasing else []
    return words
