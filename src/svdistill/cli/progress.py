"""The progress of a run: a live bar in a terminal, a few lines elsewhere."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from svdistill.cli.console import note, notes
from svdistill.names import printable
from svdistill.ranks import find_ranks
from svdistill.report.tables import measured, percent, plural, seconds

if TYPE_CHECKING:
    from svdistill.jobs import Run
    from svdistill.recipes import Recipe
    from svdistill.training.progress import Progress as RunProgress


class Rate:
    """Images a second and the time that is left, from what has been done since the run started or resumed."""

    def __init__(self) -> None:
        self.images = 0
        self.steps = 0
        self._began = time.monotonic()

    def start(self) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def add(self, images: int) -> None:
        """Count a step; one without images was done before an interruption and says nothing about speed."""
        if images:
            self.images += images
            self.steps += 1

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    @property
    def images_per_second(self) -> float:
        """Images that were trained on in a second, evaluations included in the time."""
        return self.images / max(self.elapsed, 1e-9)

    def left(self, steps: int) -> float | None:
        """Seconds that this number of further steps will take; None while nothing is known."""
        return self.elapsed / self.steps * steps if self.steps > 1 else None


NARROW = 60  # columns of a terminal that have no room for a bar beside a title and numbers


def shortened(title: str, room: int) -> str:
    """Return a title that fits, without its beginning where it is too long: what tells runs apart comes last."""
    return title if len(title) <= room else "…" + title[-max(1, room - 1) :]


class TwoLines(Progress):
    """A bar with a line of figures below it while it moves; narrow terminals have no room for both in one line."""

    figures = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bar, then the figures."""
        yield self.make_tasks_table(self.tasks)
        if self.figures:
            yield Text("  " + self.figures, style="dim", no_wrap=True, overflow="ellipsis")


class Bar:
    """A live bar of one run, for terminals; at the end its line stays, with the last accuracy and the time."""

    def __init__(self, title: str, console: Console) -> None:
        self._rate = Rate()
        self._total = self._done = self._steps = self._epochs = 0
        self._loss = math.nan
        self._measured: tuple[str, float] | None = None
        self._last = 0.0
        self._task: TaskID | None = None
        self._width = console.width
        narrow = self._width < NARROW
        # Titles of equal length keep the lines of several runs in columns.
        self._title = shortened(printable(title), self._width - 19) if narrow else f"{printable(title):<25}"
        self._progress = TwoLines(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            *(() if narrow else (BarColumn(bar_width=min(40, max(8, console.width - 60))),)),
            TextColumn("{task.fields[state]}", table_column=Column(no_wrap=True)),
            console=console,
            refresh_per_second=5,
        )

    def start(self, epochs: int, steps: int, done_epochs: int) -> None:
        """Show the bar."""
        self._epochs, self._steps = epochs, steps
        self._total, self._done = epochs * steps, done_epochs * steps
        self._task = self._progress.add_task(self._title, total=self._total, completed=self._done, state="")
        self._progress.start()
        self._rate.start()

    def step(self, *, loss: float, images: int) -> None:
        """Move the bar, at most ten times a second."""
        self._done += 1
        self._loss = loss
        self._rate.add(images)
        if time.monotonic() - self._last > 0.1:
            self._show()

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Show the new accuracy."""
        self._measured = measured(metrics) or self._measured
        self._show()

    def finish(self) -> None:
        """Leave one line, with the result of the run."""
        self._progress.figures = ""
        if self._task is not None:
            end = "stopped"
            if self._done >= self._total and self._measured is not None:
                name, value = self._measured
                told = name.removesuffix("accuracy")  # nothing where it is the accuracy itself
                end = f"{told}{percent(value)}  {seconds(self._rate.elapsed)}"
            self._progress.update(self._task, completed=self._done, state=end)
        self._progress.stop()

    def _show(self) -> None:
        self._last = time.monotonic()
        if self._task is None:
            return
        figures = {} if math.isnan(self._loss) else {"loss": f"loss {self._loss:.3f}"}
        if self._measured is not None:
            name, value = self._measured
            figures["accuracy"] = f"{name} {percent(value, digits=1)}"
        figures["rate"] = f"{self._rate.images_per_second:,.0f} images/s"
        left = self._rate.left(self._total - self._done)
        if left is not None:
            figures["left"] = f"{seconds(left)} left"
        self._progress.figures = self._fitting(figures)
        state = f"epoch {min(self._epochs, self._done // max(1, self._steps) + 1)}/{self._epochs}"
        self._progress.update(self._task, completed=self._done, state=state)

    def _fitting(self, figures: Mapping[str, str]) -> str:
        """Join figures in one line; where there is no room for all, some are left out, and none is cut."""
        there = dict(figures)
        for least in ("rate", "loss", "accuracy"):
            if len(", ".join(there.values())) + 2 > self._width:
                there.pop(least, None)
        return ", ".join(there.values())


class Lines:
    """A line at the start, at most every tenth of a run and every ten seconds, and at its end, for logs and pipes."""

    def __init__(self, title: str, console: Console, *, pause: float = 10.0) -> None:
        self._title = title
        self._console = console
        self._pause = pause
        self._last = 0.0
        self._rate = Rate()
        self._epochs = self._steps = 0

    def start(self, epochs: int, steps: int, done_epochs: int) -> None:
        """Print how long the run is, and where it resumes."""
        self._epochs, self._steps = epochs, steps
        self._rate.start()
        again = f", resumes after epoch {done_epochs}" if done_epochs else ""
        self._write(f"{plural(epochs, 'epoch')} of {plural(steps, 'step')}{again}")

    def step(self, *, loss: float, images: int) -> None:
        """Count."""
        self._rate.add(images)

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Print a line on the last epoch, and on one before it where it is time."""
        epoch = metrics["epoch"]
        soon = epoch % max(1, self._epochs // 10) or time.monotonic() - self._last < self._pause
        if epoch != self._epochs and soon:
            return
        left = self._rate.left((self._epochs - epoch) * self._steps)
        figures = [f"epoch {epoch}/{self._epochs}", f"loss {metrics['loss']:.3f}"]
        if (found := measured(metrics)) is not None:
            figures.append(f"{found[0]} {percent(found[1])}")
        figures.append(f"{self._rate.images_per_second:,.0f} images/s")
        figures += [f"{seconds(left)} left"] if left else []
        self._write("  ".join(figures))

    def finish(self) -> None:
        """Do nothing: the last epoch has its line."""

    def _write(self, text: str) -> None:
        self._last = time.monotonic()
        self._console.print(printable(f"{self._title}: {text}"), markup=False, soft_wrap=True)


class Reporter:
    """Callbacks that show on the screen which runs a job makes, reuses and waits for."""

    def __init__(self) -> None:
        self._known: set[Path] = set()
        self._told = False

    def training(self, recipe: "Recipe", run: "Run") -> "RunProgress":
        """Show a bar in a terminal, lines elsewhere."""
        ranks = find_ranks()
        if ranks.world > 1 and not self._told:
            self._told = True
            on = f" on {ranks.machines} machines" if ranks.machines > 1 else ""
            note(f"{ranks.world} processes{on} work on every batch together")
        self._known.add(run.path)
        console = notes()
        title = f"{recipe.name} seed {recipe.seed}"
        return Bar(title, console) if console.is_terminal else Lines(title, console)

    def taps(self, recipe: "Recipe", pairs: Sequence[tuple[str, str]]) -> None:
        """Print in one line which taps were suggested."""
        which = ", ".join(f"{ours} – {theirs}" for ours, theirs in pairs)
        note(f"{recipe.name} seed {recipe.seed}: taps of student and teacher, as none were named: {which}")

    def left_out(self, recipe: "Recipe", taps: Mapping[str, Sequence[str]]) -> None:
        """Print in one line which taps are not compared, and why."""
        which = "; ".join(f"{name} leaves out {', '.join(names)}" for name, names in taps.items())
        note(f"{recipe.name} seed {recipe.seed}: {which}, a single position with nothing to compare")

    def found(self, recipe: "Recipe", run: "Run") -> None:
        """Print which finished run is reused, once; one that was trained just now is not mentioned."""
        if run.path in self._known:
            return
        self._known.add(run.path)
        note(f"{recipe.name} seed {recipe.seed}: found in {run.path}")

    def waiting(self, recipe: "Recipe", run: "Run") -> None:
        """Print which run is waited for."""
        note(f"{recipe.name} seed {recipe.seed}: another process is training it in {run.path}; waiting for its end")

    def moved(self, old: Path, new: Path) -> None:
        """Print where the earlier run is now."""
        note(f"the earlier run is kept in {new}")

    @contextmanager
    def storing(self, recipe: "Recipe", images: int) -> "Iterator[Callable[[int], None]]":
        """Show a bar in a terminal; elsewhere a line at the start."""
        console = notes()
        title = printable(f"{recipe.name}: running the teacher once")
        if not console.is_terminal:
            console.print(f"{title} over {images:,} images, all views counted", markup=False, soft_wrap=True)
            yield lambda _: None
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=min(40, max(8, console.width - 60))),
        )
        with Progress(*columns, MofNCompleteColumn(), TimeRemainingColumn(), console=console) as progress:
            task = progress.add_task(title, total=images)
            yield lambda done: progress.advance(task, done)

    def stored(self, folder: Path) -> None:
        """Print where it is."""
        note(f"what is stored of the teacher: found in {folder}")

    def awaiting(self, folder: Path) -> None:
        """Print which folder is waited for."""
        note(f"another process is running the teacher for {folder}; waiting for its end")
