"""The published VGG row on CIFAR-100: a teacher, then students by every method, as many seeds as the time holds."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.gpu import teacher
from benchmarks.gpu.scale import EPOCHS, Scale
from benchmarks.gpu.sheet import Clock, Sheet, say
from benchmarks.gpu.watch import TimeUpError, Watch
from svdistill import recipes
from svdistill.jobs.run import Run
from svdistill.recipes import Recipe
from svdistill.sweep import Task
from svdistill.sweep.pool import local_pool
from svdistill.sweep.scheduler import WorkerPool, run_tasks

MARGIN = 1.1  # a run is begun if the time holds this many times what it is thought to take
LEAST_GAIN = 1.05  # of runs side by side over runs in turn


class Row(NamedTuple):
    """One row of the table.

    Attributes:
        title: what it is called.
        recipe: which one.
        method: in place of the recipe's own.
        published: accuracy in per cent, as printed in the paper.
    """

    title: str
    recipe: str
    method: str | None = None
    published: float | None = None


TEACHER = Row("teacher", "eccv/vgg-cifar100-teacher", published=64.44)
ROWS: Mapping[str, Row] = {
    "alone": Row("student alone", "eccv/vgg-cifar100-student", published=61.37),
    "svd-eccv2018": Row("KD-SVD, preset `eccv2018`, one stage", "eccv/vgg-cifar100-svd", published=65.54),
    "svd-recommended": Row("KD-SVD as recommended", "eccv/vgg-cifar100-svd", "svd-recommended"),
    "soft-target": Row("soft targets", "eccv/vgg-cifar100-svd", "soft-target"),
    "fsp": Row("FSP, one stage", "eccv/vgg-cifar100-fsp", published=64.89),
}
LONE = "svd-eccv2018"  # what is also timed without others beside it


class Cost(NamedTuple):
    """How long a run is thought to take.

    Attributes:
        start: seconds before and after its epochs.
        epoch: seconds of one epoch, evaluation and checkpoint included.
    """

    start: float
    epoch: float

    def of(self, epochs: int) -> float:
        """Seconds of a run of so many epochs, with a margin."""
        return MARGIN * (self.start + epochs * self.epoch)


def admitted(wanted: Iterable[tuple[str, float]], *, jobs: int, seconds: float) -> list[str]:
    """Choose the runs that will finish in time.

    Args:
        wanted: name and length in seconds of each run, the most important first.
        jobs: number of runs side by side.
        seconds: that are left.

    Returns:
        The names of those that fit, in the same order; each starts as soon as one of the others is over.
    """
    free, chosen = [0.0] * jobs, []
    for name, length in wanted:
        first = min(range(jobs), key=free.__getitem__)
        if free[first] + length <= seconds:
            free[first] += length
            chosen.append(name)
    return chosen


class Trainings:
    """Runs of the row in a temporary folder.

    Args:
        scale: says how large they are.
        root: the folder or archive with CIFAR-100.
        work: the temporary folder.
        sheet: what they come to is written there.
        clock: says when to stop.
    """

    def __init__(self, scale: Scale, root: Path, work: Path, sheet: Sheet, clock: Clock) -> None:
        self.scale = scale
        self.work = work
        self.runs = work / "runs"
        self.sheet = sheet
        self.clock = clock
        self.teacher_file = work / "teacher.safetensors"
        self._root = root

    def task(self, row: Row, *, seed: int, epochs: int) -> Task:
        """Return the run of a row; milestones lie at a half and at three quarters of it, as published."""
        scale = self.scale
        settings: dict[str, Any] = {
            "data": {"root": str(self._root)},
            "model": {"width": scale.width},
            "train": {
                "epochs": epochs,
                "milestones": [0.5, 0.75],
                "batch_size": scale.row_batch,
                "device": scale.device,
                "precision": "bf16-mixed",
                "channels_last": True,
                "capture": "on" if scale.rehearsal else "auto",  # on a CPU the same buffers, without a graph
            },
            "seed": seed,
        }
        if row.recipe not in (TEACHER.recipe, ROWS["alone"].recipe):
            settings["teacher"] = {"recipe": None, "checkpoint": str(self.teacher_file)}
        recipe: Recipe = recipes.load(row.recipe, settings, method=row.method)
        return Task(str(Run.of(recipe, self.runs).path), recipe)

    def train(self, tasks: Sequence[Task], pool: WorkerPool, *, named: Mapping[str, str]) -> Watch:
        """Train runs, and note in the sheet each that finishes.

        Args:
            tasks: the first starts first.
            pool: trains them.
            named: the name under which a run is noted, by its task's key; others are timed alone.

        Raises:
            TimeUpError: the time was up before they had finished.
        """
        watch = Watch(self.sheet, self.clock, named=named, gpu=self.sheet.machine["gpu"])
        run_tasks(tasks, pool, observer=watch)
        return watch


def measure(
    sheet: Sheet, scale: Scale, clock: Clock, *, root: Path | None, work: Path, source: Path | None, jobs: int
) -> None:
    """Train the row as far as the time holds, print its table.

    Args:
        sheet: of this part.
        scale: how large everything is.
        clock: of this part.
        root: the folder or archive with CIFAR-100; None trains nothing.
        work: a temporary folder.
        source: where an earlier call has left a teacher; None = nowhere.
        jobs: number of runs side by side.
    """
    if root is None:
        sheet.missing["row"] = "CIFAR-100 was not there"
        return
    runs = Trainings(scale, root, work, sheet, clock)
    try:
        with local_pool(runs.runs, jobs=jobs) as pool:
            ready = _teacher(runs, pool, source) and bool(_wanted(runs))
            side = _timed(runs, pool, jobs) if ready else None
            if side is not None and side.jobs == jobs:
                _students(runs, pool, side)
        if side is not None and side.jobs != jobs:
            with local_pool(runs.runs, jobs=side.jobs) as pool:
                _students(runs, pool, side)
    except TimeUpError:
        sheet.missing["row"] = "the time was up before all runs that had been begun were over"
    sheet.write()
    _show(sheet)


def _teacher(runs: Trainings, pool: WorkerPool, source: Path | None) -> bool:
    """Take over the teacher of an earlier call, or train it; return whether there is one."""
    sheet, scale, folder = runs.sheet, runs.scale, runs.sheet.path.parent
    if "teacher" in sheet.results and source is not None and teacher.restore(source, runs.teacher_file):
        say("row: the teacher is taken over")
        return True
    sheet.results.clear()  # students of another teacher
    cost = _cost(runs, pool, [("teacher", TEACHER)])["teacher"]
    left = runs.clock.left
    epochs = min(scale.epochs, int((left / MARGIN - cost.start) / cost.epoch))
    sheet.results["plan"] = {
        "epochs": epochs,
        "published epochs": scale.epochs if scale.rehearsal else EPOCHS,
        "teacher": cost._asdict(),
    }
    if epochs < 1:
        sheet.missing["row"] = f"no time for a teacher: one epoch takes {cost.epoch:.1f} s, {left:.0f} s were left"
        return False
    if epochs < scale.epochs:
        say(f"row: time for {epochs} epochs of {scale.epochs} of the teacher, and so of all students")
    task = runs.task(TEACHER, seed=0, epochs=epochs)
    watch = runs.train([task], pool, named={task.key: "teacher"})
    if "teacher" not in sheet.results:
        sheet.errors["teacher"] = watch.failure
        return False
    teacher.store(Run(task.key).student_file, folder)
    # Students learn from what a later call will find.
    teacher.restore(folder, runs.teacher_file)
    sheet.write()
    return True


class SideBySide(NamedTuple):
    """What runs cost, and what it gains to have them side by side.

    Attributes:
        jobs: number of them.
        costs: by method; side by side if that gains anything, else in turn.
        gain: how many times as much is done in the same time.
    """

    jobs: int
    costs: Mapping[str, Cost]
    gain: float


def _timed(runs: Trainings, pool: WorkerPool, jobs: int) -> SideBySide:
    """Time a few epochs of each method, side by side, and of one method by itself."""
    lone = _cost(runs, pool, [(LONE, ROWS[LONE])])[LONE]
    costs = _cost(runs, pool, list(ROWS.items()), seed=1)
    beside = min(jobs, len(ROWS))
    gain = beside * lone.epoch / costs[LONE].epoch if beside > 1 else 1.0
    if gain < LEAST_GAIN:
        jobs, factor = 1, lone.epoch / costs[LONE].epoch
        costs = {name: Cost(cost.start, cost.epoch * factor) for name, cost in costs.items()}
    runs.sheet.results["side by side"] = {
        "timed side by side": beside,
        "times as much in the same time": gain,
        "side by side": jobs,
        "an epoch in turn, s": lone.epoch,
        "an epoch side by side, s": {name: cost.epoch for name, cost in costs.items()},
        "beside the epochs of a run, s": {name: cost.start for name, cost in costs.items()},
    }
    runs.sheet.write()
    return SideBySide(jobs, costs, gain)


def _cost(runs: Trainings, pool: WorkerPool, rows: Sequence[tuple[str, Row]], *, seed: int = 0) -> dict[str, Cost]:
    """Train a few epochs of some rows at once, and return what each costs."""
    epochs = runs.scale.timed_epochs
    # Another number of epochs than any run has, so that none of these is taken for one.
    tasks = {name: runs.task(row, seed=1000 + seed, epochs=epochs) for name, row in rows}
    watch = runs.train(list(tasks.values()), pool, named={})
    costs = {}
    for name, task in tasks.items():
        spent = watch.timed(task.key)
        if spent is None:
            raise RuntimeError(f"{name} could not be trained: {watch.failure}")
        costs[name] = Cost(*spent)
    return costs


def _students(runs: Trainings, pool: WorkerPool, side: SideBySide) -> None:
    """Train as many students as the time holds, seed by seed."""
    sheet, epochs = runs.sheet, int(runs.sheet.results["plan"]["epochs"])
    wanted = _wanted(runs)
    lengths = [(run, side.costs[name].of(epochs)) for run, (name, _) in wanted.items()]
    chosen = admitted(lengths, jobs=side.jobs, seconds=runs.clock.left)
    whole = max((length for _, length in lengths), default=0.0)
    say(
        f"row: {len(chosen)} of {len(lengths)} runs fit into {runs.clock.left:.0f} s, {side.jobs} side by side, "
        f"up to {whole:.0f} s each"
    )
    tasks = {run: runs.task(ROWS[wanted[run][0]], seed=wanted[run][1], epochs=epochs) for run in chosen}
    sheet.missing |= {run: "not begun: no time was left" for run in wanted if run not in chosen}
    for run in chosen:
        sheet.missing[run] = "begun, not finished"
    runs.train(list(tasks.values()), pool, named={task.key: run for run, task in tasks.items()})


def _wanted(runs: Trainings) -> dict[str, tuple[str, int]]:
    """Return method and seed of each run that is yet to be trained, by its name, seed by seed."""
    every = {f"{name}, seed {seed}": (name, seed) for seed in range(runs.scale.seeds) for name in ROWS}
    return {run: what for run, what in every.items() if run not in runs.sheet.results}


def of_method(results: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return what the runs of a method came to, seed by seed."""
    return [found for run, found in results.items() if run.partition(", seed ")[0] == name and "accuracy" in found]


def _show(sheet: Sheet) -> None:
    table = Table("", "accuracy, %", "seeds", "seconds a run", title="The published VGG row on CIFAR-100")
    for name, row in {"teacher": TEACHER, **ROWS}.items():
        if found := of_method(sheet.results, name):
            mean = sum(one["accuracy"] for one in found) / len(found)
            seconds = sum(one["seconds"] for one in found) / len(found)
            table.add_row(row.title, f"{mean:.2f}", str(len(found)), f"{seconds:.0f}")
    Console().print(table)
