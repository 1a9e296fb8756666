"""The table of the data sets."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from svdistill.data import Description


def datasets_table(descriptions: Iterable["Description"]) -> Table:
    """Return a table of the data sets: what they are, how large, and whether they are here.

    Args:
        descriptions: what `svdistill.data.describe` says of each.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("data set", "images", "classes", "train", "test", "download", "here"):
        right = title in ("classes", "train", "test", "download")
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    for known in descriptions:
        table.add_row(
            known.name,
            "any" if known.shape is None else "×".join(map(str, known.shape)),
            *("any" if number is None else f"{number:,}" for number in (known.classes, known.train, known.test)),
            f"{known.size / 1e6:.0f} MB" if known.size else "–",
            "yes" if known.available else "no" if known.size else "–",
        )
    return table
