"""Runs side by side in real processes: failures, deaths, locks."""

import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from svdistill import recipes
from svdistill.errors import OptionError
from svdistill.jobs import Run
from svdistill.recipes import Recipe
from svdistill.sweep import Observer, Outcome, Task, pool
from svdistill.sweep.scheduler import PATIENCE, NoObserver, run_tasks

TINY = [
    "model.width=0.1",
    "data.image_size=16",
    "data.train_size=20",
    "train.batch_size=10",
    "train.epochs=1",
    "train.device=cpu",
]


def student(*overrides: str) -> Recipe:
    """A very small student alone."""
    return recipes.load("digits/student", [*TINY, *overrides])


def task(recipe: Recipe, runs: Path, *needs: Task) -> Task:
    """A task of a recipe."""
    key = str(runs / recipe.name / recipes.identity(recipe))
    return Task(key, recipe, tuple(need.key for need in needs))


class Diary(Observer):
    """Writes down what happens, and kills the worker of one task once it has begun."""

    def __init__(self, *, kill: Task | None = None) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.began: list[str] = []
        self.put_off: list[str] = []
        self.epochs: list[int] = []
        self._kill = kill

    def started(self, task: Task, *, epochs: int, steps: int, done_epochs: int) -> None:
        """Note it; then perhaps the end."""
        self.began.append(task.key)
        if task == self._kill:
            (worker,) = multiprocessing.active_children()
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)

    def measured(self, task: Task, metrics: Mapping[str, Any]) -> None:
        """Note it."""
        self.epochs.append(metrics["epoch"])

    def ended(self, task: Task, outcome: Outcome) -> None:
        """Note it."""
        assert task.key not in self.outcomes
        self.outcomes[task.key] = outcome

    def postponed(self, task: Task) -> None:
        """Note it."""
        self.put_off.append(task.key)


def train_all(
    tasks: Sequence[Task], runs: Path, observer: Observer, *, jobs: int = 1, patience: float = PATIENCE
) -> None:
    """Train in processes of this machine."""
    with pool.local_pool(runs, jobs=jobs) as workers:
        run_tasks(tasks, workers, observer=observer, patience=patience)


def test_failures_and_deaths_stop_no_other(tmp_path: Path) -> None:
    """An unexpected error, a killed worker and a loss that is not finite are reported; the other runs finish."""
    broken, killed, wild, good = (
        task(student(*overrides), tmp_path)
        for overrides in (["seed=1"], ["seed=2", "train.epochs=2000"], ["optimizer.lr=1e9", "train.epochs=3"], [])
    )
    lost = task(student("seed=4"), tmp_path, wild)
    Path(broken.key).mkdir(parents=True)
    (Path(broken.key) / "student.safetensors").mkdir()  # in the way
    diary = Diary(kill=killed)
    train_all([broken, killed, lost, wild, good], tmp_path, diary)

    assert diary.outcomes[good.key] == Outcome()
    assert Run(good.key).finished
    assert list(diary.outcomes) == [broken.key, killed.key, wild.key, lost.key, good.key]
    assert "IsADirectoryError" in str(diary.outcomes[broken.key].error)
    assert "Traceback" in str(diary.outcomes[broken.key].trace)
    assert str(diary.outcomes[killed.key].error).startswith("its process was killed (SIGKILL")
    assert "not finite" in str(diary.outcomes[wild.key].error)
    assert diary.outcomes[wild.key].trace is None
    assert diary.outcomes[lost.key].error == "not begun, because its teacher failed"
    assert not multiprocessing.active_children()


def test_a_run_that_another_process_trains_is_put_off(tmp_path: Path) -> None:
    """It is tried again once others are done, and reported once; two workers share the rest."""
    taken, first, second = (task(student(f"seed={seed}"), tmp_path) for seed in range(3))
    lock = Run(taken.key).locked()

    class Patient(Diary):
        def ended(self, task: Task, outcome: Outcome) -> None:
            """Let the run go when both others are done."""
            super().ended(task, outcome)
            if len(self.outcomes) == 2:
                lock.__exit__(None, None, None)

    lock.__enter__()
    diary = Patient()
    train_all([taken, first, second], tmp_path, diary, jobs=2, patience=0.2)
    assert diary.outcomes == {key: Outcome() for key in (first.key, second.key, taken.key)}
    assert list(diary.outcomes)[-1] == taken.key
    assert diary.put_off == [taken.key]
    assert diary.epochs == [1, 1, 1]


def test_no_process_is_too_few(tmp_path: Path) -> None:
    """A number of processes below 1 is refused."""
    with pytest.raises(OptionError, match="jobs: expected at least 1 process, got 0"):
        train_all([], tmp_path, NoObserver(), jobs=0)


def test_nothing_to_do_starts_no_process(tmp_path: Path) -> None:
    """Without tasks it is over at once."""
    train_all([], tmp_path, NoObserver(), jobs=2)


@pytest.mark.parametrize(
    ("limit", "cores", "expected"), [("", 4, 4), ("", 0, 1), ("1", 4, 1), ("16", 4, 4), ("0", 4, 4)]
)
def test_threads_of(monkeypatch: pytest.MonkeyPatch, limit: str, cores: int, expected: int) -> None:
    """As many as there are cores; the environment may ask for fewer, never for none."""
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert pool.threads_of(cores) == expected


@pytest.mark.parametrize(("limit", "expected"), [(None, 3), ("2", 2)])
def test_threads_of_a_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str | None, expected: int) -> None:
    """A run is trained with its worker's part of the cores, at most the number in the environment."""
    monkeypatch.setattr(pool, "usable_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if limit is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
    one = task(student(), tmp_path)
    train_all([one], tmp_path, NoObserver(), jobs=2)
    assert Run(one.key).record.environment()["threads"] == expected
