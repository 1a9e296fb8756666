"""``svdistill new``."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from svdistill.cli.arguments import AllowCode
from svdistill.cli.console import say
from svdistill.errors import OptionError
from svdistill.methods import BASELINE

_STUDENT, _TEACHER, _METHOD = "resnet8", "resnet20", "svd-recommended"


def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new recipe, a .yaml file.")],
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="A data set, or a folder with train/CLASS/… and val/CLASS/….")
    ] = None,
    student: Annotated[
        str | None, typer.Option(metavar="MODEL", help=f"The network to train; {_STUDENT} unless you are asked.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The one that helps and is trained first, or a .safetensors file."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"How it helps, see 'svdistill recipes methods'; {_METHOD}.")
    ] = None,
    labels: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Labelled images to train on; all unless you say.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Height and width of an image in pixels.")
    ] = None,
    log: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A tracker, e.g. mlflow; may be given several times.")
    ] = None,
    allow_code: AllowCode = False,
) -> None:
    """Write a recipe of your own, with comments, for 'svdistill train'.

    In a terminal it asks for what the options do not say; elsewhere --data
    is needed. A teacher that is trained first gets a recipe beside it.
    """
    asks = data is None
    if asks and not sys.stdin.isatty():
        raise OptionError("--data: a data set or a folder is needed, as there is no terminal to ask in")
    if data is None:
        data = str(typer.prompt("Images: a data set or a folder", default="digits"))
    from svdistill.recipes.new import Answers, is_folder, write

    size = image_size
    if size is None and is_folder(data):
        size = typer.prompt("Height and width in pixels", default=64, type=int) if asks else 64
    student = student or _ask(asks, "Network to train", _STUDENT)
    method = method or _ask(asks, "Method; 'alone' is without a teacher", _METHOD)
    if method != BASELINE:
        teacher = teacher or _ask(asks, "Teacher: a network, or a trained one's file", _TEACHER)
    if labels is None and asks:
        labels = typer.prompt("Labelled images; 0 = all", default=0, type=int) or None

    written = write(file, Answers(data, student, teacher, method, labels, size, tuple(log or ()), allow_code))
    for path in written:
        say(f"wrote  {path}")
    name = shlex.quote(str(file))
    say(f"train it         svdistill train {name}")
    say(f"look at it first svdistill doctor {name}")


def _ask(asks: bool, question: str, usual: str) -> str:
    return str(typer.prompt(question, default=usual)) if asks else usual
