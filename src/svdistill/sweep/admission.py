"""How many runs a GPU's memory holds side by side: the first one measures, and the others are admitted by it."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

MARGIN = 0.15  # of its need, left free beside a run that starts: fragments, and what is needed only at its end
CONTEXT = 2**30  # bytes; the most that a process is taken to need outside its allocator: context, kernels, workspaces


class Memory(NamedTuple):
    """What a process sees of a GPU's memory, in bytes.

    Attributes:
        at: when, by ``time.monotonic``, which all processes of a machine share.
        total: of the GPU.
        free: of the GPU, whoever has taken the rest.
        reserved: by this process's allocator.
        peak: the most that its allocator has reserved.
    """

    at: float
    total: int
    free: int
    reserved: int
    peak: int


class Verdict(Enum):
    """Whether a run may start: yes; not before a measurement has come or a run has ended; there is no room for it."""

    START = "start"
    WAIT = "wait"
    FULL = "full"


@dataclass
class _Running:
    """A run on the GPU.

    Attributes:
        recipe: its recipe's name.
        alone: whether nothing may run beside it.
        peak: the most that its allocator has reserved; None before it has reported.
        settled: whether it has been through an epoch, so that it is not expected to need more.
    """

    recipe: str
    alone: bool
    peak: int | None = None
    settled: bool = False


class Admission:
    """Decides which runs may start on one GPU, by what those that are or were on it have reported.

    A run may always start where no other is. The first run of a recipe is watched until its first epoch, evaluation
    included, is over; then the others of this recipe are taken to need as much as the largest of them so far. They
    start one after the other, each once the one before has reported, while the memory that is free holds another
    one and a margin. A recipe that has not been measured is taken to need as much as any other. The free memory is
    what a process last read from the GPU, never a sum: so other programs count, and a run that has ended gives back
    what it really had.
    """

    def __init__(self) -> None:
        self._running: dict[str, _Running] = {}
        self._peaks: dict[str, int] = {}  # by recipe, of those that have been through an epoch
        self._context = CONTEXT
        self._read_at = float("-inf")
        self._free: int | None = None  # None where nobody has looked since a run ended
        self._most: int | None = None  # after memory ran out

    @property
    def running(self) -> int:
        """The number of runs on the GPU."""
        return len(self._running)

    def need(self, recipe: str) -> int | None:
        """Return how much memory a run needs, in bytes: its allocator's peak and what its process takes besides.

        Args:
            recipe: the name of its recipe.

        Returns:
            The largest need measured of this recipe, or of any where it has not been measured; None where none has.
        """
        if not self._peaks:
            return None
        return self._context + self._peaks.get(recipe, max(self._peaks.values()))

    def verdict(self, recipe: str, *, alone: bool = False) -> Verdict:
        """Decide whether a run may start now.

        Args:
            recipe: the name of its recipe.
            alone: whether nothing may run beside it, because memory ran out when something did.
        """
        if not self._running:
            return Verdict.START
        if alone or any(run.alone for run in self._running.values()):
            return Verdict.WAIT
        if self._most is not None and self.running >= self._most:
            return Verdict.FULL
        need = self.need(recipe)
        measuring = recipe not in self._peaks and any(run.recipe == recipe for run in self._running.values())
        silent = any(run.peak is None for run in self._running.values())
        if need is None or self._free is None or measuring or silent:
            return Verdict.WAIT
        room = self._free - sum(self._growth(run) for run in self._running.values())
        return Verdict.START if room >= (1 + MARGIN) * need else Verdict.FULL

    def _growth(self, run: _Running) -> int:
        """Return how much more a run is expected to take: one in its first epoch will evaluate, for instance."""
        if run.settled or run.peak is None:
            return 0
        return max(0, self._peaks.get(run.recipe, 0) - run.peak)

    def started(self, key: str, recipe: str, *, alone: bool = False) -> None:
        """Take note that a run has started.

        Args:
            key: identifies it.
            recipe: the name of its recipe.
            alone: whether nothing may run beside it.
        """
        self._running[key] = _Running(recipe, alone)

    def reported(self, key: str, memory: Memory, *, settled: bool) -> None:
        """Take note of what a run's process has read.

        Args:
            key: identifies the run.
            memory: what it has read.
            settled: whether an epoch is over, evaluation included.
        """
        run = self._running[key]
        run.peak = max(memory.peak, run.peak or 0)
        run.settled = run.settled or settled
        if self.running == 1:
            # Nothing tells how much of what is taken is this process's, and how much other programs'.
            self._context = min(CONTEXT, max(0, memory.total - memory.free - memory.reserved))
        if run.settled or run.recipe in self._peaks:
            self._peaks[run.recipe] = max(run.peak, self._peaks.get(run.recipe, 0))
        # Of two readings that cross on their way the later one holds.
        if memory.at > self._read_at:
            self._read_at, self._free = memory.at, memory.free

    def ended(self, key: str, at: float) -> None:
        """Take note that a run has ended and its process with it; what it gives back, the next reading shows.

        Args:
            key: identifies the run.
            at: when, by ``time.monotonic``.
        """
        del self._running[key]
        self._read_at, self._free = max(at, self._read_at), None

    def exhausted(self, key: str) -> bool:
        """Take note that memory ran out in a run, which will end; so many are not admitted again.

        Args:
            key: identifies the run.

        Returns:
            Whether others ran beside it, so that it may succeed alone.
        """
        beside = self.running - 1
        if beside:
            self._most = beside if self._most is None else min(beside, self._most)
        return beside > 0
