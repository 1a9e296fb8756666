"""Tables on narrow terminals: no number is ever cut, and words are broken, not lost."""

import re
from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group, RenderableType, RenderHook
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

_WORDS = 14  # columns that a cell of words needs, where it has as many
_WIDE = 10_000
_BELOW = ((), ("[",), ("[", "±"))  # what may stand below a number: nothing, its interval, its deviation too


class Fitting(RenderHook):
    """Lets a console show tables that are too wide for it as cards, one a row."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Return what is printed, with its tables fitted."""
        return [_fitted(one) for one in renderables]


def _fitted(shown: RenderableType) -> ConsoleRenderable:
    if isinstance(shown, Table) and shown.box is not None:
        return FittedTable(shown)
    if isinstance(shown, Group):
        return Group(*map(_fitted, shown.renderables))
    return Text(shown) if isinstance(shown, str) else shown  # type: ignore[return-value]


class FittedTable:
    """A table where there is room for its numbers, in one line or with intervals and deviations below; otherwise cards.

    What room is left goes to words, and a path that has not enough is broken after a slash.

    Args:
        table: its columns that are to the right, or are not to be wrapped, are never cut.
    """

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield the table or the cards."""
        table = self._table
        for below in _BELOW:
            needs = [_need(column, console, below=below) for column in table.columns]
            left = options.max_width - _around(table) - sum(needs)
            if left >= 0:
                for column, need in zip(table.columns, needs, strict=True):
                    more = 0 if _is_whole(column) else min(left, max(0, _widest(column, console) - need))
                    left -= more
                    _make_room(column, need + more, below=below)
                yield table
                return
        yield from _cards(table, options.max_width)


def _need(column: Column, console: Console, *, below: Sequence[str]) -> int:
    """Return how wide a column must be; ``below``: what of a number may stand below it."""
    cells = [_width(_cell(column, cell, below=below), console) for cell in column.cells]
    heading = _width(column.header, console).minimum
    natural = max((cell.maximum for cell in cells), default=0)
    if not _is_whole(column):
        natural = min(natural, max(_WORDS, 0 if column.overflow == "fold" else _longest(cells)))
    return max(heading, natural)


def _widest(column: Column, console: Console) -> int:
    return max((_width(cell, console).maximum for cell in column.cells), default=0)


def _longest(cells: list[Measurement]) -> int:
    return max((cell.minimum for cell in cells), default=0)


def _is_whole(column: Column) -> bool:
    return column.justify == "right" or column.no_wrap


def _width(cell: RenderableType, console: Console) -> Measurement:
    return Measurement.get(console, console.options.update(width=_WIDE), cell)


def _around(table: Table) -> int:
    """Return how many columns of the terminal a table needs beside its cells."""
    _, right, _, left = table.padding
    edges = (2 if table.show_edge else 0) - (0 if table.pad_edge else left + right)
    return (left + right + 1) * len(table.columns) - 1 + edges


def _cell(column: Column, cell: RenderableType, *, below: Sequence[str]) -> RenderableType:
    if not below or column.justify != "right" or not isinstance(cell, Text | str):
        return cell
    text = cell.plain if isinstance(cell, Text) else cell
    for part in below:
        text = text.replace(f" {part}", f"\n{part}")
    return Text(text, style=cell.style) if isinstance(cell, Text) else text


def _make_room(column: Column, width: int, *, below: Sequence[str]) -> None:
    column.min_width = width
    cells = [_cell(column, cell, below=below) for cell in column._cells]
    if _is_whole(column):
        column.no_wrap = False  # the cells have room, and the heading may be wrapped
    else:
        cells = [_broken(cell, width) for cell in cells]
    column._cells = cells


def _broken(cell: RenderableType, width: int) -> RenderableType:
    """Break a path that is too long after a slash, where it has one early enough, so that no name is cut in two."""
    if not isinstance(cell, Text) or cell.cell_len <= width or "/" not in cell.plain or " " in cell.plain:
        return cell
    lines = [""]
    for part in re.findall("[^/]*/|[^/]+", cell.plain):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return Text("\n".join(lines), style=cell.style, overflow="fold")


def _cards(table: Table, width: int) -> Iterator[RenderableType]:
    """Yield each row as a heading, its first cell, and a line for each other cell, with the heading of its column."""
    names = [" ".join(str(column.header).split()) if table.show_header else "" for column in table.columns]
    for row, cells in zip(table.rows, zip(*(column.cells for column in table.columns), strict=True), strict=True):
        first, *others = (cell if isinstance(cell, Text) else Text.from_markup(str(cell)) for cell in cells)
        yield Text(first.plain, style=row.style or first.style or "bold", overflow="fold")
        for name, cell in zip(names[1:], others, strict=True):
            line = Text.assemble((f"{name}  " if name else "", "dim"), cell)
            if not cell.plain:
                continue
            if name and line.cell_len + 2 > width:
                yield Padding(Text(name, style="dim"), (0, 0, 0, 2), expand=False)
                yield Padding(Text.assemble(cell, overflow="fold"), (0, 0, 0, 4), expand=False)
            else:
                yield Padding(Text.assemble(line, overflow="fold"), (0, 0, 0, 2), expand=False)
    yield Text("")
