"""One progress bar for what takes a while before training: on a terminal, and nothing elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal


@contextmanager
def progress_bar(
    title: str, *, total: int, unit: Literal["bytes", "images"], wanted: bool = True
) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error, where that is a terminal; it disappears at the end.

    Args:
        title: what stands before the bar.
        total: the amount of work.
        unit: what the amount is counted in.
        wanted: False shows nothing, on a terminal either.

    Yields:
        A function that takes the amount that is done by now.
    """
    if not wanted or not sys.stderr.isatty():
        yield _show_nothing
        return
    from rich import progress  # late: most programs show no bar
    from rich.console import Console

    amount = (
        (progress.DownloadColumn(), progress.TransferSpeedColumn())
        if unit == "bytes"
        else (progress.MofNCompleteColumn(), progress.TextColumn(unit))
    )
    columns = progress.TextColumn("{task.description}", markup=False), progress.BarColumn(), *amount
    with progress.Progress(
        *columns,
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        # Processes that are forked meanwhile would inherit it, and with it a lock that may be held.
        redirect_stdout=False,
        redirect_stderr=False,
    ) as shown:
        task = shown.add_task(title, total=total)
        yield lambda done: shown.update(task, completed=done)


def _show_nothing(done: int) -> None:
    pass
