"""The file of a run's metrics: one line for each epoch."""

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from svdistill import checksums
from svdistill.atomic import write_atomically
from svdistill.errors import DataError
from svdistill.plain import MAX_JSON
from svdistill.records.sealed import AGAIN, parse, sealed, unreadable

# What an epoch's accuracy is called in the metrics: on the test images, or those held out in their place, and on images
# that choose the best epoch.
ACCURACY, VALIDATION_ACCURACY = "accuracy", "validation_accuracy"


class Metrics:
    """The lines of a run's ``metrics.jsonl``.

    Args:
        path: of the file, which need not exist.
        known: returns the SHA-256 that the file had when the run ended; None where the run goes on, or did not say.
    """

    def __init__(self, path: Path, known: Callable[[], str | None]) -> None:
        self.path = path
        self._known = known

    def __repr__(self) -> str:
        return f"Metrics({str(self.path)!r})"

    def read(self, *, most: int | None = None, every: int = 1) -> list[dict[str, Any]]:
        """Return one mapping for each epoch, in order; a last line cut off by an interruption is left out.

        Args:
            most: of a longer run, only every n-th epoch and the last, so that there are about as many; the rest of the
                file is checked all the same.
            every: n is a multiple of this, for instance of how often the run was evaluated.

        Raises:
            DataError: any other line is damaged, missing or there twice; the message names it. Or the run has ended,
                and the file has changed since.
        """
        if not self.path.exists():
            return []
        number, known = self._survey()
        step = 1 if most is None or number <= most else every * math.ceil(number / most / every)
        found, seals = [], set()
        with self.path.open("rb") as file:
            # Every whole line ends in a newline, so what follows the last one is empty or was cut off while written.
            lines = iter(partial(file.readline, MAX_JSON), b"")
            for line, text in zip(range(1, number + 1), lines, strict=False):
                wanted = line % step == 0 or line == number
                if wanted or not known:  # a file that is as it was needs no look at each line
                    content, has_seal = self._line(text, line)
                    seals.add(has_seal)
                    if wanted:
                        found.append(content)
        if seals == {True, False}:
            raise DataError(f"{self.path} has lines without a checksum among others; {AGAIN}")
        if seals == {False}:
            checksums.note_unsealed()
        return found

    def _survey(self) -> tuple[int, bool]:
        """Return how many whole lines the metrics have, and whether they are known to be as the run left them."""
        known = self._known()
        number, found = 0, hashlib.sha256()
        try:
            with self.path.open("rb") as file:
                while block := file.read(1 << 20):
                    number += block.count(b"\n")
                    found.update(block)
        except OSError as error:
            raise DataError(unreadable(self.path, error)) from error
        if known not in (None, found.hexdigest()):
            raise DataError(f"{self.path} has changed since the run finished; {AGAIN}")
        return number, known is not None

    def append(self, metrics: Mapping[str, Any]) -> str:
        """Add one epoch's line; numbers that are not finite are written as null, as JSON has none.

        Returns:
            What was added, for :meth:`restore`.
        """
        line = sealed(metrics) + b"\n"
        with self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        return line.decode()

    def count(self) -> int:
        """How many epochs have a whole line in the metrics, sound or not."""
        return self.path.read_bytes().count(b"\n") if self.path.is_file() else 0

    def restore(self, lines: str) -> bool:
        """Let the metrics be those that a checkpoint has kept; the lines of epochs that will run again are dropped.

        Args:
            lines: what :meth:`append` returned, of all epochs that are done.

        Returns:
            Whether lines of these epochs were missing or had changed.
        """
        kept = lines.encode()
        there = self.path.read_bytes() if self.path.exists() else b""
        if there != kept:
            write_atomically(self.path, kept)
        return not there.startswith(kept)

    def rewind(self, epoch: int) -> str:
        """Drop the lines of epochs that will run again, where the checkpoint has kept none of them.

        Args:
            epoch: the number of epochs done; the lines up to and with this ``epoch`` stay.

        Returns:
            The lines that stay, for :meth:`restore`.

        Raises:
            DataError: some of these lines are missing, so the run could not be told whole; or a line is damaged.
        """
        kept = self.read()[:epoch]
        if len(kept) < epoch:
            raise DataError(
                f"{self.path} has lines for {len(kept)} epochs, but the run's checkpoint has {epoch} behind it; "
                "restore the file, or train afresh (--fresh), which keeps the folder"
            )
        lines = b"".join(sealed(line) + b"\n" for line in kept).decode()
        self.restore(lines)
        return lines

    def _line(self, line: bytes, number: int) -> tuple[dict[str, Any], bool]:
        try:
            content, has_seal = parse(line.decode(), self.path, line=number)
        except UnicodeDecodeError as error:
            raise DataError(unreadable(self.path, error)) from error
        if content.get("epoch") != number:
            raise DataError(
                f"{self.path}, line {number}, is of epoch {content.get('epoch')}, so lines are missing or there "
                f"twice; {AGAIN}"
            )
        return content, has_seal
