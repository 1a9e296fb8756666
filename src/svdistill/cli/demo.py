"""``svdistill demo``."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svdistill.cli.arguments import AsJson
from svdistill.cli.console import note, results, say, say_json

if TYPE_CHECKING:
    from svdistill.sweep import Comparison


def demo(
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Runs of each kind of student.")] = 3,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The figure, a PNG file.")] = Path("demo.png"),
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the runs.")] = Path("runs/demo"),
    epochs: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Train each network for only N epochs, for a quick look."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell the whole story on embedded data, in two minutes.

    On scans of handwritten digits: a teacher that has seen 1,000 labelled
    images, and far smaller students that have seen labels of 50 and the others
    without: alone, with soft targets and with KD-SVD. Then a teacher that has
    never seen the student's digits, and so gives no soft targets. Ends with
    a table of gains, what they mean in one sentence, and one figure.
    """
    from svdistill import sweep
    from svdistill.cli.compare_progress import watch
    from svdistill.machine import usable_cores
    from svdistill.report import demo as report
    from svdistill.report import extra, tables

    began = time.monotonic()
    drawn = extra.can_draw()
    if drawn:
        from svdistill.report import plots

        plots.check_writable(output)
    else:
        note(f"no figure will be drawn: it {extra.ADVICE}")
    planned = sweep.plan_demo(seeds=seeds, runs=runs, epochs=epochs)
    with (
        sweep.open_pool(planned, jobs=usable_cores()) as pool,
        watch(planned, runs, option="--runs") as observer,
    ):
        sweep.carry_out(planned, pool, observer=observer)
    record = planned.record()
    if as_json:
        say_json({**record, "sentence": report.sentence(record), "figure": output if drawn else None})
    else:
        results().print(report.table(record))
        results().print(f"\n{report.sentence(record)}\n", markup=False)
    if epochs is not None:
        note("with --epochs the networks may not be trained out: this shows what is printed, not which method helps")
    note(f"{tables.seconds(time.monotonic() - began)} in all; the runs are in {runs} and are reused next time")
    if planned.failed:
        raise typer.Exit(1)
    if drawn:
        _draw(planned, output)
        if not as_json:
            say(f"figure  {output}")


def _draw(done: "Comparison", output: Path) -> None:
    """Draw the curves of the first part, whose students have the same digits as their teacher."""
    from svdistill.methods import TEACHER
    from svdistill.report import demo as report
    from svdistill.report import plots

    part = [member for member in done.members if member.axes["teacher"] == done.axes["teacher"][0]]
    # The first of two stages is without labels, so nothing has learnt yet which class is which.
    curves = [
        plots.Curve(name, [_with_labels(member.run.metrics) for member in part if member.method == method])
        for method, name in report.HELP.items()
    ]
    teacher = next(member.run.summary for member in part if member.method == TEACHER)
    labels = next(member.run.summary["train_images"] for member in part if member.method != TEACHER)
    first = part[-1].recipe.train.first_stage_epochs
    title = (
        f"Digits: students with {labels} labelled scans, their teacher {teacher['train_images']:,}\n"
        f"(KD-SVD's first {first} epochs are without any label, and not drawn)"
    )
    plots.training_curves(curves, output, teacher=teacher["accuracy"], title=title)


def _with_labels(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    last = metrics[-1].get("stage")
    return [line for line in metrics if line.get("stage") == last]
