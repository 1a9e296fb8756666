"""Tables of the networks: what each costs, and what comes out at its taps."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from svdistill.names import printable
from svdistill.report.tables import flops, percent, plain, plain_table, titled

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


_MOST_VECTORS = 64  # so many singular values of a map are looked at
# How the output of a submodule lies, by its layout and the number of its dimensions for one image.
_LAYOUTS = {
    ("channels_first", 3): "B C H W",
    ("channels_last", 3): "B H W C",
    ("channels_first", 2): "B C T",
    ("channels_last", 2): "B N D",
    (None, 1): "B D",
}


def places_table(found: Mapping[str, Any], *, everything: bool = False) -> Group:
    """Show the places of a network, and which of them are suggested as taps.

    Args:
        found: one of the networks of ``jobs.taps.find_taps``.
        everything: also those inside of blocks, and why some cannot be tapped.
    """
    rows = [place for place in found["places"] if everything or place["shown"]]
    ranked = any("rank" in place for place in rows)
    table = plain_table()
    table.add_column("place", overflow="fold")
    table.add_column("map", justify="right", no_wrap=True)
    table.add_column("given as", no_wrap=True)
    for name in ("stage", "FLOPs done", *(("vectors",) if ranked else ())):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for place in rows:
        style = "bold" if place["tap"] else ""
        rank = (_rank(place.get("rank")),) if ranked else ()
        table.add_row(
            plain(place["name"], style=style),
            _size(place["shape"]),
            _LAYOUTS.get((place["layout"], len(place["shape"])), ""),
            "" if place["stage"] is None or place["obstacle"] else str(place["stage"]),
            percent(place["share"], digits=0),
            *rank,
            plain("tap" if place["tap"] else place["obstacle"], style=style or "dim"),
        )
    size = _size(found["image"])
    return Group(titled(f"places of {printable(found['model'])}, images {size}", table), *_notes(found, ranked=ranked))


def pairs_table(found: Sequence[Mapping[str, Any]]) -> Group:
    """Show the taps of two networks side by side, as they are compared.

    Args:
        found: the two networks of ``jobs.taps.find_taps``, the student first.
    """
    ranked = any("rank" in place for network in found for place in network["places"])
    table = plain_table()
    for who in ("student", "teacher"):
        table.add_column(who, overflow="fold")
        table.add_column("map", justify="right", no_wrap=True)
        table.add_column("done", justify="right", no_wrap=True)
        if ranked:
            table.add_column("vectors", justify="right", no_wrap=True)
    sides = [{place["name"]: place for place in network["places"]} for network in found]
    for names in zip(*(network["taps"] for network in found), strict=True):
        cells: list[str | Text] = []
        for name, side in zip(names, sides, strict=True):
            place = side[name]
            cells += [plain(name), _size(place["shape"]), percent(place["share"], digits=0)]
            cells += [_rank(place.get("rank"))] if ranked else []
        table.add_row(*cells)
    student, teacher = (f"{printable(network['model'])} ({_size(network['image'])})" for network in found)
    return Group(titled(f"{student} and its teacher {teacher}", table), *_notes(*found, ranked=ranked))


def _notes(*networks: Mapping[str, Any], ranked: bool) -> list[Text]:
    notes = ["vectors: singular vectors that hold 90 % of a map's energy, on average over images"] if ranked else []
    for found in networks:
        name = printable(found["model"])
        if found["drop_tokens"]:
            tokens = "1 token" if found["drop_tokens"] == 1 else f"{found['drop_tokens']} tokens"
            notes.append(f"{name}: {tokens} in front of each (B, N, D) map, not a position in the image, to be dropped")
        if ranked and not found["trained"]:
            notes.append(f"{name} has fresh weights; once trained it needs other numbers of vectors")
    return [Text(note, style="dim") for note in notes]


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _rank(rank: int | None) -> str:
    return "" if rank is None else f"{rank}" if rank <= _MOST_VECTORS else f"> {_MOST_VECTORS}"


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
