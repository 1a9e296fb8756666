"""The program ``svdistill``: its commands, and every error turned into one line."""

import io
import os
import shutil
import sys
import time
import warnings
from typing import Annotated, NoReturn, cast

import typer

from svdistill import __version__
from svdistill.cli import console
from svdistill.cli.cache import cache
from svdistill.cli.compare import compare
from svdistill.cli.data import data_app
from svdistill.cli.demo import demo
from svdistill.cli.doctor import doctor
from svdistill.cli.env import env
from svdistill.cli.evaluate import evaluate
from svdistill.cli.export import export
from svdistill.cli.hub import pull, push
from svdistill.cli.networks import networks
from svdistill.cli.new import new
from svdistill.cli.predict import predict
from svdistill.cli.recipes import recipes_app
from svdistill.cli.report import report
from svdistill.cli.runs import runs_app
from svdistill.cli.taps import taps
from svdistill.cli.train import train
from svdistill.cli.watch import watch
from svdistill.errors import SvdistillError, SvdistillWarning, is_out_of_memory
from svdistill.ranks import find_ranks, refuse_several

# Frames and columns leave no room for words on a narrow terminal; plain help has neither.
_COLUMNS = shutil.get_terminal_size().columns
_WIDE = _COLUMNS >= 60

EPILOG = f"""
{"[bold]Examples[/bold]" if _WIDE else "Examples"}

  svdistill demo                                the whole story, two minutes

  svdistill networks                            what each network costs

  svdistill taps resnet20                       where it can be compared

  svdistill recipes                             what can be trained, in groups

  svdistill recipes show digits/svd             every setting of a recipe

  svdistill new mine.yaml                       a recipe of your own

  svdistill train digits/svd seed=1             a student with KD-SVD

  svdistill train digits/svd loss.rank=2        any setting: key=value

  svdistill doctor digits/svd                   what stands out beforehand

  svdistill cache digits/svd views=8            then train without the teacher

  svdistill data show fashion-mnist             its images, also augmented

  svdistill compare digits/svd --seeds 5        eight methods, one table

  svdistill report runs/digits                  what was found, on one page

  svdistill watch runs                          the same, while they train

  svdistill runs list                           what was trained, what can go

  svdistill evaluate runs/digits/svd/1-…        accuracy of each class

  svdistill predict runs/digits/svd/1-… PHOTOS  what pictures show

  svdistill export runs/digits/svd/1-…          for onnxruntime
"""

app = typer.Typer(
    name="svdistill",
    help="Train a small image model with the help of a large one, by KD-SVD.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich" if _WIDE else None,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "terminal_width": None if _WIDE else max(20, _COLUMNS - 1),
    },
)
app.command(epilog="Example: svdistill demo --seeds 1")(demo)
app.command(epilog="Example: svdistill train digits/svd seed=1 train.epochs=50")(train)
app.command(epilog="Example: svdistill new mine.yaml --data photos --labels 500")(new)
app.command(epilog="Example: svdistill doctor eccv/vgg-cifar100-svd train.precision=bf16-mixed")(doctor)
app.command(epilog="Example: svdistill cache digits/svd views=8")(cache)
app.command(epilog="Example: svdistill compare digits/svd loss.rank=[1,2] --methods alone,svd --seeds 3 --jobs 2")(
    compare
)
app.command(epilog="Example: svdistill report runs/digits --output digits.html --open")(report)
app.command(epilog="Example: svdistill watch runs --open")(watch)
app.command(epilog="Example: svdistill evaluate runs/digits/svd/1-… --data digits")(evaluate)
app.command(epilog="Example: svdistill predict runs/digits/svd/1-… photos/ --top 5")(predict)
app.command(epilog="Example: svdistill export runs/digits/svd/1-… --to onnx --int8")(export)
app.command(epilog="Example: svdistill push runs/digits/svd/1-… me/digits-student student.onnx")(push)
app.command(epilog="Example: svdistill pull me/digits-student")(pull)
app.command(epilog="Example: svdistill networks --taps vgg-teacher")(networks)
app.command(epilog="Example: svdistill taps timm:resnet18 --pair timm:vit_tiny_patch16_224 --image-size 224")(taps)
app.command(epilog="Example: svdistill env --json")(env)
app.add_typer(runs_app, name="runs")
app.add_typer(recipes_app, name="recipes")
app.add_typer(data_app, name="data")

# What typer raises for a wrong option or argument: the base of the one such error that it makes public, which adds
# nothing that is used here.
_WrongUsage = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])
INTERRUPTED = 130
_LAST_WORDS_SECONDS = 1.0


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"svdistill {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train a small image model with the help of a large one, by KD-SVD."""
    if context.invoked_subcommand != "train":
        refuse_several(f"'svdistill {context.invoked_subcommand}'")


def end(status: int) -> NoReturn:
    """End the program with its status, once its work is done and written."""
    if _several():
        # A thread of gloo that outlives its connection sometimes aborts the process while the interpreter ends, and the
        # launcher would take that for a failure of the run.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def run(arguments: list[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: what follows the program's name; None = what it was called with.

    Returns:
        Its status: 0, or 2 for an error before work starts, 1 for one while it runs.
    """
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):  # a terminal or file of another encoding shows what it lacks as \\u2013
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = app(arguments, prog_name="svdistill", standalone_mode=False)
    except SvdistillError as error:
        _report(str(error))
        return error.exit_status
    except _WrongUsage as error:
        _report(console.usage(error))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has closed it, for instance 'head'; Python must not complain again while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _report("not enough memory; lower train.batch_size, model.width or data.image_size")
        return 1
    except OSError as error:
        _report(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
        return 1
    # Typer turns Ctrl-C into this status by itself, without a word.
    if status == INTERRUPTED:
        _report("interrupted; call the same command again to resume after the last checkpoint")
    _leave()
    return status if isinstance(status, int) else 0


def _report(text: str) -> None:
    """Print an error; of several processes that fail together, only the first to notice does."""
    if not _several():
        console.error(text)
        return
    from svdistill.training import speaks_first

    if speaks_first():
        console.error(text)
    # When one ends, torchrun ends the others, which may not have reported yet; and rank zero is asked who reports.
    time.sleep(_LAST_WORDS_SECONDS)


def _leave() -> None:
    if _several() and "torch" in sys.modules:
        from svdistill.training import leave

        leave()


def _several() -> bool:
    try:
        return find_ranks().world > 1
    except SvdistillError:
        return False


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    """Print our own warnings in one line; those of libraries do not concern the user of a command."""
    if issubclass(category, SvdistillWarning):
        console.warning(str(message))
