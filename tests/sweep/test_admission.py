"""Which runs may start on a GPU: sequences of starts, readings and ends."""

import pytest

from svdistill.sweep.admission import CONTEXT, MARGIN, Admission, Memory, Verdict

GIB = 2**30
START, WAIT, FULL = Verdict.START, Verdict.WAIT, Verdict.FULL


class Card:
    """A GPU of made-up size, whose runs take made-up amounts, and the admission to it."""

    def __init__(self, total: float, *, other: float = 0.0, context: float = 0.5) -> None:
        self.admission = Admission()
        self.other = other  # taken by other programs
        self._total, self._context = total, context
        self._taken: dict[str, float] = {}
        self._now = 0.0

    def memory(self, key: str, *, at: float | None = None) -> Memory:
        """What the process of a run would read."""
        free = self._total - self.other - sum(one + self._context for one in self._taken.values())
        amounts = (round(gib * GIB) for gib in (self._total, free, self._taken[key], self._taken[key]))
        return Memory(self._now if at is None else at, *amounts)

    def start(self, key: str, recipe: str = "student", *, alone: bool = False) -> None:
        """A run starts."""
        self.admission.started(key, recipe, alone=alone)

    def report(self, key: str, takes: float, *, settled: bool = True) -> None:
        """A run has taken so much, and its process reads the memory."""
        self._now += 1
        self._taken[key] = takes
        self.admission.reported(key, self.memory(key), settled=settled)

    def end(self, key: str) -> None:
        """A run ends and gives everything back."""
        self._now += 1
        self._taken.pop(key, None)
        self.admission.ended(key, self._now)

    def verdict(self, recipe: str = "student") -> Verdict:
        """Whether another run may start."""
        return self.admission.verdict(recipe)


def test_the_first_measures_and_the_others_follow_one_by_one() -> None:
    """The first runs alone for an epoch; each other must have reported before the next; then there is no room."""
    card = Card(total=10)
    assert card.verdict() is START
    card.start("a")
    assert card.verdict() is WAIT
    card.report("a", 2.5, settled=False)
    assert card.verdict() is WAIT
    card.report("a", 2.5)
    assert card.admission.need("student") == 3 * GIB
    assert card.verdict() is START
    card.start("b")
    assert card.verdict() is WAIT
    card.report("b", 2.5, settled=False)
    assert card.verdict() is START  # 4 of 10 are free
    card.start("c")
    card.report("c", 2.5, settled=False)
    assert card.verdict() is FULL
    assert card.admission.running == 3


@pytest.mark.parametrize(("total", "expected"), [(3 * (2 + MARGIN) + 0.01, START), (3 * (2 + MARGIN) - 0.01, FULL)])
def test_the_margin(total: float, expected: Verdict) -> None:
    """A second run starts where its need and the margin are free, and not below."""
    card = Card(total)
    card.start("a")
    card.report("a", 2.5)
    assert card.verdict() is expected


def test_room_for_one_only() -> None:
    """They run one after the other."""
    card = Card(total=10)
    card.start("a")
    card.report("a", 6)
    assert card.verdict() is FULL
    card.end("a")
    assert card.verdict() is START


def test_an_end_gives_back_what_the_next_reading_shows() -> None:
    """After an end nobody starts before somebody has looked again, and a reading from before counts for nothing."""
    card = Card(total=10)
    for key in "abc":
        card.start(key)
        card.report(key, 2.5)
    stale = card.memory("b")
    card.end("a")
    assert card.verdict() is WAIT
    card.admission.reported("b", stale, settled=True)
    assert card.verdict() is WAIT
    card.report("c", 2.5)
    assert card.verdict() is START


def test_readings_that_cross() -> None:
    """One that was made before another run took its memory, and arrives after that run's own, is not believed."""
    card = Card(total=7)
    card.start("a")
    card.report("a", 2.5)
    early = card.memory("a")
    card.start("b")
    card.report("b", 2.5)
    card.admission.reported("a", early, settled=True)
    assert card.verdict() is FULL


def test_a_need_that_grows_later() -> None:
    """The largest need counts from then on, for the others too, and of runs in their first epoch it is expected."""
    card = Card(total=20)
    card.start("a")
    card.report("a", 3.5)
    card.start("b")
    card.report("b", 3.5)
    assert card.verdict() is START
    card.report("a", 5.5)
    assert card.admission.need("student") == 6 * GIB
    assert card.verdict() is START  # b has settled at 4: 10 are free
    card.start("c")
    card.report("c", 2.5, settled=False)
    assert card.verdict() is FULL  # 7 are free, but c may still take 3 of them
    card.report("c", 2.5)
    assert card.verdict() is START


def test_other_programs_count() -> None:
    """What they take is not free, is not taken for a run's own beyond a bound, and may change."""
    card = Card(total=20, other=10)
    card.start("a")
    card.report("a", 3)
    assert card.admission.need("student") == 3 * GIB + CONTEXT
    assert card.verdict() is START
    card.other = 13
    card.report("a", 3)
    assert card.verdict() is FULL
    card.other = 0
    card.report("a", 3)
    assert card.verdict() is START
    assert card.admission.need("student") == 3.5 * GIB


def test_a_run_that_dies_before_it_has_measured() -> None:
    """The next one is the first again; and where others run, they look again."""
    card = Card(total=10)
    card.start("a")
    card.end("a")
    assert card.admission.need("student") is None
    assert card.verdict() is START
    card.start("b")
    card.report("b", 2.5)
    card.start("c")
    card.end("c")
    assert card.verdict() is WAIT
    card.report("b", 2.5)
    assert card.verdict() is START


def test_recipes_are_measured_each_for_itself() -> None:
    """A large teacher does not keep its small students apart; one that is not known is taken to need as much as any."""
    card = Card(total=10)
    card.start("t", "teacher")
    card.report("t", 5.5)
    assert card.verdict("student") is FULL
    card.end("t")
    card.start("a")
    assert card.verdict() is WAIT  # it measures
    card.report("a", 1.5)
    assert card.verdict() is START
    assert card.verdict("teacher") is START
    assert card.verdict("unknown") is START
    card.start("b")
    card.report("b", 1.5)
    assert card.verdict() is START
    assert card.verdict("unknown") is FULL


def test_so_many_are_not_admitted_again_after_memory_ran_out() -> None:
    """Whatever is free: one fewer than there were. A run that was alone has nothing to hope for."""
    card = Card(total=100)
    for key in "abc":
        card.start(key)
        card.report(key, 2.5)
    assert card.admission.exhausted("c")
    card.end("c")
    card.report("a", 2.5)
    assert card.verdict() is FULL
    card.end("b")
    card.report("a", 2.5)
    assert card.verdict() is START
    card.end("a")
    card.start("d")
    assert not card.admission.exhausted("d")


def test_a_run_alone() -> None:
    """It waits until nothing else runs, and nothing starts beside it."""
    card = Card(total=100)
    card.start("a")
    card.report("a", 2.5)
    assert card.admission.verdict("student", alone=True) is WAIT
    card.end("a")
    assert card.admission.verdict("student", alone=True) is START
    card.start("b", alone=True)
    card.report("b", 2.5)
    assert card.verdict() is WAIT
    card.end("b")
    assert card.verdict() is START
