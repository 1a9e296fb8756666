"""What is seen of many runs at a time: live bars in a terminal, a few lines elsewhere; the tables follow each run."""

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
from svdistill.errors import DataError
from svdistill.report import comparison as report
from svdistill.report.tables import percent, seconds

if TYPE_CHECKING:
    from svdistill.sweep import Comparison, Member, Outcome, Task

PAUSE = 60.0  # seconds between two lines on how far all runs are, where there is no terminal


@dataclass
class Place:
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
        epoch = f"epoch {min(self.epochs, int(self.done) + 1)}/{self.epochs}"
        loss = "" if self.loss is None else f"  loss {self.loss:.3f}"
        return epoch + loss + ("" if self.accuracy is None else f"  {percent(self.accuracy, digits=1)}")


class CompareProgress:
    """Follows the runs of a comparison, writes its tables after each, and tells whoever watches.

    Args:
        comparison: what is trained.
        folder: where the tables are written.
        console: where to tell.
        pause: seconds between two lines on how far all runs are, where the console is no terminal.
    """

    def __init__(self, comparison: "Comparison", folder: Path, console: Console, *, pause: float = PAUSE) -> None:
        self._comparison, self._folder, self._console, self._pause = comparison, folder, console, pause
        self._members: dict[str, Member] = {member.key: member for member in comparison.members}
        self._places: dict[str, Place] = {}
        # A run counts for its epochs; those of a first stage are known once it begins.
        self._epochs = {key: self._length(one) for key, one in self._members.items() if one.state in ("new", "begun")}
        self._over: set[str] = set()
        self._began = self._told = time.monotonic()
        self._begun = False
        self._fresh = 0.0  # epochs that were trained since
        self._bars = self._all = None
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}", table_column=Column(no_wrap=True)),
                BarColumn(bar_width=min(30, max(6, console.width - 62))),
                TextColumn("{task.fields[state]}", table_column=Column(no_wrap=True)),
                console=console,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,  # whoever sends that elsewhere means it
            )
            self._all = self._bars.add_task("all runs", total=sum(self._epochs.values()) or 1, state="begins")

    @staticmethod
    def _length(member: "Member") -> int:
        return member.recipe.train.epochs + member.recipe.train.first_stage_epochs

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Write the tables as they are, and show the bars until the block ends; DataError where they cannot be."""
        try:
            report.write(self._comparison.record(), self._folder)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(
                f"cannot write to {self._folder} ({reason}); choose another folder with --output"
            ) from error
        found = sum(member.found for member in self._members.values())
        self._say(f"{len(self._members)} runs, {found} of them found finished; tables in {self._folder}")
        if self._bars is None:
            yield
            return
        with self._bars:
            yield

    def started(self, task: "Task", *, epochs: int, steps: int, done_epochs: int) -> None:
        """Show a bar of its own."""
        title = self._members[task.key].title
        if not self._begun:
            self._begun, self._began = True, time.monotonic()
        place = self._places[task.key] = Place(title, epochs, steps, float(done_epochs))
        self._epochs[task.key] = epochs
        again = f", goes on after epoch {done_epochs}" if done_epochs else ""
        if self._bars is None:
            self._say(f"{title}: begins{again}, {epochs} × {steps} steps")
        else:
            place.bar = self._bars.add_task(title, total=epochs, completed=done_epochs, state="")
        self._show(place)

    def moved(self, task: "Task", *, done_steps: int, loss: float) -> None:
        """Move its bar."""
        place = self._places[task.key]
        done = done_steps / max(1, place.steps)
        self._fresh += max(0.0, done - place.done)
        place.done, place.loss = max(done, place.done), loss
        self._show(place)

    def measured(self, task: "Task", metrics: Mapping[str, Any]) -> None:
        """Show the accuracy, where there is a new one."""
        place = self._places[task.key]
        self._fresh += max(0.0, metrics["epoch"] - place.done)
        place.done = max(place.done, float(metrics["epoch"]))
        place.accuracy = metrics.get("accuracy", place.accuracy)
        self._show(place)

    def ended(self, task: "Task", outcome: "Outcome") -> None:
        """Write the tables, and leave a line."""
        self._over.add(task.key)
        try:
            report.write(self._comparison.record(), self._folder)
        except OSError as error:  # a full disk may have room again later; hours of training are worth more
            self._say(f"cannot write the tables to {self._folder} ({error.strerror or error})", style="yellow")
        place, member = self._places.pop(task.key, None), self._members[task.key]
        if self._bars is not None and place is not None and place.bar is not None:
            self._bars.remove_task(place.bar)
        number = f"{len(self._over):{len(str(len(self._epochs)))}}/{len(self._epochs)}"
        if outcome.error is not None:
            self._say(f"{number}  {member.title}: failed: {outcome.error}", style="red")
        elif member.summary is not None:
            summary = member.summary
            self._say(f"{number}  {member.title}: {percent(summary['accuracy'])} in {seconds(summary['seconds'])}")
        self._show(None)

    def waiting(self, task: "Task") -> None:
        """Tell what is put off."""
        self._say(f"{self._members[task.key].title}: another process is training it; put off until that ends")

    def warned(self, task: "Task", text: str) -> None:
        """Pass the warning on."""
        self._say(f"{self._members[task.key].title}: warning: {text}", style="yellow")

    def _show(self, place: Place | None) -> None:
        done = sum(self._epochs[key] for key in self._over) + sum(place.done for place in self._places.values())
        total = sum(self._epochs.values())
        state = f"{len(self._over)}/{len(self._epochs)} runs"
        if self._fresh > 1:
            left = (time.monotonic() - self._began) / self._fresh * max(0.0, total - done)
            state += f"  about {seconds(left)} left" if done < total else ""
        if self._bars is not None and self._all is not None:
            self._bars.update(self._all, total=total or 1, completed=done, state=state)
            if place is not None and place.bar is not None:
                self._bars.update(place.bar, completed=place.done, state=place.text)
        elif time.monotonic() - self._told >= self._pause:
            running = "; ".join(f"{place.title}: {place.text}" for place in self._places.values())
            self._say(f"{state}; {running}" if running else state)

    def _say(self, text: str, *, style: str = "dim") -> None:
        self._told = time.monotonic()
        console = self._console if self._bars is None else self._bars.console
        console.print(f"[{style}]{escape(text)}[/{style}]", soft_wrap=True)


@contextmanager
def watch(comparison: "Comparison", folder: Path) -> Iterator[CompareProgress]:
    """Follow a comparison until the block ends; see ``CompareProgress``."""
    crowd = CompareProgress(comparison, folder, notes())
    with crowd.shown():
        yield crowd
