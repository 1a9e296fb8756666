"""``svdistill demo``."""

import time
from pathlib import Path
from typing import Annotated

import typer

from svdistill.cli.console import note, results


def demo(
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Runs of each kind of student.")] = 3,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The figure, a PNG file.")] = Path("demo.png"),
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the runs.")] = Path("runs/demo"),
    epochs: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Train each network for only N epochs, for a quick look."),
    ] = None,
) -> None:
    """Tell the whole story on embedded data, in two minutes.

    On scans of handwritten digits: a teacher that has seen 1,000 labelled
    images; students, far smaller, that have seen a few of each digit, alone,
    with KD-SVD and with soft targets. Ends with a table and one figure.
    """
    from svdistill import jobs
    from svdistill.cli.progress import Reporter
    from svdistill.report import plots, tables

    began = time.monotonic()
    plots.check_writable(output)
    done = jobs.demo(seeds=seeds, runs=runs, epochs=epochs, callbacks=Reporter())
    summaries = {name: [run.summary for run in made] for name, made in done.students.items()}
    teacher = done.teacher.summary
    rows = [("teacher", [teacher]), *((f"student, {name}", made) for name, made in summaries.items())]
    curves = [plots.Curve(name, [run.metrics for run in made]) for name, made in done.students.items()]
    labels = next(iter(summaries.values()))[0]["train_images"]
    title = f"Digits: students that have seen {labels} labelled images, their teacher {teacher['train_images']:,}"
    plots.training_curves(curves, output, teacher=teacher["accuracy"], title=title)
    results().print(tables.comparison_table(rows))
    results().print(f"figure  {output}", markup=False, soft_wrap=True)
    note(f"{tables.seconds(time.monotonic() - began)} in all; the runs are in {runs} and are reused next time")
