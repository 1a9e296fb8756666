"""A tracker behind a thread: whatever it does, the training neither waits for it nor ends with it."""

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from warnings import warn

from svdistill.atomic import write_atomically
from svdistill.errors import DataError, SvdistillWarning, one_line
from svdistill.plain import parse_json, read_text
from svdistill.records import finite
from svdistill.trackers.protocol import About, Known, Tracker

_OPEN_SECONDS = 30.0  # then the training begins, and the tracker may follow
_LONGEST = 200  # characters of a library's message


class BehindThread:
    """A tracker whose calls are made one after the other in a thread of its own.

    After the first that fails, no more are made, and one warning says so.

    Args:
        name: of the tracker.
        tracker: it, not yet opened.
        file: where it is kept which run of the tracker's this one is.
    """

    def __init__(self, name: str, tracker: Tracker, file: Path) -> None:
        self._name = name
        self._tracker = tracker
        self._file = file
        self._known: Known | None = None
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._trouble: str | None = None
        self._told = False
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"svdistill-{name}", daemon=True)

    def open(self, about: About, lines: Sequence[Mapping[str, Any]]) -> None:
        """Begin or resume the run; waits for it, but not for long.

        Args:
            about: the run.
            lines: of its metrics, of all epochs that are done; those that the tracker lacks are logged now.
        """
        self._calls.put(partial(self._open, about, lines))
        self._thread.start()

    def wait(self) -> None:
        """Wait until it is opened, and warn where it cannot be."""
        self._opened.wait(_OPEN_SECONDS)
        self._tell()

    def log(self, line: Mapping[str, Any]) -> None:
        """Log an epoch, without waiting for it.

        Args:
            line: of the metrics.
        """
        self._calls.put(partial(self._log, line))
        self._tell()

    def hand_in(self, summary: Mapping[str, Any], files: Sequence[Path], epoch: int) -> None:
        """Hand in what the run came to, without waiting for it."""
        figures = {f"summary/{name}": value for name, value in numbers(summary).items()}
        self._calls.put(partial(self._tracker.hand_in, figures, files, epoch))

    def close(self, *, failed: bool) -> None:
        """Close it, without waiting for it."""
        self._calls.put(partial(self._tracker.close, failed=failed))
        self._calls.put(None)

    def end(self, deadline: float) -> None:
        """Wait for all that is to be done, and warn where that takes too long.

        Args:
            deadline: until when, by ``time.monotonic``.
        """
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive() and self._trouble is None:
            self._trouble = "it does not answer"
        self._tell()

    def _work(self) -> None:
        try:
            while (call := self._calls.get()) is not None:
                call()
        except Exception as error:  # a library of others: anything may come
            self._trouble = one_line(error)[:_LONGEST] or type(error).__name__
        finally:
            self._opened.set()

    def _open(self, about: About, lines: Sequence[Mapping[str, Any]]) -> None:
        self._known = self._tracker.open(about, self._noted())
        self._note()
        self._opened.set()
        for line in lines:
            self._log(line)

    def _log(self, line: Mapping[str, Any]) -> None:
        assert self._known is not None
        if line["epoch"] <= self._known.epochs:  # it runs again, since a checkpoint was lost
            return
        self._tracker.log(numbers(line), line["epoch"])
        self._known = self._known._replace(epochs=line["epoch"])
        self._note()

    def _noted(self) -> Known | None:
        try:
            known = Known(**parse_json(read_text(self._file)))
        except FileNotFoundError:
            return None
        except (TypeError, ValueError) as error:
            raise DataError(f"{self._file} is damaged; remove it, and the run is logged as a new one") from error
        return known

    def _note(self) -> None:
        assert self._known is not None
        self._file.parent.mkdir(exist_ok=True)
        write_atomically(self._file, json.dumps(self._known._asdict()).encode())

    def _tell(self) -> None:
        if self._trouble is not None and not self._told:
            self._told = True
            text = (
                f"{self._name}: {self._trouble.rstrip('.')}; the run is no longer logged there, and otherwise the same"
            )
            warn(text, SvdistillWarning, stacklevel=2)


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Return what of a line of metrics, or of a summary, is a finite number."""
    known = {name: value for name, value in line.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in finite(known).items() if value is not None}
