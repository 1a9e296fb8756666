"""The progress of many runs: live bars in a terminal, a few lines elsewhere; the tables are updated after each run."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from svdistill.cli.console import notes
from svdistill.cli.progress import NARROW, shortened
from svdistill.errors import DataError
from svdistill.names import printable
from svdistill.report import comparison as report
from svdistill.report.tables import measured, percent, seconds

if TYPE_CHECKING:
    from svdistill.sweep import Comparison, Member, Outcome, Task

_BRIEF = 22  # columns for the epoch and the accuracy of a run
_FEW_STEPS = 10  # of which one cannot tell how long the others will take
PAUSE = 60.0  # seconds between two lines on the progress of all runs, where there is no terminal


@dataclass
class RunProgress:
    """How far a run is."""

    title: str
    epochs: int
    steps: int
    done: float = 0.0
    loss: float | None = None
    accuracy: float | None = None
    bar: TaskID | None = None

    @property
    def text(self) -> str:
        """Epoch, loss and accuracy."""
        loss = "" if self.loss is None else f"  loss {self.loss:.3f}"
        return self._epoch + loss + self._accuracy

    @property
    def brief(self) -> str:
        """Epoch and accuracy."""
        return self._epoch + self._accuracy

    @property
    def _epoch(self) -> str:
        return f"epoch {min(self.epochs, int(self.done) + 1)}/{self.epochs}"

    @property
    def _accuracy(self) -> str:
        return "" if self.accuracy is None else f"  {percent(self.accuracy, digits=1)}"


class CompareProgress:
    """An observer that shows the progress of a comparison and writes its tables after each run.

    Args:
        comparison: what is trained.
        folder: where the tables are written.
        console: where the progress is shown.
        option: of the command, that names the folder.
        pause: seconds between two lines on the progress of all runs, where the console is not a terminal.
    """

    def __init__(
        self,
        comparison: "Comparison",
        folder: Path,
        console: Console,
        *,
        option: str = "--output",
        pause: float = PAUSE,
    ) -> None:
        self._comparison, self._folder, self._console = comparison, folder, console
        self._option, self._pause = option, pause
        self._members: dict[str, Member] = {member.key: member for member in comparison.members}
        self._running: dict[str, RunProgress] = {}
        wanted = {key: one.recipe for key, one in self._members.items() if one.state in ("new", "begun")}
        self._epochs = {key: recipe.train.all_epochs for key, recipe in wanted.items()}
        # A run counts for its steps: a teacher's epoch may be a thousand times as long as a student's of few labels.
        self._steps = {
            key: max(1, int(recipe.data.train_size * (1 - (recipe.data.validation or 0))) // recipe.train.batch_size)
            for key, recipe in wanted.items()
            if recipe.data.train_size is not None
        }
        self._over: set[str] = set()
        self._began = self._told = time.monotonic()
        self._started = False
        self._trained = 0.0  # steps, in all runs, since the first one started
        self._bars = self._all = None
        self._narrow = console.width < NARROW
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
                *(() if self._narrow else (BarColumn(bar_width=min(30, max(6, console.width - 62))),)),
                TextColumn("{task.fields[state]}", table_column=Column(no_wrap=True)),
                console=console,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,  # it may have been redirected on purpose
            )
            self._all = self._bars.add_task("all runs", total=sum(self._epochs.values()) or 1, state="starting")

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Write the tables, DataError where that fails, and show the bars until the block ends."""
        try:
            report.write(self._comparison.record(), self._folder)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(
                f"cannot write to {self._folder} ({reason}); choose another folder with {self._option}"
            ) from error
        found = sum(member.found for member in self._members.values())
        self._say(f"{len(self._members)} runs, {found} of them found finished; tables in {self._folder}")
        if self._bars is None:
            yield
            return
        with self._bars:
            yield

    def started(self, task: "Task", *, epochs: int, steps: int, done_epochs: int) -> None:
        """Show a bar for the run."""
        title = self._members[task.key].title
        self._remove_bar(self._running.get(task.key))  # of an attempt before
        if not self._started:
            self._started, self._began = True, time.monotonic()
        run = self._running[task.key] = RunProgress(title, epochs, steps, float(done_epochs))
        self._epochs[task.key] = epochs
        # Of runs of the same images and batches it is known, too, how long they are.
        images = self._images(task.key)
        self._steps |= {key: max(1, steps) for key in self._epochs if self._images(key) == images}
        if self._bars is None:
            starts = f"resumes after epoch {done_epochs}" if done_epochs else "starts"
            self._say(f"{title}: {starts}, {epochs} × {steps} steps")
        else:
            shown = shortened(printable(title), self._console.width - _BRIEF) if self._narrow else printable(title)
            run.bar = self._bars.add_task(shown, total=epochs, completed=done_epochs, state="")
        self._show(run)

    def stepped(self, task: "Task", *, done_steps: int, loss: float) -> None:
        """Move its bar."""
        run = self._running[task.key]
        self._proceed(run, done_steps / max(1, run.steps))
        run.loss = loss
        self._show(run)

    def measured(self, task: "Task", metrics: Mapping[str, Any]) -> None:
        """Show the accuracy, where there is a new one."""
        run = self._running[task.key]
        self._proceed(run, float(metrics["epoch"]))
        if (found := measured(metrics)) is not None:
            run.accuracy = found[1]
        self._show(run)

    def ended(self, task: "Task", outcome: "Outcome") -> None:
        """Write the tables, and print a line."""
        self._over.add(task.key)
        try:
            report.write(self._comparison.record(), self._folder)
        except OSError as error:  # a full disk may have room again later; hours of training are worth more
            self._say(f"cannot write the tables to {self._folder} ({error.strerror or error})", style="yellow")
        run, member = self._running.pop(task.key, None), self._members[task.key]
        self._remove_bar(run)
        number = f"{len(self._over):{len(str(len(self._epochs)))}}/{len(self._epochs)}"
        if outcome.error is not None:
            self._say(f"{number}  {member.title}: failed: {outcome.error}", style="red")
        elif member.summary is not None:
            summary = member.summary
            self._say(f"{number}  {member.title}: {percent(summary['accuracy'])} in {seconds(summary['seconds'])}")
        self._show(None)

    def postponed(self, task: "Task") -> None:
        """Print which run is put off, and why."""
        self._say(f"{self._members[task.key].title}: another process is training it; put off until that ends")

    def crowded(self, task: "Task", *, runs: int, need: int) -> None:
        """Print how many runs there is memory for."""
        side = "1 run at a time" if runs == 1 else f"{runs} runs side by side"
        self._say(f"the GPU's memory holds {side} (each needs {need / 1e9:.1f} GB); the others wait their turn")

    def warned(self, task: "Task", text: str) -> None:
        """Print the warning."""
        self._say(f"{self._members[task.key].title}: warning: {text}", style="yellow")

    def _remove_bar(self, run: RunProgress | None) -> None:
        if self._bars is not None and run is not None and run.bar is not None:
            self._bars.remove_task(run.bar)

    def _images(self, key: str) -> tuple[object, ...]:
        data = self._members[key].recipe.data
        parts = data.train_size, data.held_out, data.validation
        return data.name, data.root, data.classes, data.task, *parts, self._members[key].recipe.train.batch_size

    def _proceed(self, run: RunProgress, epochs: float) -> None:
        self._trained += max(0.0, epochs - run.done) * run.steps
        run.done = max(run.done, epochs)

    def _show(self, run: RunProgress | None) -> None:
        usual = max(self._steps.values(), default=1)  # of those whose images have not been counted
        lengths = {key: epochs * self._steps.get(key, usual) for key, epochs in self._epochs.items()}
        done = sum(lengths[key] for key in self._over) + sum(one.done * one.steps for one in self._running.values())
        total = sum(lengths.values())
        state = f"{len(self._over)}/{len(self._epochs)}" + ("" if self._narrow else " runs")
        if self._trained > _FEW_STEPS and len(self._steps) == len(self._epochs):
            left = (time.monotonic() - self._began) / self._trained * max(0.0, total - done)
            about = "" if self._narrow else "about "
            state += f"  {about}{seconds(left)} left" if done < total else ""
        if self._bars is not None and self._all is not None:
            self._bars.update(self._all, total=total or 1, completed=done, state=state)
            if run is not None and run.bar is not None:
                self._bars.update(run.bar, completed=run.done, state=run.brief if self._narrow else run.text)
        elif time.monotonic() - self._told >= self._pause:
            running = "; ".join(f"{one.title}: {one.text}" for one in self._running.values())
            self._say(f"{state}; {running}" if running else state)

    def _say(self, text: str, *, style: str = "dim") -> None:
        self._told = time.monotonic()
        console = self._console if self._bars is None else self._bars.console
        console.print(f"[{style}]{escape(printable(text))}[/{style}]", soft_wrap=True)


@contextmanager
def watch(comparison: "Comparison", folder: Path, *, option: str = "--output") -> Iterator[CompareProgress]:
    """Show the progress of a comparison until the block ends; see ``CompareProgress``."""
    progress = CompareProgress(comparison, folder, notes(), option=option)
    with progress.shown():
        yield progress
