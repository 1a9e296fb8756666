"""Methods × seeds × settings from one recipe: planned and checked as a whole, then trained side by side."""

import importlib.util
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svdistill import recipes
from svdistill.errors import RecipeError, SvdistillError, nearest
from svdistill.jobs.run import Run
from svdistill.recipes import Recipe, files
from svdistill.recipes.check import check
from svdistill.recipes.images import Images, load_images
from svdistill.sweep import pool
from svdistill.sweep.scheduler import Observer, Outcome, Task, Unobserved, WorkerPool, run_tasks

METHODS = recipes.compared_methods()
PLACES = ("local", "ray")
TEACHER = "teacher"  # what stands in a teacher's row in place of a method

# Settings that only mean something where a teacher helps; a student alone is trained without them.
_HELPED_ONLY = ("loss", "teacher", "data.unlabelled", "train.first_stage")
_NOT_HERE = {
    "seed": "the seeds are given beside the settings (--seeds)",
    "loss": "the methods are given beside the settings (--methods)",
    "loss.name": "the methods are given beside the settings (--methods)",
}


@dataclass
class Member:
    """One run of a comparison.

    Attributes:
        method: its method, or ``teacher``.
        axes: the values of those settings of the comparison that mean something to this method.
        seed: its seed.
        recipe: what is trained.
        run: its folder.
        state: ``new``, ``begun`` (an earlier call was interrupted), ``running``, ``finished``, ``failed``, or
            ``unneeded`` for a teacher that is gone and whose students are all there.
        error: one line on what went wrong.
        trace: where, for an error that nobody expected.
        summary: what it came to, once it has finished.
        found: whether it had finished before this call.
    """

    method: str
    axes: Mapping[str, Any]
    seed: int
    recipe: Recipe
    run: Run
    state: str = "new"
    error: str | None = None
    trace: str | None = None
    summary: Mapping[str, Any] | None = None
    found: bool = False

    def settle(self, outcome: Outcome) -> None:
        """Take down how the run ended, and what it came to."""
        self.error, self.trace = outcome
        if self.error is None:
            try:
                self.summary = self.run.summary
            except SvdistillError as damage:
                self.error = str(damage)
        self.state = "finished" if self.error is None else "failed"

    @property
    def key(self) -> str:
        """Names the run."""
        return str(self.run.path)

    @property
    def title(self) -> str:
        """Method, seed and settings in a few words."""
        values = [f"{key.rpartition('.')[2]}={value}" for key, value in self.axes.items()]
        return " ".join([self.recipe.name if self.method == TEACHER else self.method, *values, f"seed {self.seed}"])


@dataclass
class Comparison:
    """What is compared, and what has come of it so far.

    Attributes:
        recipe: name or path of the recipe.
        overrides: settings of all runs, as ``key=value`` texts.
        methods: in the order they were asked for.
        seeds: likewise.
        axes: the settings that vary, with their values.
        runs: folder of all runs.
        members: every run, teachers first, then seed by seed.
    """

    recipe: str
    overrides: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    axes: Mapping[str, tuple[Any, ...]]
    runs: Path
    members: list[Member] = field(default_factory=list)

    @property
    def failed(self) -> list[Member]:
        """The runs that have failed."""
        return [member for member in self.members if member.state == "failed"]

    def record(self) -> dict[str, Any]:
        """Return everything as plain values, for ``report.comparison`` and for files."""
        return {
            "recipe": self.recipe,
            "overrides": list(self.overrides),
            "methods": list(self.methods),
            "seeds": list(self.seeds),
            "axes": {key: list(values) for key, values in self.axes.items()},
            "runs": [_member_record(member) for member in self.members],
        }


def _member_record(member: Member) -> dict[str, Any]:
    return {
        "method": member.method,
        "recipe": member.recipe.name,
        "axes": dict(member.axes),
        "seed": member.seed,
        "folder": str(member.run.path),
        "state": member.state,
        "error": member.error,
        "trace": member.trace,
        "summary": member.summary,
    }


def compare(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0, 1, 2),
    runs: str | os.PathLike[str] = "runs",
    on: str = "local",
    jobs: int | None = None,
    observer: Observer | None = None,
) -> Comparison:
    """Train a recipe's student by several methods, over several seeds and settings, and gather what came of it.

    Args:
        recipe: name of a shipped recipe or path of a YAML file; it names the teacher.
        overrides: ``key=value`` texts; ``key=[a,b]`` makes a setting vary, unless it is one that takes a list.
        methods: as ``recipes.methods`` names them.
        seeds: of the students; the teacher keeps its own.
        runs: folder of all runs; those that have finished are found again, interrupted ones go on.
        on: where they are trained, see ``worker_pool``.
        jobs: so many side by side, see ``worker_pool``.
        observer: is told what happens.

    Returns:
        The comparison; runs that failed say why in it and do not stop the others.

    Raises:
        SvdistillError: as ``plan`` and ``worker_pool``.
    """
    check_place(on)
    comparison = plan(recipe, overrides=overrides, methods=methods, seeds=seeds, runs=runs)
    with worker_pool(comparison, on=on, jobs=jobs) as workers:
        carry_out(comparison, workers, observer=observer)
    return comparison


def plan(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0, 1, 2),
    runs: str | os.PathLike[str] = "runs",
) -> Comparison:
    """Find out which runs a comparison consists of and which are there, and check all of it; writes nothing.

    Args: as for ``compare``.

    Returns:
        The comparison, no run of it begun by this call.

    Raises:
        RecipeError: an unknown method or key, a wrong value, a setting that no method has, or networks that do not fit.
        DataError: the images are missing or damaged, or not those that a run was made with.
        CheckpointError: a teacher's file is missing or damaged.
    """
    methods, seeds = _distinct(methods, "method"), _distinct(seeds, "seed")
    if not all(0 <= seed < 2**32 for seed in seeds):
        raise RecipeError(f"seeds: expected whole numbers from 0 to {2**32 - 1}, got {', '.join(map(str, seeds))}")
    for method in methods:
        if method not in recipes.methods():
            raise RecipeError(f"no method {method!r}{nearest(method, recipes.methods(), limit=len(recipes.methods()))}")
    settings = _Settings(str(recipe), overrides, methods)
    axes = {key: tuple(value for value, _ in choices) for key, choices in settings.axes.items()}
    comparison = Comparison(str(recipe), tuple(overrides), methods, seeds, axes, Path(runs))
    students = list(_students(settings, methods, seeds, Path(runs)))
    comparison.members = [*_teachers(students, axes, Path(runs)), *students]
    _check(comparison.members, Path(runs))
    return comparison


def check_place(on: str) -> None:
    """Refuse a place where nothing can be trained, before any work.

    Args:
        on: one of ``PLACES``.

    Raises:
        RecipeError: there is no such place, or what it needs is not installed.
    """
    if on not in PLACES:
        raise RecipeError(f"no place {on!r} to train on{nearest(on, PLACES, limit=len(PLACES))}")
    if on == "ray" and importlib.util.find_spec("ray") is None:
        raise RecipeError("training on Ray needs the package ray; install it with: pip install 'svdistill[ray]'")


@contextmanager
def worker_pool(comparison: Comparison, *, on: str = "local", jobs: int | None = None) -> Iterator[WorkerPool]:
    """Give those who train what is missing of a comparison; until the block ends.

    Args:
        comparison: what ``plan`` returned.
        on: ``local``, processes of this machine, or ``ray``, a Ray cluster: the one of ``RAY_ADDRESS``, or the one that
            this machine belongs to, or one that is made of this machine and ends with the block. The folder of runs
            must be the same on all its nodes.
        jobs: at most so many side by side; None is one on this machine, and on Ray as many as it has GPUs, or CPUs
            where no recipe wants a GPU or there is none.

    Yields:
        The worker_pool, for ``carry_out``.

    Raises:
        RecipeError: no such place, Ray is not installed or cannot be reached or has not what the recipes ask for, its
            nodes do not see the folder of runs, or fewer than one job.
    """
    check_place(on)
    tasks = _tasks(comparison)
    # Where nothing is to be trained, nobody waits for a cluster.
    if on == "local" or not tasks:
        with pool.worker_pool(comparison.runs, jobs=1 if jobs is None else jobs) as workers:
            yield workers
        return
    from svdistill.sweep import ray as cluster

    with cluster.worker_pool(comparison.runs, [task.recipe for task in tasks], jobs=jobs) as workers:
        yield workers


def carry_out(comparison: Comparison, workers: WorkerPool, *, observer: Observer | None = None) -> None:
    """Train what is missing of a planned comparison; the members' states follow.

    Args:
        comparison: what ``plan`` returned.
        workers: train it, see ``worker_pool``.
        observer: is told what happens, after the comparison's members have been brought up to date.
    """
    run_tasks(_tasks(comparison), workers, observer=_Bookkeeper(comparison, observer or Unobserved()))


def _tasks(comparison: Comparison) -> list[Task]:
    missing = {member.key: member for member in comparison.members if member.state not in ("finished", "unneeded")}
    tasks = []
    for member in missing.values():
        needs = (str(_run(recipe, comparison.runs).path) for recipe in recipes.lineage(member.recipe)[1:])
        tasks.append(Task(member.key, member.recipe, tuple(need for need in needs if need in missing)))
    return tasks


class _Bookkeeper:
    """An observer that brings a comparison's members up to date and then tells another."""

    def __init__(self, comparison: Comparison, observer: Observer) -> None:
        self._members: dict[str, list[Member]] = {}
        for member in comparison.members:
            self._members.setdefault(member.key, []).append(member)
        self._next = observer
        self.moved, self.measured = observer.moved, observer.measured
        self.waiting, self.warned = observer.waiting, observer.warned

    def started(self, task: Task, *, epochs: int, steps: int, done_epochs: int) -> None:
        for member in self._members[task.key]:
            member.state = "running"
        self._next.started(task, epochs=epochs, steps=steps, done_epochs=done_epochs)

    def ended(self, task: Task, outcome: Outcome) -> None:
        for member in self._members[task.key]:
            member.settle(outcome)
        error = self._members[task.key][0].error  # also of a summary that cannot be read
        self._next.ended(task, outcome._replace(error=error))


def _distinct(values: Sequence[Any], what: str) -> tuple[Any, ...]:
    if not values:
        raise RecipeError(f"{what}s: expected at least one")
    twice = next((value for number, value in enumerate(values) if value in values[:number]), None)
    if twice is not None:
        raise RecipeError(f"{what}s: {twice} is there twice")
    return tuple(values)


class _Settings:
    """The settings of a comparison: which of them vary, and which of them mean something to which method.

    Attributes:
        axes: for each setting that varies its values, each with the ``key=value`` text that sets it.
    """

    def __init__(self, recipe: str, overrides: Sequence[str], methods: Sequence[str]) -> None:
        self.recipe = recipe
        self._plain: dict[str, str] = {}
        self.axes: dict[str, list[tuple[Any, str]]] = {}
        lists: dict[str, tuple[list[Any], str]] = {}
        for given in overrides:
            key, value, text = _split(given)
            # Of two for one key the later one holds.
            self._plain.pop(key, None)
            lists.pop(key, None)
            if isinstance(value, list):
                lists[key] = value, text
            else:
                self._plain[key] = text
        self._losses = {method: self._losses_of(method) for method in methods}
        for key, (values, text) in lists.items():
            self._sort_in(key, values, text)

    def _losses_of(self, method: str) -> dict[str, dict[str, Any]]:
        """Return the losses of a method by name, each with all its settings; none for a student alone."""
        rest = [text for key, text in self._plain.items() if key.partition(".")[0] != "loss"]
        try:
            recipe = recipes.load(self.recipe, rest, method=method)
        except RecipeError as error:
            common = [text for key, text in self._plain.items() if not _only_helped(key)]
            try:
                recipe = recipes.load(self.recipe, common, method=method)
            except RecipeError:
                raise error from None
        return {loss.name: loss.model_dump() for loss in recipe.loss}

    def _sort_in(self, key: str, values: list[Any], text: str) -> None:
        """Decide whether a list is a setting's value or the values that it takes in turn."""
        methods = [method for method in self._losses if self._name(key, method) is not None]
        if self._accepts(text, methods[0] if methods else next(iter(self._losses))):
            self._plain[key] = text
            return
        if not values:
            raise RecipeError(f"{key}: expected at least one value between the brackets")
        choices = {json.dumps(value): value for value in values}
        self.axes[key] = [(value, f"{key}={written}") for written, value in choices.items()]

    def _accepts(self, text: str, method: str) -> bool:
        plain = [setting for key, setting in self._plain.items() if self._name(key, method) == key]
        try:
            recipes.lineage(recipes.load(self.recipe, [*plain, text], method=method))
        except SvdistillError:
            return False
        return True

    def _name(self, key: str, method: str) -> str | None:
        """Return what a setting is called in a method's recipe; None where it means nothing there."""
        losses = self._losses[method]
        if _only_helped(key) and not losses:
            return None
        section, *rest = key.split(".")
        if section != "loss" or not rest:
            return key
        if rest[0] in losses:
            return key if len(rest) > 1 and rest[1] in losses[rest[0]] else None
        owners = [name for name, loss in losses.items() if rest[0] in loss]
        if not owners:
            return None
        # Where several losses of a sum have it, the recipe itself says what to write.
        return f"loss.{owners[0]}.{'.'.join(rest)}" if len(owners) == 1 and len(losses) > 1 else key

    def check_meaning(self) -> None:
        """Refuse a setting that means nothing to any of the methods, with the reason that a recipe itself gives."""
        helped = [method for method, losses in self._losses.items() if losses]
        spare = False
        for key in (*self._plain, *self.axes):
            if any(self._name(key, method) is not None for method in self._losses):
                continue
            if not helped and key in self._plain and key.partition(".")[0] != "loss":
                spare = True
                continue
            text = self._plain[key] if key in self._plain else self.axes[key][0][1]
            reasons = [reason for method in helped if (reason := self._reason(text, method))]
            # The method that has something like it knows best what was meant.
            misspelt = [reason for reason in reasons if "did you mean" in str(reason)]
            # Another loss's setting, spelt rightly, is no misspelling; what is near a setting of its own goes first.
            last = key.rpartition(".")[2]
            misspelt = [reason for reason in misspelt if f"did you mean {last!r} of" not in str(reason)]
            raise min(misspelt, key=lambda reason: " of loss " in str(reason), default=None) or RecipeError(
                f"{key}: means nothing to {', '.join(self._losses)}; leave it out or add a method"
            )
        if spare:
            # Settings of a teacher that none of the methods needs do no harm if they are right.
            rest = [text for key, text in self._plain.items() if key.partition(".")[0] != "loss"]
            recipes.lineage(recipes.load(self.recipe, rest, method="svd"))

    def _reason(self, text: str, method: str) -> RecipeError | None:
        try:
            recipes.load(self.recipe, [text], method=method)
        except RecipeError as error:
            return error
        return None

    def of(self, method: str, choice: Mapping[str, tuple[Any, str]]) -> tuple[dict[str, Any], list[str]]:
        """Return which values of the axes a method has, and all its settings."""
        texts = {**self._plain, **{key: text for key, (_, text) in choice.items()}}
        values, settings = {}, []
        for key, text in texts.items():
            name = self._name(key, method)
            if name is not None:
                settings.append(name + text[len(key) :])
                if key in choice:
                    values[key] = choice[key][0]
        return values, settings


def _split(text: str) -> tuple[str, Any, str]:
    """Return the key and the value of a ``key=value`` text, and the text without blanks in its key."""
    value: Any = files.parse([text])
    key = ".".join(part.strip() for part in text.partition("=")[0].split("."))
    if key in _NOT_HERE:
        raise RecipeError(f"{key}: {_NOT_HERE[key]}")
    for part in key.split("."):
        value = value[part]
    return key, value, f"{key}={text.partition('=')[2]}"


def _only_helped(key: str) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in _HELPED_ONLY)


def _students(settings: _Settings, methods: Sequence[str], seeds: Sequence[int], runs: Path) -> Iterator[Member]:
    """Yield the students, seed by seed, so that what is there after an interruption compares like with like."""
    settings.check_meaning()
    made: dict[str, tuple[str, dict[str, Any], Recipe]] = {}
    for choice in itertools.product(*settings.axes.values()):
        for method in methods:
            values, texts = settings.of(method, dict(zip(settings.axes, choice, strict=True)))
            name = json.dumps([method, values])
            if name not in made:
                recipe = recipes.load(settings.recipe, [*texts, f"seed={seeds[0]}"], method=method)
                made[name] = method, values, recipe
    for seed in seeds:
        for method, values, recipe in made.values():
            own = recipe.model_copy(update={"seed": seed})
            yield Member(method, values, seed, own, _run(own, runs))


def _teachers(students: Sequence[Member], axes: Mapping[str, Sequence[Any]], runs: Path) -> list[Member]:
    """Return the teachers of all students, each once and before those that it teaches."""
    found: dict[str, tuple[Recipe, Run, list[Member]]] = {}
    for student in students:
        for recipe in reversed(recipes.lineage(student.recipe)[1:]):
            run = _run(recipe, runs)
            found.setdefault(str(run.path), (recipe, run, []))[2].append(student)
    members = []
    for recipe, run, taught in found.values():
        values = {}
        for key in axes:
            used = {json.dumps(member.axes[key]): member.axes[key] for member in taught if key in member.axes}
            # A setting that all of its students share, and others do not, is what tells this teacher from others.
            if len(found) > 1 and len(used) == 1 < len(axes[key]):
                values[key] = next(iter(used.values()))
        members.append(Member(TEACHER, values, recipe.seed, recipe, run))
    return members


def _run(recipe: Recipe, runs: Path) -> Run:
    return Run(runs / recipe.name / recipes.identity(recipe))


def _check(members: Sequence[Member], runs: Path) -> None:
    """Check networks, losses and images once for each configuration, and the images of every run that is there."""
    images = _remembering(load_images)
    checked = set()
    for member in members:
        if member.method != TEACHER:
            name = json.dumps([member.method, dict(member.axes)])
            if name not in checked:
                checked.add(name)
                _check_one(member.recipe, images)
        _look_up(member, images)
    needed = {
        str(_run(recipe, runs).path)
        for member in members
        if member.state != "finished"
        for recipe in recipes.lineage(member.recipe)[1:]
    }
    for member in members:
        if member.method == TEACHER and member.state != "finished" and member.key not in needed:
            member.state = "unneeded"


def _check_one(recipe: Recipe, images: Callable[[Recipe], Images]) -> None:
    line = recipes.lineage(recipe)
    for member, parent in zip(line, (*line[1:], None), strict=True):
        theirs = None if parent is None else images(parent)
        check(member, images(member), teacher_recipe=parent, teacher_images=theirs)


def _look_up(member: Member, images: Callable[[Recipe], Images]) -> None:
    """Find out how far a run is, and that it is one of the same images."""
    run = member.run
    if not run.path.exists():
        return
    run.check_data(images(member.recipe))
    member.found = run.finished
    if run.finished:
        member.settle(Outcome())
    else:
        member.state = "begun"


def _remembering(load: Callable[[Recipe], Images], *, size: int = 8) -> Callable[[Recipe], Images]:
    """Keep the last few sets of images: many runs share them, and all of them at once may not fit into memory."""
    kept: dict[str, Images] = {}

    def images(recipe: Recipe) -> Images:
        settings = recipe.to_dict()
        # The seed chooses the labelled images.
        seed = None if recipe.data.train_size is None else recipe.seed
        name = json.dumps([settings["data"], recipe.train.batch_size, bool(recipe.loss), seed])
        if name not in kept:
            while len(kept) >= size:
                del kept[next(iter(kept))]
            kept[name] = load(recipe)
        kept[name] = kept.pop(name)
        return kept[name]

    return images
