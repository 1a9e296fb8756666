"""Tables of what a trained network predicts, and of how its export compares with it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from svdistill.report.tables import count, file_size, percent, plain, plain_table, titled

# Of the columns of a narrow terminal, how many a file's name gets at least.
_NAME = 30


def predictions_table(predictions: Iterable[Mapping[str, Any]]) -> Table:
    """Show what a network takes pictures for.

    Args:
        predictions: as ``Prediction.to_dict`` returns them; one with an ``error`` has a row that says so.

    Returns:
        One row a picture: the most probable class, how probable it is, and the next ones.
    """
    predictions = list(predictions)
    table = plain_table()
    longest = max((len(one["image"]) for one in predictions), default=0)
    table.add_column("image", overflow="fold", min_width=min(longest, _NAME))
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("next", overflow="fold")
    for one in predictions:
        if "error" in one:
            table.add_row(plain(one["image"]), plain("cannot be read", style="yellow"), "–", "")
            continue
        first, *others = one["classes"]
        following = ", ".join(f"{other['name']} {percent(other['probability'], digits=1)}" for other in others)
        probability = percent(first["probability"], digits=1)
        table.add_row(plain(one["image"]), plain(first["name"], style="bold"), probability, plain(following))
    return table


def export_table(export: Mapping[str, Any]) -> Group:
    """Put a trained network, its teacher and what it was exported to side by side.

    Args:
        export: as ``Export.to_dict`` returns it.

    Returns:
        A heading, one row for each network in each program, and what was found image by image.
    """
    table = plain_table()
    table.add_column("network", no_wrap=True)
    table.add_column("program", no_wrap=True)
    for heading in ("accuracy", "agrees", "size", "one image"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in export["networks"]:
        table.add_row(
            plain(one["network"]),
            one["runtime"],
            percent(one["accuracy"]),
            percent(one["agreement"]),
            file_size(one["bytes"]),
            f"{1e3 * one['seconds']:.2f} ms",
        )
    threads = export["threads"]
    time = f"time: median, {threads} thread{'' if threads == 1 else 's'}"
    title = f"On {count(export['images'])} images: {export['source']}; {time}"
    return Group(titled(title, table), *_lines(export))


def _taken_otherwise(title: str, images: Sequence[Mapping[str, Any]], number: int) -> Iterable[Text]:
    told = [f"{one['image']}: {one['after']} instead of {one['before']}, {one['margin']:.2g} apart" for one in images]
    if number > len(told):
        told.append(f"and {count(number - len(told))} more")
    for position, line in enumerate(told or ["no image"]):
        yield plain(f"{title if not position else '':<31}{line}")


def _lines(export: Mapping[str, Any]) -> Iterable[Text]:
    difference, logit = export["largest_difference"], export["largest_logit"]
    yield plain(f"largest difference of a logit  {difference:.2g}, where the largest is {logit:.3g}")
    exports = [one for one in export["networks"] if one["agreement"] is not None]
    listed = {"taken for another class": export["differing"], "taken otherwise in 8 bits": export["int8_differing"]}
    for one, (title, images) in zip(exports, listed.items(), strict=False):
        yield from _taken_otherwise(title, images, round(export["images"] * (1 - one["agreement"])))
    if export["teacher_left_out"] is not None:
        yield plain(f"the teacher is left out: {export['teacher_left_out']}", style="yellow")
