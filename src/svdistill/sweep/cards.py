"""Which run goes to which GPU, and when: all GPUs of a machine, each with its own admission."""

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from svdistill.sweep.admission import Admission, Memory, Verdict
from svdistill.sweep.meter import Meter, Place
from svdistill.sweep.scheduler import Task


class Crowd(NamedTuple):
    """How many runs the GPUs hold side by side, and how much memory each needs, in bytes."""

    runs: int
    need: int


class Cards:
    """The GPUs of this machine and the runs on them.

    Args:
        meter: knows the GPUs; None admits every run, wherever its recipe puts it.
    """

    def __init__(self, meter: Meter | None) -> None:
        self._meter = meter
        self._admissions: defaultdict[str, Admission] = defaultdict(Admission)
        self._card_of: dict[str, str] = {}
        self._alone: set[str] = set()  # runs that memory ran out in while others were beside them
        self._told = 0

    def _places(self, task: Task) -> Sequence[Place]:
        return () if self._meter is None else self._meter.places(task.recipe)

    def _verdict(self, card: str, task: Task) -> Verdict:
        return self._admissions[card].verdict(task.recipe.name, alone=task.key in self._alone)

    def admit(self, task: Task) -> Place | None:
        """Return where a run starts now, on the GPU with the fewest runs of those that admit it; None = not now."""
        places = {place.card: place for place in self._places(task) if place.card is not None}
        if not places:
            return Place()
        admitting = [card for card in places if self._verdict(card, task) is Verdict.START]
        if not admitting:
            return None
        card = min(admitting, key=lambda one: self._admissions[one].running)
        self._card_of[task.key] = card
        self._admissions[card].started(task.key, task.recipe.name, alone=task.key in self._alone)
        return places[card]

    def crowd(self, task: Task) -> Crowd | None:
        """Return how many runs there is memory for, where a run waits for that and the number is news."""
        admissions = [self._admissions[place.card] for place in self._places(task) if place.card is not None]
        alone = task.key in self._alone
        if alone or any(one.verdict(task.recipe.name) is not Verdict.FULL for one in admissions):
            return None
        runs = sum(one.running for one in admissions)
        needs = [need for one in admissions if (need := one.need(task.recipe.name)) is not None]
        if runs == self._told or not needs:
            return None
        self._told = runs
        return Crowd(runs, max(needs))

    def reported(self, task: Task, memory: Memory, *, settled: bool) -> None:
        """Take note of what a run's process has read, see ``Admission.reported``."""
        self._admissions[self._card_of[task.key]].reported(task.key, memory, settled=settled)

    def exhausted(self, task: Task) -> bool:
        """Take note that memory ran out in a run; return whether it is worth another try, alone on its GPU."""
        card = self._card_of.get(task.key)
        beside = card is not None and self._admissions[card].exhausted(task.key)
        if beside:
            self._alone.add(task.key)
        return beside

    def ended(self, task: Task) -> None:
        """Take note that a run and its process have ended."""
        card = self._card_of.pop(task.key, None)
        if card is not None:
            self._admissions[card].ended(task.key, time.monotonic())
