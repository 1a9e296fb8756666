"""Store what the losses need of a teacher, so that training reads it instead of running the teacher."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svdistill.errors import RecipeError
from svdistill.jobs.callbacks import Callbacks, NoCallbacks
from svdistill.jobs.teacher_cache import provide
from svdistill.jobs.train import launch, prepared, teacher_file
from svdistill.recipes import Recipe
from svdistill.training import Processes


@dataclass(frozen=True)
class Stored:
    """What is stored of a teacher.

    Attributes:
        path: its folder.
        images: the number of images, those without labels included.
        views: the number of views of each.
        bytes: the size of all of it on disk.
        taken: the number of images that this call ran the teacher on, all views counted; 0 where it was reused.
        seconds: how long that took.
    """

    path: Path
    images: int
    views: int
    bytes: int
    taken: int
    seconds: float

    @property
    def bytes_an_image(self) -> float:
        """Bytes an image and view."""
        return self.bytes / (self.images * self.views)


def cache(
    recipe: str | Path | Recipe,
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    method: str | None = None,
    runs: str | os.PathLike[str] = "runs",
    fresh: bool = False,
    callbacks: Callbacks | None = None,
) -> Stored:
    """Run a recipe's teacher once over fixed views of all training images, and store what the losses need of it.

    It lies in ``<runs>/knowledge/<teacher>/<views>-<digest of the settings that matter>``, where ``train`` of the same
    recipe finds it. The teacher is trained first, if need be.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, or a validated recipe; it has a teacher.
        overrides: as for ``train``; ``views`` is short for ``teacher.views``.
        method: as for ``train``.
        runs: folder of all runs.
        fresh: run the teacher again, even if all is there.
        callbacks: is told what happens.

    Returns:
        What is stored, by this call or an earlier one.

    Raises:
        RecipeError: a wrong setting, no teacher, no number of views, or a loss that needs too much of the teacher.
        DataError: what is there is of other weights, images or settings, or damaged, or the disk is full.
        CheckpointError: a teacher's file is damaged or belongs to another model.
        TrainingError: the teacher could not be trained.
    """
    callbacks = callbacks or NoCallbacks()
    line, images = prepared(recipe, long_form(overrides), method)
    own = line[0]
    if own.teacher is None:
        raise RecipeError(
            f"teacher: {own.name} has none of which anything could be stored; take digits/svd, for instance"
        )
    if own.teacher.views is None:
        raise RecipeError("teacher.views: missing; say how many views of each image to store, for instance views=8")
    if own.teacher.live:
        raise RecipeError("teacher.live: such a recipe runs its teacher in every step; take teacher.live=false")
    engine = launch(own)
    weights = teacher_file(line, images, Path(runs), Processes(engine), callbacks=callbacks)
    assert weights is not None
    found = provide(own, images[0], Path(runs), teacher_file=weights, engine=engine, callbacks=callbacks, fresh=fresh)
    known = found.cache
    return Stored(found.path, known.images, known.views, known.bytes, found.taken, found.seconds)


def long_form(overrides: Sequence[str] | Mapping[str, Any]) -> Sequence[str] | Mapping[str, Any]:
    """Write ``views``, among texts or nested settings, as ``teacher.views``."""
    if not isinstance(overrides, Mapping):
        return [f"teacher.{text}" if text.partition("=")[0].strip() == "views" else text for text in overrides]
    settings, teacher = dict(overrides), overrides.get("teacher", {})
    if "views" in settings and isinstance(teacher, Mapping):
        settings["teacher"] = {**teacher, "views": settings.pop("views")}
    return settings
