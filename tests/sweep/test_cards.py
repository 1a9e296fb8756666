"""Which GPU a run goes to, by CUDA's names of them and by what they hold."""

import dataclasses

import pytest
import torch

from svdistill import recipes
from svdistill.recipes import Recipe
from svdistill.sweep import Task
from svdistill.sweep.admission import Memory
from svdistill.sweep.cards import Cards, Crowd
from svdistill.sweep.meter import CudaMeter, Meter, Place, visible_devices

GIB = 2**30


@dataclasses.dataclass
class TwoCards(Meter):
    """Two GPUs that are not there; nothing reads their memory."""

    def places(self, recipe: Recipe) -> tuple[Place, ...]:
        """Both."""
        return Place("0", visible="0"), Place("1", visible="1")

    def read(self, recipe: Recipe) -> Memory:
        """Is not asked: no run is trained here."""
        raise AssertionError


def student(seed: int) -> Task:
    """A run that nobody trains."""
    return Task(f"run {seed}", recipes.load("digits/student", [f"seed={seed}"]))


def report(cards: Cards, task: Task, *, at: float, free: float) -> None:
    """A run has taken 3 of 4 GiB, its context included."""
    cards.reported(task, Memory(at, 4 * GIB, round(free * GIB), 2 * GIB, 2 * GIB), settled=True)


def test_runs_are_dealt_out() -> None:
    """Each GPU gets a first run at once, then each as many as it holds; the number of both together is told once."""
    cards, tasks = Cards(TwoCards()), [student(seed) for seed in range(4)]
    assert [cards.admit(task) for task in tasks] == [Place("0", "0"), Place("1", "1"), None, None]
    assert cards.crowd(tasks[2]) is None  # nobody has measured
    report(cards, tasks[0], at=1, free=1)
    assert cards.admit(tasks[2]) is None
    assert cards.crowd(tasks[2]) is None
    report(cards, tasks[1], at=1, free=1)
    assert cards.admit(tasks[2]) is None
    assert cards.crowd(tasks[2]) == Crowd(2, 3 * GIB)
    assert cards.crowd(tasks[3]) is None
    cards.ended(tasks[1])
    assert cards.admit(tasks[2]) == Place("1", "1")


def test_a_run_that_memory_ran_out_in_is_alone() -> None:
    """It goes to a GPU on which nothing runs, and nothing joins it; where it was alone it gets no other try."""
    cards, tasks = Cards(TwoCards()), [student(seed) for seed in range(3)]
    for task in tasks[:2]:
        cards.admit(task)
    report(cards, tasks[0], at=1, free=100)
    report(cards, tasks[1], at=1, free=100)
    assert cards.admit(tasks[2]) == Place("0", "0")
    assert cards.exhausted(tasks[2])
    cards.ended(tasks[2])
    assert cards.admit(tasks[2]) is None
    cards.ended(tasks[1])
    assert cards.admit(tasks[2]) == Place("1", "1")
    assert not cards.exhausted(tasks[2])


def test_without_a_gpu_every_run_starts() -> None:
    """On a CPU, and without a meter, memory is not divided."""
    for meter in (None, CudaMeter()):
        cards, task = Cards(meter), Task("run", recipes.load("digits/student", ["train.device=cpu"]))
        assert [cards.admit(task) for _ in range(9)] == [Place()] * 9
        assert cards.crowd(task) is None
        assert not cards.exhausted(task)
        cards.ended(task)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ["0", "1"]),
        ("", ["0", "1"]),
        ("5, 2", ["5", "2"]),
        ("MIG-a,MIG-b", ["MIG-a", "MIG-b"]),
        ("3", ["0", "1"]),
    ],
)
def test_visible_devices(monkeypatch: pytest.MonkeyPatch, given: str | None, expected: list[str]) -> None:
    """They are called what CUDA_VISIBLE_DEVICES calls them, by number or name, and else counted."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_devices(2) == expected


@pytest.mark.parametrize(
    ("device", "count", "expected"),
    [
        ("auto", 0, ()),
        ("cpu", 2, ()),
        ("auto", 1, (Place("4"),)),
        ("cuda", 2, (Place("4", visible="4"), Place("6", visible="6"))),
        ("cuda:1", 2, (Place("6"),)),
        ("cuda:9", 2, ()),
    ],
)
def test_places(monkeypatch: pytest.MonkeyPatch, device: str, count: int, expected: tuple[Place, ...]) -> None:
    """One GPU is left as it is, several are dealt out, a numbered one is itself; what is not there fails by itself."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6"[: max(1, 2 * count - 1)])
    assert CudaMeter().places(recipes.load("digits/student", [f"train.device={device}"])) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="reads the memory of a GPU")
def test_what_cuda_says() -> None:
    """What the allocator takes is counted, its peak stays, and it is a part of what is not free."""
    recipe, meter = recipes.load("digits/student", ["train.device=cuda"]), CudaMeter()
    torch.cuda.empty_cache()
    before = meter.read(recipe)
    taken = torch.empty(64 * 2**20, dtype=torch.uint8, device="cuda")
    held = meter.read(recipe)
    assert held.reserved >= before.reserved + taken.numel()
    del taken
    torch.cuda.empty_cache()
    assert meter.read(recipe).peak >= held.reserved
    assert held.total == before.total >= held.free + held.reserved
    assert held.at > before.at
