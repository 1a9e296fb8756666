"""What a part has measured so far, on disk after each case, so that whatever cuts it off leaves what there is."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from benchmarks.measure import machine
from svdistill.atomic import write_atomically
from svdistill.errors import one_line

# Figures of different cards or versions do not belong in one table.
SAME = ("gpu", "torch", "svdistill")


class Clock:
    """How much time is left.

    Args:
        until: when everything must be over, in seconds as `time.time` counts them.
    """

    def __init__(self, until: float) -> None:
        self.until = until

    @property
    def left(self) -> float:
        """Seconds until then; below 0 once it is over."""
        return self.until - time.time()


class Case(NamedTuple):
    """One thing to be measured.

    Attributes:
        name: what its figures are called.
        measure: returns them.
        seconds: that must be left for it to be begun.
    """

    name: str
    measure: Callable[[], Any]
    seconds: float = 1.0


class NotPossibleError(Exception):
    """A case cannot be measured here, for the reason that is given; that is a result, not a failure."""


class Sheet:
    """The JSON file of a part.

    Attributes:
        path: the file.
        results: figures by the name of their case.
        errors: one line for each case that failed.
        missing: why a case was not measured, by its name.
        finished: whether the part came to its end.
    """

    def __init__(self, part: str, folder: Path, *, rehearsal: bool) -> None:
        self.part = part
        self.path = folder / f"gpu-{part}.json"
        self.rehearsal = rehearsal
        self.machine = machine()
        self.results: dict[str, Any] = {}
        self.errors: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self.finished = False
        self._started = time.time()
        self._before = 0.0  # seconds of earlier calls

    def resume(self, folder: Path | None, *, same: Sequence[str] = SAME) -> str | None:
        """Take over what an earlier call has measured.

        Args:
            folder: where it wrote; None or a folder without this part takes over nothing.
            same: what of the machine must be the same.

        Returns:
            One line on what was taken over, or why nothing was; None where there was nothing.
        """
        known = None if folder is None else read(folder / self.path.name)
        if known is None:
            return None
        wrong = [key for key in same if known["machine"].get(key) != self.machine[key]]
        if known["rehearsal"] != self.rehearsal:
            return f"{self.part}: {folder} holds {'a rehearsal' if known['rehearsal'] else 'measurements'}; not used"
        if wrong:
            return f"{self.part}: {folder} was measured with another {' and '.join(wrong)}; measured anew"
        self.results, self._before = known["results"], known["seconds"]
        return f"{self.part}: {len(self.results)} cases taken over from {folder}"

    def write(self) -> None:
        """Write everything, whole or not at all."""
        content = {
            "part": self.part,
            "rehearsal": self.rehearsal,
            "machine": self.machine,
            "finished": self.finished,
            "seconds": self._before + time.time() - self._started,
            "results": self.results,
            "errors": self.errors,
            "missing": self.missing,
        }
        write_atomically(self.path, json.dumps(content, indent=1).encode() + b"\n")

    def measure(self, cases: Iterable[Case], clock: Clock) -> None:
        """Measure the cases that are not known yet, as long as there is time; one that fails does not stop the others.

        Args:
            cases: in order of importance.
            clock: of the part.
        """
        for case in cases:
            if case.name in self.results:
                continue
            if clock.left < case.seconds:
                self.missing[case.name] = "no time was left"
            else:
                self._measure(case)
            self.write()

    def _measure(self, case: Case) -> None:
        start = time.perf_counter()
        try:
            self.results[case.name] = case.measure()
        except NotPossibleError as error:
            self.missing[case.name] = one_line(error)
            told = f"not measured: {one_line(error)}"
        except Exception as error:
            self.errors[case.name] = f"{type(error).__name__}: {one_line(error)}"
            told = f"failed: {self.errors[case.name]}"
        else:
            told = f"{time.perf_counter() - start:.1f} s"
        say(f"{self.part}: {case.name}: {told}")

    def finish(self) -> None:
        """Note that the part came to its end."""
        self.finished = True
        self.write()


def read(path: Path) -> dict[str, Any] | None:
    """Return what a part has written; None where there is no such file or it is damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and {"results", "rehearsal", "machine"} <= content.keys() else None


def say(text: str) -> None:
    """Print one line on what is happening."""
    Console(highlight=False).print(text, style="dim", soft_wrap=True, markup=False)
