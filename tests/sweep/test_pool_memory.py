"""Runs side by side in real processes that divide the memory of a GPU that is not there."""

import multiprocessing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.sweep.made_up import GIB, MadeUpMeter

from svdistill import recipes
from svdistill.jobs import Run
from svdistill.sweep import Observer, Outcome, Task, pool
from svdistill.sweep.scheduler import run_tasks

TINY = ["model.width=0.1", "data.image_size=16", "data.train_size=20", "train.batch_size=10", "train.device=cpu"]


def student(seed: int, runs: Path) -> Task:
    """A very small student alone, which reads the memory twice."""
    recipe = recipes.load("digits/student", [*TINY, "train.epochs=2", f"seed={seed}"])
    return Task(str(runs / recipe.name / recipes.identity(recipe)), recipe)


class Diary(Observer):
    """Writes down what happens, and releases the runs once the GPU is full or its memory has run out."""

    def __init__(self, meter: MadeUpMeter) -> None:
        self.events: list[tuple[str, int]] = []  # what happened to the run with which seed
        self.most = 0  # side by side
        self.crowds: list[tuple[int, int]] = []
        self.warnings: list[tuple[int, str]] = []
        self.outcomes: dict[int, Outcome] = {}
        self._meter = meter
        self._running: set[str] = set()

    def started(self, task: Task, *, epochs: int, steps: int, done_epochs: int) -> None:
        """Note it."""
        self.events.append(("started", task.recipe.seed))
        self._running.add(task.key)
        self.most = max(self.most, len(self._running))

    def measured(self, task: Task, metrics: Mapping[str, Any]) -> None:
        """Note it."""
        self.events.append((f"epoch {metrics['epoch']}", task.recipe.seed))

    def crowded(self, task: Task, *, runs: int, need: int) -> None:
        """Note it."""
        self.crowds.append((runs, need))
        self._meter.release()

    def warned(self, task: Task, text: str) -> None:
        """Note it."""
        self.warnings.append((task.recipe.seed, text))
        self._running.discard(task.key)
        self._meter.release()

    def ended(self, task: Task, outcome: Outcome) -> None:
        """Note it."""
        self.events.append(("ended", task.recipe.seed))
        self.outcomes[task.recipe.seed] = outcome
        self._running.discard(task.key)


def train_all(tasks: Sequence[Task], runs: Path, diary: Diary, meter: MadeUpMeter, *, jobs: int) -> None:
    """Train in processes of this machine."""
    with pool.local_pool(runs, jobs=jobs, meter=meter) as workers:
        run_tasks(tasks, workers, observer=diary)


def made_up(folder: Path, **options: Any) -> MadeUpMeter:
    """A GPU and the folder where its processes say what they have taken."""
    folder.mkdir()
    return MadeUpMeter(folder, **options)


def test_as_many_as_the_memory_holds(tmp_path: Path) -> None:
    """The first measures alone, two join it one by one, the fourth waits until there is room; that is said once."""
    meter = made_up(tmp_path / "gpu", total=10, takes=dict.fromkeys(range(4), 3.0))
    tasks = [student(seed, tmp_path) for seed in range(4)]
    diary = Diary(meter)
    train_all(tasks, tmp_path, diary, meter, jobs=4)
    assert diary.outcomes == {seed: Outcome() for seed in range(4)}
    assert diary.most == 3
    assert diary.crowds == [(3, 3 * GIB)]
    for first, second in ((0, 1), (1, 2)):
        assert diary.events.index(("epoch 1", first)) < diary.events.index(("started", second))
    before = diary.events[: diary.events.index(("started", 3))]
    assert any(what == "ended" for what, _ in before)
    assert all(Run(task.key).finished for task in tasks)
    assert not multiprocessing.active_children()


def test_memory_that_runs_out_all_the_same(tmp_path: Path) -> None:
    """A run that fails beside another is tried again alone and resumes; afterwards as many are not side by side."""
    meter = made_up(tmp_path / "gpu", total=10, takes={0: 4.0, 1: 7.0, 2: 4.0, 3: 12.0})
    tasks = [student(seed, tmp_path) for seed in range(4)]
    diary = Diary(meter)
    train_all(tasks, tmp_path, diary, meter, jobs=2)
    assert [seed for seed, _ in diary.warnings] == [1]
    assert "tried again, alone" in diary.warnings[0][1]
    assert {seed for seed, outcome in diary.outcomes.items() if outcome == Outcome()} == {0, 1, 2}
    assert str(diary.outcomes[3].error).startswith("not enough memory; take fewer jobs")  # alone, too
    assert [what for what, seed in diary.events if seed == 1] == ["started", "epoch 1", "started", "epoch 2", "ended"]
    after = [event for event in diary.events[diary.events.index(("ended", 0)) :] if event[0] in ("started", "ended")]
    assert [what for what, _ in after] == ["ended", "started", "ended", "started", "ended", "started", "ended"]


def test_a_single_job_is_not_metered(tmp_path: Path) -> None:
    """Where no run is ever beside another nobody reads the memory: one that needs more than there is may try."""
    meter = made_up(tmp_path / "gpu", total=1, takes={0: 2.0})
    diary = Diary(meter)
    train_all([student(0, tmp_path)], tmp_path, diary, meter, jobs=1)
    assert diary.outcomes == {0: Outcome()}
