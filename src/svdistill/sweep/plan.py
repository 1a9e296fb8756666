"""Which runs a comparison consists of, which of them are there, and whether all of them can be trained."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from svdistill import recipes
from svdistill.errors import DataError, RecipeError
from svdistill.jobs.run import Run, own_code, warn_of_code
from svdistill.methods import TEACHER
from svdistill.nets import foreign
from svdistill.recipes import Recipe, files
from svdistill.recipes.check import check_line, check_parts
from svdistill.recipes.images import Images, load_images
from svdistill.records import NOT_TOLD_APART
from svdistill.runs import flat
from svdistill.sweep.comparison import Comparison, Member
from svdistill.sweep.grid import Cell, Grid
from svdistill.sweep.scheduler import Outcome


def plan(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    runs: str | os.PathLike[str] = "runs",
) -> Comparison:
    """Find out which runs a comparison consists of and which are there, and check all of it; writes nothing.

    Args:
        recipe: name of a shipped recipe or path of a YAML file; it names the teacher.
        overrides: ``key=value`` texts; ``key=[a,b]`` makes a setting vary, unless it is one that takes a list.
        methods: as ``recipes.methods`` names them; None = those of the standard comparison.
        seeds: of the students; the teacher keeps its own.
        runs: folder of all runs.

    Returns:
        The comparison, no run of it begun by this call.

    Raises:
        RecipeError: an unknown method or key, a wrong value, a setting that no method has, or networks that do not fit.
        DataError: the images are missing or damaged, or not those that a run was made with.
        CheckpointError: a teacher's file is missing or damaged.
    """
    methods = _distinct(recipes.compared_methods() if methods is None else methods, "method")
    seeds = _distinct(seeds, "seed")
    if not all(0 <= seed < 2**32 for seed in seeds):
        raise RecipeError(f"seeds: expected whole numbers from 0 to {2**32 - 1}, got {', '.join(map(str, seeds))}")
    for method in methods:
        files.method(method)  # refuses an unknown one
    grid = Grid(str(recipe), overrides, methods)
    grid.check_meaning()
    axes = {key: tuple(value for value, _ in choices) for key, choices in grid.axes.items()}
    comparison = Comparison(str(recipe), tuple(overrides), methods, seeds, axes, Path(runs))
    students = list(_students(grid, seeds, Path(runs)))
    comparison.members = [*_teachers(students, axes, Path(runs)), *students]
    _check(comparison.members, Path(runs))
    return comparison


def _distinct(values: Sequence[Any], what: str) -> tuple[Any, ...]:
    if not values:
        raise RecipeError(f"{what}s: expected at least one")
    twice = next((value for number, value in enumerate(values) if value in values[:number]), None)
    if twice is not None:
        raise RecipeError(f"{what}s: {twice} is there twice")
    return tuple(values)


def _students(grid: Grid, seeds: Sequence[int], runs: Path) -> Iterator[Member]:
    """Yield the students, seed by seed, so that what is there after an interruption compares like with like."""
    distinct: dict[str, tuple[Cell, Recipe]] = {}
    for cell in grid.cells():
        name = json.dumps([cell.method, cell.values])
        if name not in distinct:
            settings = [*cell.settings, f"seed={seeds[0]}"]
            distinct[name] = cell, recipes.load(grid.recipe, settings, method=cell.method)
    _check_told_apart([recipe for _, recipe in distinct.values()], runs)
    _check_axes_matter(list(distinct.values()), runs)
    for seed in seeds:
        for cell, recipe in distinct.values():
            own = recipe.model_copy(update={"seed": seed})
            yield Member(cell.method, cell.values, seed, own, Run.of(own, runs))


def _check_told_apart(students: Sequence[Recipe], runs: Path) -> None:
    """Refuse to vary what no run's folder is called after: one run would stand for all of its values."""
    known: dict[Path, Mapping[str, Any]] = {}
    for student in students:
        for depth, member in enumerate(recipes.lineage(student)):
            settings = flat(member.to_dict())
            before = known.setdefault(Run.of(member, runs).path, settings)
            key = next((key for key in NOT_TOLD_APART if settings.get(key) != before.get(key)), None)
            if key is not None:
                raise RecipeError(
                    f"{'teacher.overrides.' * depth}{key}: runs are not told apart by it, so that one would stand for "
                    "all its values; compare each value by itself, with its own folder of runs (--runs)"
                )


def _check_axes_matter(students: Sequence[tuple[Cell, Recipe]], runs: Path) -> None:
    """Refuse to vary what makes no difference to any method: all values of it would be one and the same run."""
    for key in dict.fromkeys(key for cell, _ in students for key in cell.values):
        alike: dict[str, set[Path]] = {}
        values: dict[str, None] = {}
        for cell, recipe in students:
            if key in cell.values:
                others = {name: value for name, value in cell.values.items() if name != key}
                alike.setdefault(json.dumps([cell.method, others]), set()).add(Run.of(recipe, runs).path)
                values[json.dumps(cell.values[key])] = None
        if len(values) > 1 and all(len(paths) == 1 for paths in alike.values()):
            raise RecipeError(
                f"{key}: {' and '.join(values)} come to the same run, as it changes nothing beside the other settings; "
                "give one value"
            )


def _teachers(students: Sequence[Member], axes: Mapping[str, Sequence[Any]], runs: Path) -> list[Member]:
    """Return the teachers of all students, each once and before those that it teaches."""
    found: dict[str, tuple[Recipe, Run, list[Member]]] = {}
    for student in students:
        for recipe in reversed(recipes.lineage(student.recipe)[1:]):
            run = Run.of(recipe, runs)
            found.setdefault(str(run.path), (recipe, run, []))[2].append(student)
    members = []
    for recipe, run, taught in found.values():
        values = {}
        for key in axes:
            used = {json.dumps(member.axes[key]): member.axes[key] for member in taught if key in member.axes}
            # A setting that all of its students share, and others do not, tells this teacher from others.
            if len(found) > 1 and len(used) == 1 < len(axes[key]):
                values[key] = next(iter(used.values()))
        members.append(Member(TEACHER, values, recipe.seed, recipe, run))
    return members


def _check(members: Sequence[Member], runs: Path) -> None:
    """Check networks, losses and images once for each configuration, and the images of every run that is there."""
    images = _remembering(load_images)
    checked, changed = set(), list[Path]()
    for member in members:
        if member.method != TEACHER:
            name = json.dumps([member.method, dict(member.axes)])
            if name not in checked:
                checked.add(name)
                _check_one(member.recipe, images)
        if (file := _look_up(member, images, runs)) is not None:
            changed.append(file)
    if changed:
        which = f"{len(changed)} of the runs that are there were"
        warn_of_code(which, changed[0], remedy="move them away, and the same command trains them again")
    taught_by = {member.key: member.taught_by(runs) for member in members}
    needed = {teacher for member in members if member.state != "finished" for teacher in taught_by[member.key]}
    lost = [member for member in members if member.method == TEACHER and member.state != "finished"]
    for teacher in lost:
        if teacher.key not in needed:
            teacher.state = "unneeded"
            _check_one_training(member for member in members if taught_by[member.key][:1] == (teacher.key,))
            continue
        # It is trained again, and may come out as another; whoever takes up its students then compares the two.
        for member in members:
            if teacher.key in taught_by[member.key]:
                member.unsettle()


def _check_one(recipe: Recipe, images: Callable[[Recipe], Images]) -> None:
    line = recipes.lineage(recipe)
    for member in line:
        check_parts(member)
    check_line(line, [images(member) for member in line])


def _look_up(member: Member, images: Callable[[Recipe], Images], runs: Path) -> Path | None:
    """Find out how far a run is, and that it is one of the same images and the same teacher.

    Returns:
        The file of its code that has changed since it ended; None where none has.
    """
    run = member.run
    if not run.path.exists():
        return None
    parent = recipes.teacher_of(member.recipe)
    run.check_made_with(images(member.recipe), None if parent is None else Run.of(parent, runs))
    changed = run.check_code(own_code(member.recipe))
    member.found = run.whole
    if member.found:
        member.settle(Outcome())
    else:
        member.state = "begun"
    return changed


def _check_one_training(students: Iterable[Member]) -> None:
    """Refuse students of two trainings of a teacher that is gone, so that none can be compared with it."""
    learned: dict[str, Path] = {}
    for student in students:
        if (teacher := student.run.learned_from) is not None:
            learned.setdefault(teacher, student.run.path)
    if len(learned) > 1:
        one, other = list(learned.values())[:2]
        raise DataError(
            f"the runs {one} and {other} learned from two trainings of their teacher, of which none is there any more; "
            "move those of one training away, and the same command trains them again"
        )


def _remembering(load: Callable[[Recipe], Images], *, size: int = 8) -> Callable[[Recipe], Images]:
    """Keep the last few sets of images: many runs share them, and all of them at once may not fit into memory."""
    kept: dict[str, Images] = {}

    def images(recipe: Recipe) -> Images:
        settings = recipe.to_dict()
        seed = recipe.seed if recipe.data.chosen_by_seed else None
        # A network that begins with trained weights has images of its own scale, one of a library of its own size.
        own = recipe.model.trained or recipe.model.mean or foreign.is_of_library(recipe.model.name)
        network = settings["model"] if own else None
        name = json.dumps([settings["data"], recipe.train.batch_size, bool(recipe.loss), seed, network])
        if name not in kept:
            while len(kept) >= size:
                del kept[next(iter(kept))]
            kept[name] = load(recipe)
        kept[name] = kept.pop(name)
        return kept[name]

    return images
