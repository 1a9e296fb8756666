"""Which teacher cache a recipe asks for: what it must be of, and where it lies."""

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import nn

from svdistill import nets, teacher_cache
from svdistill.atomic import digest
from svdistill.nets.libraries.own import source_file
from svdistill.nets.reader import run_tapped
from svdistill.recipes import build, outside
from svdistill.recipes.images import Images, augmentation, fixed_views, noise
from svdistill.recipes.load import identity, teacher_of
from svdistill.recipes.schema import Recipe

FOLDER = "knowledge"


def key(recipe: Recipe, images: Images, *, student: nn.Module, teacher_file: Path) -> teacher_cache.Key:
    """Return what a teacher cache must be of to serve a recipe.

    Args:
        recipe: it has ``teacher.views``.
        images: the student's, on the CPU.
        student: its network, whose maps' sizes matter to some losses; it is put in eval mode.
        teacher_file: the teacher's weights.

    Returns:
        The key, with fingerprints of images and weights.

    Raises:
        CheckpointError: the teacher's file is missing or damaged.
    """
    views, parent = fixed_views(recipe), teacher_of(recipe)
    assert views is not None
    criteria = build.losses(recipe)
    maps = build.reads_maps(criteria)
    known = images.fingerprints
    return teacher_cache.Key(
        teacher=_teacher(teacher_file),
        images=[known[name] for name in ("train", "unlabelled") if name in known],
        mean=images.mean.tolist(),
        std=images.std.tolist(),
        augmentation=augmentation(recipe.data.augment).plain(),
        views=views.count,
        seed=views.seed,
        taps=build.teacher_taps(recipe, parent) if maps else (),
        drop_tokens=build.drop_tokens(recipe, parent)[1] if maps else 0,
        layout=build.layouts(recipe, parent)[1] if maps else None,
        grids=_grids(recipe, student, images) if maps else (),
        losses={name: dict(one.extracts) for name, one in criteria.items() if one.storable},
    )


def folder(recipe: Recipe, wanted: teacher_cache.Key) -> Path:
    """Return where a recipe's teacher cache lies, below the folder of runs.

    The name comes from settings, not from what files hold: where weights or images have changed under the same
    settings, what was stored of the old ones is found, and refused.

    Args:
        recipe: it has ``teacher.views``.
        wanted: what ``key`` returned.

    Returns:
        ``knowledge/<teacher>/<views>-<digest>``.
    """
    parent = teacher_of(recipe)
    assert recipe.teacher is not None
    name = Path(str(recipe.teacher.checkpoint)).stem if parent is None else parent.name
    if recipe.teacher.model is not None:
        name = outside.slug(recipe.teacher.model)
    about = {
        **{
            field: value for field, value in wanted.plain().items() if field not in ("teacher", "images", "mean", "std")
        },
        "teacher": wanted.teacher if parent is None else identity(parent),
        "images": _images(recipe),
    }
    if recipe.model.trained or recipe.model.mean is not None:  # no setting of the images says how they are scaled
        about |= {"mean": wanted.mean, "std": wanted.std}
    letters = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:10]
    return Path(FOLDER) / name / f"{wanted.views}-{letters}"


def _teacher(file: Path) -> str:
    """Return what tells a teacher: the checksum of its file, and of its module where it is code of one's own."""
    name = nets.spec(file)["name"]  # which also notices a file that is cut off
    source = source_file(name)
    if source is None:
        return digest(file)
    return hashlib.sha256(f"{digest(file)} {digest(source)}".encode()).hexdigest()


def _images(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that say which images there are; the seed is one where it chooses some."""
    # Defaults are left out, so that a setting that a later version adds renames no folder.
    data = recipe.data.model_dump(mode="json", exclude_defaults=True, exclude={"root", "augment", "unlabelled"})
    other = recipe.data.unlabelled
    if other is not None:
        data["unlabelled"] = {"name": other.name, "size": other.size}
    if recipe.data.chosen_by_seed:
        data["seed"] = recipe.seed
    return data


def _grids(recipe: Recipe, student: nn.Module, images: Images) -> list[list[int]]:
    """Return height and width, or the number of positions, of the student's map at each tap."""
    settings = recipe.model
    one_image, names = noise(images)[:1], build.taps(recipe)
    student.eval()
    maps = run_tapped(student, names, one_image, drop_tokens=settings.drop_tokens, layout=settings.layout)[1]
    shapes = [one.shape for one in maps]
    return [list(shape[2:]) if len(shape) == 4 else list(shape[1:-1]) for shape in shapes]
