"""Tables for the terminal, from records alone."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from svdistill.names import printable
from svdistill.records import ACCURACY, VALIDATION_ACCURACY


def mean_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample deviation (n − 1) of some runs.

    Args:
        values: at least one number.

    Returns:
        Mean and deviation; None where a single value has no deviation.
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def percent(value: float | None, *, digits: int = 2) -> str:
    """Write a fraction between 0 and 1 as percent; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def seconds(value: float | None) -> str:
    """Write a duration in seconds as people read it: ``8.3 s``, ``2 min 05 s``, ``1 h 10 min``."""
    if value is None:
        return "–"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count(value: float) -> str:
    """Write a large number, its digits grouped: ``1,234,567``."""
    return f"{value:,.0f}"


def significant(value: float) -> str:
    """Write a number of any size in three digits, a large one in all of them: ``0.184``, ``66.6``, ``10,190``."""
    return count(value) if 999.5 <= abs(value) < 1e15 else f"{value:.3g}"


def plural(number: int, noun: str) -> str:
    """Write a number of things: ``1 run``, ``1,000 runs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def not_equally_long(methods: Mapping[int, Sequence[str]]) -> str:
    """Say for how many epochs methods trained.

    Args:
        methods: by number of epochs their names, of at least two lengths.
    """
    usual = max(methods, key=lambda epochs: len(methods[epochs]))
    named = []
    for epochs in sorted(methods, reverse=True):
        names = list(dict.fromkeys(methods[epochs]))
        who = "the others" if epochs == usual and len(names) > 1 else ", ".join(names)
        named.append(f"{who} for {plural(epochs, 'epoch')}")
    return f"Not trained equally long: {'; '.join(named)}."


def flops(value: float) -> str:
    """Write a number of FLOPs in millions."""
    return f"{value / 1e6:.2f}"


def health(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Sum up a run's transfer health: medians over its epochs, and the total of what was set aside or dropped.

    Args:
        metrics: one mapping for each epoch, as a run writes them.

    Returns:
        ``ratio``, ``clipped``, ``passed``, ``alignment``, ``energy_student``, ``energy_teacher`` (medians over the
        epochs that have them), ``set_aside``, ``dropped`` (totals); None for each that no epoch has.
    """
    summary: dict[str, float | None] = {}
    for key in ("ratio", "clipped", "passed", "alignment", "energy_student", "energy_teacher"):
        values = [line[key] for line in metrics if line.get(key) is not None]
        summary[key] = statistics.median(values) if values else None
    for key in ("set_aside", "dropped"):
        values = [line[key] for line in metrics if line.get(key) is not None]
        summary[key] = sum(values) if values else None
    return summary


def plain_table(*, header: bool = True) -> Table:
    """Return an empty table as all of ours look."""
    return Table(box=box.SIMPLE_HEAD, show_header=header)


def plain(name: object, *, style: str = "") -> Text:
    """Return a name for a cell of a table: neither markup nor control characters in it do anything."""
    return Text(printable(name), style=style)


def titled(title: str, table: Table) -> Group:
    """Put a title above a table."""
    # A table breaks a title of its own into lines of the table's width.
    return Group(plain(title, style="bold"), table)


def accuracy_name(summaries: Iterable[Mapping[str, Any]]) -> str:
    """Return what the accuracy of some runs is called: ``test accuracy``, ``held-out accuracy``, or both.

    Args:
        summaries: as ``RunRecord.summary`` returns them.
    """
    measured = {str(summary.get("measured_on", "test")) for summary in summaries}
    return f"{' or '.join(sorted(measured or {'test'}, reverse=True))} accuracy"


def measured(metrics: Mapping[str, Any]) -> tuple[str, float] | None:
    """Return what an epoch's accuracy is called, and what it is; None where the network was not evaluated.

    Args:
        metrics: of an epoch.
    """
    name = next((name for name in (ACCURACY, VALIDATION_ACCURACY) if name in metrics), None)
    return None if name is None else (name.replace("_", " "), metrics[name])


def validation_note(summaries: Iterable[Mapping[str, Any]]) -> str:
    """Return a sentence on the accuracy of runs whose best epoch was chosen on images of their own; "" without such.

    Args:
        summaries: as ``RunRecord.summary`` returns them.
    """
    if not any(VALIDATION_ACCURACY in summary for summary in summaries):
        return ""
    return (
        "With data.validation a run has one accuracy, which stands for the last and for the best epoch: that of the "
        "epoch that was best on the validation images, measured once."
    )


def run_table(summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> Group:
    """Show how a run ended: accuracy, cost, time, and the health of its transfer task.

    Args:
        summary: as ``RunRecord.summary`` returns it.
        metrics: as ``Metrics.read`` returns them.

    Returns:
        A heading and a table of two columns.
    """
    table = plain_table(header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    accuracy = accuracy_name([summary])
    if "validation_accuracy" in summary:
        best = f"{percent(summary['validation_accuracy'])} (epoch {summary['best_epoch']})"
        table.add_row("validation accuracy, best epoch", best)
        table.add_row(f"{accuracy} of that epoch", percent(summary["accuracy"]))
    else:
        best = f"{percent(summary['best_accuracy'])} (epoch {summary['best_epoch']})"
        table.add_row(f"{accuracy}, last epoch", percent(summary["accuracy"]))
        table.add_row(f"{accuracy}, best epoch", best)
    if "raw_accuracy" in summary:
        table.add_row("without averaging, last epoch", percent(summary["raw_accuracy"]))
    table.add_row("training images, epochs", f"{count(summary['train_images'])}, {summary['epochs']}")
    table.add_row("parameters", count(summary["parameters"]))
    table.add_row("MFLOPs an image", flops(summary["flops"]))
    table.add_row("training time", seconds(summary["seconds"]))
    for adapted in summary.get("adapters", ()):
        lifted = f"{adapted['width']} → {adapted['teacher_width']} channels, in training only"
        table.add_row(f"adapter at {adapted['tap']}", lifted)
    for label, value in _health_rows(health(metrics)):
        table.add_row(label, value)
    return titled(f"{summary['recipe']}, seed {summary['seed']}", table)


def _health_rows(values: Mapping[str, float | None]) -> Iterable[tuple[str, str]]:
    ratio = values["ratio"]
    if ratio is not None:
        yield "transfer gradient / main gradient", f"{significant(ratio)} (median over epochs)"
        yield "variables clipped", percent(values["clipped"], digits=0)
    if values["passed"] is not None:
        yield "transfer gradient let through", percent(values["passed"], digits=0)
    if values["alignment"] is not None:
        yield "alignment, |cosine|", f"{values['alignment']:.3f}"
        student, teacher = percent(values["energy_student"], digits=0), percent(values["energy_teacher"], digits=0)
        yield "energy in the kept vectors", f"student {student}, teacher {teacher}"
    if values["set_aside"] is not None:
        yield "samples set aside", count(values["set_aside"])
    if values["dropped"]:
        yield "gradients dropped, not finite", count(values["dropped"])


def accuracy_table(evaluation: Mapping[str, Any]) -> Group:
    """Show how well a network tells the classes apart.

    Args:
        evaluation: as ``jobs.evaluate`` returns it.

    Returns:
        A heading and a table with one row for each class, the whole set last.
    """
    table = plain_table()
    table.add_column("class")
    table.add_column("images", justify="right")
    table.add_column("right", justify="right")
    table.add_column("accuracy", justify="right")
    for row in evaluation["classes"]:
        fraction = row["right"] / row["images"] if row["images"] else None
        table.add_row(plain(row["name"]), count(row["images"]), count(row["right"]), percent(fraction))
    table.add_section()
    right = sum(row["right"] for row in evaluation["classes"])
    table.add_row("all", count(evaluation["images"]), count(right), percent(evaluation["accuracy"]), style="bold")
    title = f"{evaluation['model']} on the {count(evaluation['images'])} test images of {evaluation['data']}"
    return titled(title, table)


def comparison_table(rows: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> Group:
    """Put methods side by side: cost, accuracy after the last epoch over the seeds, and time.

    Args:
        rows: name of each method and the summaries of its runs, one for each seed.

    Returns:
        A heading and a table with one row for each method; ± is the sample deviation over the seeds.
    """
    table = plain_table()
    table.add_column("network", no_wrap=True)
    for heading in ("parameters", "MFLOPs", "accuracy, %", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, runs in rows:
        mean, deviation = mean_deviation([100 * run["accuracy"] for run in runs])
        spread = "" if deviation is None else f" ± {deviation:.2f}"
        took = f"{statistics.fmean(run['seconds'] for run in runs):.1f}"
        table.add_row(plain(name), count(runs[0]["parameters"]), flops(runs[0]["flops"]), f"{mean:.2f}{spread}", took)
    seeds = max(len(runs) for _, runs in rows)
    spread = f", mean ± deviation of {seeds} seeds" if seeds > 1 else ""
    accuracy = accuracy_name(run for _, runs in rows for run in runs).capitalize()
    return titled(f"{accuracy} after the last epoch{spread}; seconds of a run", table)


def recipes_table(
    recipes: Iterable[tuple[str, str]], *, heading: str = "recipe", what: str = "what it trains", narrow: bool = False
) -> Table:
    """List recipes, groups of them, or methods.

    Args:
        recipes: name and description of each.
        heading: what they are.
        what: the heading above their descriptions.
        narrow: whether long names are broken into lines, as the terminal has no room for them.

    Returns:
        One row for each recipe.
    """
    table = plain_table()
    table.add_column(heading, no_wrap=not narrow, overflow="fold", style="bold")
    table.add_column(what)
    for name, description in recipes:
        table.add_row(plain(name), description)
    return table


def cache_table(*, images: int, views: int, size: int, taken: int, duration: float) -> Table:
    """Show what is stored of a teacher.

    Args:
        images: how many.
        views: of each.
        size: bytes of all.
        taken: images that the teacher was run on, all views counted; 0 where all was there.
        duration: seconds that this took.
    """
    table = Table("", "", box=box.SIMPLE_HEAD, show_header=False)
    table.columns[1].justify = "right"
    table.add_row("training images", count(images))
    table.add_row("views of each", count(views))
    table.add_row("bytes an image and view", count(size / (images * views)))
    table.add_row("in all", file_size(size))
    if taken:
        table.add_row("time", seconds(duration))
        table.add_row("teacher's images/s", count(taken / max(duration, 1e-9)))
    else:
        table.add_row("time", "none: it was there")
    return table


def file_size(value: float) -> str:
    """Write a number of bytes as people read it: ``12.3 MB``."""
    unit, factor = next((one for one in (("GB", 1e9), ("MB", 1e6)) if value >= one[1]), ("kB", 1e3))
    return f"{value / factor:,.1f} {unit}"
