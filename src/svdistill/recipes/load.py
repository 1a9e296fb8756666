"""Recipes by name or path, validated, with errors of one line that name the key and the nearest right one."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from svdistill.atomic import digest
from svdistill.choices import IMAGE_FOLDER
from svdistill.errors import RecipeError, brief, nearest, one_line
from svdistill.methods import shipped
from svdistill.recipes import files
from svdistill.recipes.data import (
    AugmentSettings,
    ColourJitterSettings,
    DataSettings,
    ErasingSettings,
    ResizedCropSettings,
    UnlabelledSettings,
    same_folder,
)
from svdistill.recipes.losses import LOSSES
from svdistill.recipes.models import ModelSettings, OutsideSettings
from svdistill.recipes.schema import Recipe, TeacherSettings
from svdistill.recipes.train import OPTIMIZERS, LinearProbeSettings, TrainSettings
from svdistill.records import MACHINE_KEYS, RunRecord

# The sections whose settings are told apart by a name.
_TAGS: Mapping[str, Mapping[str, type[BaseModel]]] = {"loss": LOSSES, "optimizer": OPTIMIZERS}
_SECTIONS: Mapping[str, tuple[type[BaseModel], ...]] = {
    "": (Recipe,),
    "data": (DataSettings,),
    "data.augment": (AugmentSettings,),
    "data.augment.resized_crop": (ResizedCropSettings,),
    "data.augment.erasing": (ErasingSettings,),
    "data.augment.colour_jitter": (ColourJitterSettings,),
    "data.unlabelled": (UnlabelledSettings,),
    "model": (ModelSettings,),
    "teacher": (TeacherSettings,),
    "teacher.model": (OutsideSettings,),
    **{section: tuple(kinds.values()) for section, kinds in _TAGS.items()},
    "train": (TrainSettings,),
    "train.linear_probe": (LinearProbeSettings,),
}
_LONGEST, _LONGEST_REASON = 80, 500  # characters of a key, and of what is wrong with a value
_SAME_IMAGES = ("classes", "held_out", "image_size", "channels", "background")
# With the seed, what chooses the labelled images that are trained on.
_CHOSEN_BY = ("train_size", "validation")
# What makes images of a data set other labelled images beside these.
_LABELLED_BY = ("name", "root", "classes", "task")
_EXPECTED = {
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "tuple_type": "expected a list, for instance [a, b]",
    "model_type": "expected settings of its own (key: value)",
    "model_attributes_type": "expected settings of its own (key: value)",
    "dict_type": "expected settings of its own (key: value)",
    "finite_number": "expected a finite number",
    "greater_than": "expected more than {gt:g}",
    "greater_than_equal": "expected at least {ge:g}",
    "less_than": "expected less than {lt:g}",
    "less_than_equal": "expected at most {le:g}",
    "too_short": "expected at least {min_length} entries",
}
_PATTERNS = {
    "name": "letters, digits, '.', '_', '-' in parts joined by '/'",
    "train.device": "'auto', 'cpu', 'cuda' or 'cuda:N'",
}


def names() -> tuple[str, ...]:
    """Return the names of the recipes that come with svdistill, in alphabetical order."""
    return tuple(files.shipped())


def methods() -> dict[str, str]:
    """Return the methods that a recipe can be loaded with: name → what it is, in alphabetical order."""
    return {name: method.description for name, method in shipped().items()}


def load(name: str | Path, overrides: Sequence[str] | Mapping[str, Any] = (), *, method: str | None = None) -> Recipe:
    """Read a recipe, lay a method and the overrides over it and validate the result.

    Args:
        name: name of a shipped recipe, e.g. ``digits/svd``, or the path of a YAML file.
        overrides: ``key=value`` texts, or nested settings as in a recipe.
        method: train the recipe's student by another method, e.g. ``fsp-two-stage``; what the recipe itself says of the
            same loss stays, its weights even where the method names some. A method that the recipe extends stays as the
            recipe has it. The last part of the recipe's name becomes
            the method's where it is a method's name already, else the method's name is added: ``digits/svd`` →
            ``digits/fsp``, ``mine`` → ``mine/fsp``. With ``alone``, overrides of ``teacher``, ``loss`` and
            ``data.unlabelled`` change nothing.

    Returns:
        The validated settings.

    Raises:
        RecipeError: no such recipe or method, or a key is unknown, missing, of the wrong type or out of range.
    """
    above = dict(overrides) if isinstance(overrides, Mapping) else files.parse(overrides)
    if "extends" in above:
        raise RecipeError("extends: belongs in a recipe's file; give the recipe itself as RECIPE")
    # A method takes the place of the one that the recipe extends; what the recipe says itself stays.
    its_own = method is None or files.extends(str(name), method)
    plain = files.read(str(name), with_methods=its_own)
    _check_leave(str(name), plain)
    if method is not None:
        name_with_method = _renamed(str(plain["name"]), method)
        if not its_own:
            plain["loss"] = files.owned(plain.get("loss"), files.read(str(name)).get("loss"))
            plain = files.overlay(plain, files.read(f"{files.METHODS}/{method}"))
        plain["name"] = name_with_method
        if plain["loss"] is not None and not (plain.get("teacher") or above.get("teacher")):
            raise RecipeError(
                f"method {method!r} needs a teacher, and {name} has none; add teacher.recipe=NAME, or take a recipe "
                "that has one, e.g. digits/svd"
            )
        if plain["loss"] is None:
            plain, above = _without_help(plain), _without_help(above)
    return validate(files.merge(plain, above))


def _check_leave(name: str, plain: Mapping[str, Any]) -> None:
    """Refuse leave to run code from a file that nobody may have read: one of a run, as it is handed around."""
    if plain.get(files.ALLOW_CODE) and RunRecord(files.find(name)[1].parent).exists:
        raise RecipeError(
            f"allow_code: {name} lies in the folder of a run, which gives no leave to run code; look at what it names, "
            "and give --allow-code"
        )


def _without_help(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is for the other methods: teacher, loss, and images from which only a loss learns."""
    kept = {key: value for key, value in settings.items() if key not in ("teacher", "loss")}
    if isinstance(kept.get("data"), Mapping):
        kept["data"] = {key: value for key, value in kept["data"].items() if key != "unlabelled"}
    return kept


def _renamed(name: str, method: str) -> str:
    front, _, last = name.rpartition("/")
    return f"{front}/{method}" if front and last in (*shipped(), "student") else f"{name}/{method}"


def validate(settings: Mapping[str, Any]) -> Recipe:
    """Validate settings given as nested dictionaries.

    Args:
        settings: as ``Recipe.to_dict`` returns them; keys with defaults may be left out.

    Returns:
        The recipe.

    Raises:
        RecipeError: names the first wrong key, and how many more there are.
    """
    with _in_one_line():
        return Recipe.model_validate(dict(settings))


def images_of(name: str, overrides: Sequence[str]) -> DataSettings:
    """Return how the images of a data set are varied where only this is asked for.

    Args:
        name: the data set's.
        overrides: ``data.augment.…=value`` texts.

    Returns:
        The validated settings.

    Raises:
        RecipeError: another key, or one is unknown, of the wrong type or out of range.
    """
    settings = files.parse(overrides)
    for override in overrides:
        if not override.strip().startswith("data.augment."):
            raise RecipeError(f"{brief(override)}: expected how images vary, for instance data.augment.erasing=true")
    with _in_one_line("data"):
        return DataSettings.model_validate({"name": name, **settings.get("data", {})})


@contextmanager
def _in_one_line(*section: str) -> Iterator[None]:
    """Turn what pydantic finds in the settings of a section into one line."""
    try:
        yield
    except ValidationError as error:
        # A misspelt key often leaves another one missing: name the misspelling first.
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        others = len(problems) - 1
        more = f" (and {others} more problem{'s' if others > 1 else ''})" if others else ""
        first: ErrorDetails = {**problems[0], "loc": (*section, *problems[0]["loc"])}
        raise RecipeError(_sentence(first) + more) from error


def teacher_of(recipe: Recipe) -> Recipe | None:
    """Return the recipe of a recipe's teacher, validated.

    The teacher keeps its own seed, unless ``teacher.same_images`` asks for the student's, with its ``data.train_size``
    and ``data.validation``.
    It takes over what only says where and how fast: device, compilation, how often to save. For the same data set it
    takes over the folder of the files and, where its own recipe does not name them, the classes, the part that is held
    out, the size and the channels of the images. Two folders of images are two data sets.

    Args:
        recipe: the student's recipe.

    Returns:
        The teacher's recipe; None where there is no teacher or it is given by a checkpoint.

    Raises:
        RecipeError: no such recipe, an override does not fit it, it holds out another part of the same data set, or it
            cannot have the student's images.
    """
    teacher = recipe.teacher
    if teacher is None or teacher.recipe is None:
        return None
    try:
        load(teacher.recipe)
        # As it is written, not as it is understood: a preset that an override names goes before a written setting's
        # default, not before the setting.
        plain = files.read(teacher.recipe)
    except RecipeError as error:
        raise RecipeError(f"teacher.recipe: {error}") from error
    own, settings = recipe.to_dict(), files.merge(plain, teacher.overrides)
    given = {key for key in MACHINE_KEYS if _lookup(teacher.overrides, key) is not None}
    same_data = isinstance(settings["data"], dict) and _is_same_data(recipe, settings["data"])
    for key in MACHINE_KEYS:
        section, last = key.split(".")
        if key not in given and isinstance(settings.get(section), dict) and (section != "data" or same_data):
            settings[section] = {**settings[section], last: own[section][last]}
    if same_data:
        inherited = {key: own["data"][key] for key in _SAME_IMAGES if settings["data"].get(key) is None}
        settings["data"] = {**settings["data"], **inherited}
    if teacher.same_images:
        settings = _on_same_images(recipe, settings)
    if "allow_code" in teacher.overrides:
        raise RecipeError("teacher.overrides.allow_code: one word counts for student and teacher; give allow_code=true")
    settings["allow_code"] = recipe.allow_code
    try:
        found = validate(settings)
    except RecipeError as error:
        raise RecipeError(f"teacher.overrides.{error}") from error
    _check_images(recipe, found, same_images=teacher.same_images)
    return found


def _is_same_data(recipe: Recipe, teacher: Mapping[str, Any]) -> bool:
    """Whether a teacher's recipe is of the student's data set; of folders of images the root says which it is."""
    if teacher.get("name") != recipe.data.name:
        return False
    root = teacher.get("root")
    return recipe.data.name != IMAGE_FOLDER or root is None or same_folder(str(root), recipe.data.root)


def _on_same_images(recipe: Recipe, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give a teacher what chooses the student's labelled images, which its overrides must not name too."""
    assert recipe.teacher is not None
    for key in ("seed", *(f"data.{name}" for name in _CHOSEN_BY)):
        if _lookup(recipe.teacher.overrides, key) is not None:
            raise RecipeError(
                f"teacher.overrides.{key}: with teacher.same_images it is the student's; leave it out, or take "
                "teacher.same_images=false"
            )
    given = settings["data"] if isinstance(settings.get("data"), dict) else {}
    return {**settings, "seed": recipe.seed, "data": {**given, **recipe.data.model_dump(include=set(_CHOSEN_BY))}}


def _check_images(recipe: Recipe, teacher: Recipe, *, same_images: bool) -> None:
    """Refuse a teacher trained on images that are held out, and one of other images where they are to be the same."""
    same_data = _is_same_data(recipe, teacher.data.model_dump())
    if same_data and teacher.data.held_out != recipe.data.held_out:
        raise RecipeError(
            f"data.held_out: the teacher {teacher.name!r} holds out {teacher.data.held_out:g} of the same images and "
            f"the student {recipe.data.held_out or 'nothing'}; take data.held_out={teacher.data.held_out:g} for both"
        )
    for key in _LABELLED_BY if same_images else ():
        own, other = recipe.data.model_dump()[key], teacher.data.model_dump()[key]
        if own != other:
            raise RecipeError(
                f"teacher.same_images: the teacher {teacher.name!r} has {brief(other)} for data.{key} and the student "
                f"{brief(own)}; take the same for both, or teacher.same_images=false"
            )


def lineage(recipe: Recipe) -> tuple[Recipe, ...]:
    """Return a recipe and the recipes of its teacher, its teacher's teacher and so on.

    Args:
        recipe: where to start.

    Returns:
        The recipes, the student first.

    Raises:
        RecipeError: a recipe is its own teacher, directly or by a detour, or a teacher's recipe is wrong.
    """
    found = [recipe]
    while (teacher := teacher_of(found[-1])) is not None:
        if teacher in found:
            raise RecipeError(
                f"teacher.recipe: {teacher.name!r} is its own teacher; give another recipe or teacher=null"
            )
        found.append(teacher)
    return tuple(found)


def identity(recipe: Recipe) -> str:
    """Return the name of a run's folder: ``<seed>-<digest>``, where the digest also covers who the teacher is.

    Args:
        recipe: a validated recipe.

    Returns:
        e.g. ``"0-3f2a91c07b"``; see ``Recipe.digest`` for what counts.

    Raises:
        RecipeError: the teacher's recipe is wrong, or a checkpoint cannot be read.
    """
    settings, teacher = recipe.teacher, None
    if settings is not None and settings.checkpoint is not None:
        teacher = _checksum(settings.checkpoint, "teacher.checkpoint", "a .safetensors file")
    elif settings is not None and settings.model is not None:
        file = settings.model.checkpoint
        found = None if file is None else _checksum(file, "teacher.model.checkpoint", "a file of weights")
        teacher = settings.model.identity(checkpoint=found)
    elif (parent := teacher_of(recipe)) is not None:
        teacher = identity(parent)
    begun = recipe.model.checkpoint
    weights = None if begun is None else _checksum(begun, "model.checkpoint", "a file of weights")
    return f"{recipe.seed}-{recipe.digest(teacher=teacher, weights=weights)}"


def _checksum(path: str, key: str, wanted: str) -> str:
    try:
        return digest(path)
    except OSError as error:
        raise RecipeError(f"{key}: cannot read {path} ({error.strerror or error}); give {wanted}") from error


def _lookup(settings: Mapping[str, Any], key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _known_keys() -> list[str]:
    return [
        f"{section}.{key}" if section else key
        for section, models in _SECTIONS.items()
        for model in models
        for key in model.model_fields
    ]


def _sentence(problem: ErrorDetails) -> str:
    """Turn one of pydantic's errors into our line: the dotted key, what came, what was expected."""
    # In a list of losses the position of one says less than its name, which follows as the tag.
    parts = [
        one_line(part)[:_LONGEST]
        for part in problem["loc"]
        if not (isinstance(part, int) and problem["loc"][0] == "loss")
    ]
    tag = None
    if len(parts) > 1 and parts[0] in _TAGS and parts[1] in _TAGS[parts[0]]:
        tag = parts.pop(1)
    key = ".".join(parts)
    kind, came, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(parts, tag)
    if kind == "missing":
        return f"{key}: missing; give {key}=VALUE"
    if kind in ("literal_error", "union_tag_invalid"):
        allowed = re.findall(r"'([^']+)'", str(context.get("expected") or context.get("expected_tags")))
        key, came = (f"{key}.name", context["tag"]) if kind == "union_tag_invalid" else (key, came)
        return f"{key}: no {brief(came)}; expected {' or '.join(repr(a) for a in allowed)}"
    if kind == "union_tag_not_found":
        return f"{key}.name: missing; expected {' or '.join(repr(t) for t in _TAGS[key])}"
    if kind == "value_error":
        text = one_line(context["error"])[:_LONGEST_REASON]
        joint = "." if re.match(r"[a-z_.]+: ", text) else ": "
        return f"{key}{joint}{text}" if key else text
    if kind == "string_pattern_mismatch":
        return f"{key}: expected {_PATTERNS[key]}, got {brief(came)}"
    expected = _EXPECTED[kind].format(**context) if kind in _EXPECTED else problem["msg"]
    return f"{key}: {expected}, got {'nothing' if came is None else brief(came)}"


def _unknown_key(parts: list[str], tag: str | None) -> str:
    """Point to the nearest key of the same section, or to the section that has a key of this very name."""
    section, wrong = ".".join(parts[:-1]), parts[-1]
    if "." in wrong:  # as a command line has it
        outer = wrong.split(".")
        nested = f"{': {'.join(outer)}: …{'}' * (len(outer) - 1)}"
        return f"{'.'.join(parts)}: a recipe's sections are nested; write {nested}"
    models = (_TAGS[section][tag],) if tag else _SECTIONS.get(section, ())
    here = [key for model in models for key in model.model_fields]
    elsewhere = [key for key in _known_keys() if key.rpartition(".")[2] == wrong and key.rpartition(".")[0] != section]
    owner = f" for {section} {tag!r}" if tag else ""
    hint = f"; did you mean {' or '.join(repr(key) for key in elsewhere[:3])}?" if elsewhere else nearest(wrong, here)
    if tag and not get_close_matches(
        wrong, here, cutoff=0.7
    ):  # a setting of another loss or optimizer, misspelt or not
        for other, model in _TAGS[section].items():
            if close := get_close_matches(
                wrong, [key for key in model.model_fields if key not in here], n=1, cutoff=0.7
            ):
                hint = f"; did you mean {close[0]!r} of {section} {other!r}?"
                break
    return f"{'.'.join(parts)}: unknown key{owner}{hint}"
