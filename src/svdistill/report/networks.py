"""Tables of the networks: what each costs, and what comes out at its taps."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from svdistill.report.tables import flops

if TYPE_CHECKING:
    from svdistill.nets import Entry, Tap


def networks_table(entries: Iterable["Entry"]) -> Group:
    """Show what each network costs, with what its paper prints beside it.

    Args:
        entries: as ``nets.survey`` yields them.

    Returns:
        A table no wider than 80 columns; below it, where the printed figures are from and why some differ.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("network", no_wrap=True)
    entries = list(entries)
    # At sizes and widths that no paper prints, the columns for it would be empty.
    any_printed = any(entry.published is not None for entry in entries)
    as_printed = ("as\nprinted",) if any_printed else ()
    for heading in ("million\nparameters", *as_printed, "MFLOPs", *as_printed):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("taps", no_wrap=True)
    deeper: list[str] = []
    sources: dict[str, list[str]] = {}
    notes: dict[str, list[str]] = {}
    for entry in entries:
        printed = entry.published
        parameters = [f"{entry.parameters / 1e6:.3f}", "" if printed is None else f"{printed.parameters:g}"]
        cost = [flops(entry.flops), "" if printed is None or printed.mflops is None else f"{printed.mflops:g}"]
        shown = (*parameters, *cost) if any_printed else (parameters[0], cost[0])
        # The column has no room for the name of a tap within the classifier.
        maps = [tap for tap in entry.taps if not tap.startswith("classifier.")]
        deeper += [entry.name] if len(maps) < len(entry.taps) else []
        table.add_row(entry.name, *shown, short_taps(maps))
        if printed is not None:
            sources.setdefault(printed.source, []).append(entry.name)
            if printed.note:
                notes.setdefault(printed.note, []).append(entry.name)
    lines: list[RenderableType] = [table]
    if deeper:
        which = "" if len(deeper) == len(entries) else f": {', '.join(deeper)}"
        lines.append(Text(f"taps: and the last hidden features, which the output layer reads{which}", style="dim"))
    for source, found in sources.items():
        lines.append(Text(f"as printed by {source}: {', '.join(found)}", style="dim"))
    lines += [Text(f"{', '.join(found)}: {note}", style="dim") for note, found in notes.items()]
    return Group(*lines)


def taps_table(name: str, taps: Iterable["Tap"]) -> Group:
    """Show the maps that come out at the taps of a network.

    Args:
        name: of the network.
        taps: as ``nets.tap_shapes`` returns them.

    Returns:
        A heading and a table: each tap, its map C × H × W or its vector D, and the matrix N × D that it becomes.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("tap", no_wrap=True)
    table.add_column("channels × height × width", justify="right")
    table.add_column("positions × channels", justify="right")
    for tap in taps:
        channels, *size = tap.shape
        table.add_row(tap.name, " × ".join(map(str, tap.shape)), f"{math.prod(size)} × {channels}")
    return Group(Text(f"taps of {name}", style="bold"), table)


def short_taps(names: Sequence[str]) -> str:
    """Write names that differ only in a number that counts up as a range: ``stem, stage1–3``."""
    runs: list[tuple[str, list[int]]] = []
    for name in names:
        stem, number = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]
        if number and runs and runs[-1][0] == stem and runs[-1][1] and runs[-1][1][-1] + 1 == int(number):
            runs[-1][1].append(int(number))
        else:
            runs.append((stem, [int(number)] if number else []))
    return ", ".join(
        stem + (f"{numbers[0]}–{numbers[-1]}" if len(numbers) > 1 else "".join(map(str, numbers)))
        for stem, numbers in runs
    )
