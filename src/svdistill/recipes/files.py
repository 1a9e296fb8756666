"""YAML files and ``key=value`` settings as plain dictionaries: ``extends``, merging, paths."""

import copy
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache, partial
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from svdistill import methods
from svdistill.errors import RecipeError, brief, nearest, one_line
from svdistill.names import of_recipe
from svdistill.plain import MAX_DEPTH, MAX_YAML, parse_yaml
from svdistill.recipes.losses import OF_OWN_VECTORS, OF_PRESETS, in_teacher_s_basis, own_settings

SUFFIXES = (".yaml", ".yml")
METHODS = methods.FOLDER.name
ALLOW_CODE = "allow_code"
_WEIGHTS = ("weight", "main_weight")
# What tells of one recipe, so that it is not handed on; the last is leave to run code, which its user gives.
_OWN = ("name", "description", ALLOW_CODE)
_LONGEST_KEY = 200  # characters
_MOST_FILES = 100  # that one recipe extends, each counted as often as it is extended

Plain = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """YAML as people write settings: ``1e-3`` is a number, a date is text, and a key stands once in a mapping."""

    # Without dates, and without PyYAML's own numbers, which want a point before an exponent.
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's name
        first: [(tag, form) for tag, form in known if tag.rpartition(":")[2] not in ("timestamp", "float")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<")
        for key, number in keys.items():
            if number > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands there {number} times", None
                )
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""[-+]?(?: [0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
                 | [0-9][0-9_]*[eE][-+]?[0-9]+
                 | \.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
                 | \.(?:inf|Inf|INF) )$
          | \.(?:nan|NaN|NAN)$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)


def shipped() -> dict[str, Path]:
    """Return the recipes that come with svdistill: name, e.g. ``digits/svd`` → file."""
    home = _home()
    found = {path.relative_to(home).with_suffix("").as_posix(): path for path in home.rglob("*.yaml")}
    return {name: found[name] for name in sorted(found) if not name.startswith(f"{METHODS}/")}


def _home() -> Path:
    return Path(str(files("svdistill.recipes")))


def _is_shipped(name: str) -> bool:
    """Whether :func:`shipped` has a name, without a look at all the others: a comparison asks a thousand times."""
    path = PurePosixPath(name)
    plain = path.as_posix() == name and not path.is_absolute() and ".." not in path.parts
    return plain and path.parts[:1] != (METHODS,) and os.path.isfile(_home() / f"{name}.yaml")


def find(name: str, *, beside: Path | None = None) -> tuple[str, Path]:
    """Find a recipe's file by the name of a shipped recipe or by its path.

    Args:
        name: e.g. ``digits/svd`` or ``my/recipe.yaml``.
        beside: folder that relative paths start from; None = the current one.

    Returns:
        The name that the recipe has unless it gives itself one, and its file.

    Raises:
        RecipeError: there is no such recipe.
    """
    if _is_shipped(name):
        return name, _home() / f"{name}.yaml"
    if name.startswith(f"{METHODS}/"):
        return name, method(name.partition("/")[2])
    if not name.endswith(SUFFIXES):
        raise RecipeError(f"no recipe {brief(name)}{nearest(name, shipped())}")
    path = (beside or Path.cwd()) / Path(name).expanduser()
    if not path.is_file():
        raise RecipeError(f"no recipe file {path}; give a path that exists, or a name that 'svdistill recipes' lists")
    return of_recipe(path), path


def method(name: str) -> Path:
    """Find a method's file by its name.

    Raises:
        RecipeError: there is no such method.
    """
    known = methods.shipped()
    if name not in known:
        near = nearest(name, known, limit=len(known))
        more = "" if near.endswith("?") else "; 'svdistill recipes methods' lists all"
        raise RecipeError(f"no method {brief(name)}{near}{more}")
    return methods.FOLDER / f"{name}.yaml"


def read(name: str, *, beside: Path | None = None, with_methods: bool = True) -> Plain:
    """Read a recipe with everything that it extends.

    ``extends`` is a name or a list of them; of two, the later one's settings go before the earlier one's, and the
    recipe's own before all.

    Args:
        name: name or path of the recipe, see ``find``.
        beside: folder that relative paths start from; None = the current one.
        with_methods: whether the methods that it extends count; without them there is what it says itself.

    Returns:
        Its settings, merged, not yet validated, with a ``name``.

    Raises:
        RecipeError: a file is missing or is not a YAML mapping, or recipes extend each other in a circle.
    """
    merged: Plain = {}
    for layer in _layers(name, [], beside=beside, above=(), with_methods=with_methods):
        merged = merge({key: merged[key] for key in merged if key not in _OWN}, layer)
    return {**merged, "name": str(merged.get("name") or find(name, beside=beside)[0])}


def extends(name: str, method: str) -> bool:
    """Whether a recipe extends a method, itself or by what it extends.

    Raises:
        RecipeError: as `read`.
    """
    so_far: list[Path] = []
    _layers(name, so_far, beside=None, above=(), with_methods=True)
    return find(f"{METHODS}/{method}")[1].resolve() in so_far


def _layers(
    name: str, so_far: list[Path], *, beside: Path | None, above: tuple[Path, ...], with_methods: bool
) -> list[Plain]:
    """Return a recipe's own settings, after those of everything that it extends; each file is added to those so far."""
    if above and not with_methods and name.startswith(f"{METHODS}/"):
        return []
    _, path = find(name, beside=beside)
    path = path.resolve()
    if path in above:
        raise RecipeError(f"extends: {brief(name)} extends itself in a circle; take one 'extends' out")
    so_far.append(path)
    if len(so_far) > _MOST_FILES:
        raise RecipeError(f"extends: {so_far[0]} extends more than {_MOST_FILES} files; take some out")
    layer = _read_file(path)
    if name.startswith(f"{METHODS}/"):
        layer = {key: value for key, value in layer.items() if key not in methods.KEYS}
    wanted = layer.pop("extends", None) or []
    parents = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise RecipeError(
            f"extends: expected a recipe's name or path, or a list of them, in {path}, got {brief(wanted)}"
        )
    down = partial(_layers, so_far=so_far, beside=path.parent, above=(*above, path), with_methods=with_methods)
    below = [part for parent in parents for part in down(parent)]
    return [*below, anchored(layer, path.parent)]


def _read_file(path: Path) -> Plain:
    try:
        with path.open("rb") as file:
            text = file.read(4 * MAX_YAML + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error
    try:
        plain = _values(text)
    except ValueError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(plain, dict) or not plain:
        raise RecipeError(f"{path} is not a recipe: expected 'key: value' lines such as 'extends: digits/svd'")
    return {str(key): value for key, value in plain.items()}


def _values(text: str) -> Any:
    if "${" in text:
        raise ValueError("'${…}' is not filled in here; write the value itself")
    return copy.deepcopy(_parsed(text))


@lru_cache(maxsize=32)
def _parsed(text: str) -> Any:
    return parse_yaml(text, _Loader)


def parse(overrides: Iterable[str]) -> Plain:
    """Turn ``key=value`` settings into nested dictionaries; of two for one key the later one holds.

    Args:
        overrides: e.g. ``["seed=3", "train.milestones=[60,90]", "teacher=null"]``; values are YAML.

    Returns:
        e.g. ``{"seed": 3, "train": {"milestones": [60, 90]}, "teacher": None}``.

    Raises:
        RecipeError: no ``=``, an empty key, or a value that is not YAML.
    """
    merged: Plain = {}
    # Which losses there are comes first, or they would start afresh beside what has been said of them.
    for override in sorted(overrides, key=lambda text: text.partition("=")[0].strip() != "loss"):
        key, equals, value = override.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not equals or not all(parts) or len(parts) > MAX_DEPTH or len(key) > _LONGEST_KEY:
            raise RecipeError(f"{brief(override)}: expected key=value, for instance train.epochs=20")
        try:
            nested = _values(value)
        except ValueError as error:
            raise RecipeError(f"{one_line(key)}: cannot read the value {brief(value)}: {error}") from error
        for part in reversed(parts):
            nested = {part: nested}
        merged = merge(merged, nested)
    return anchored(merged, Path.cwd())


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Plain:
    """Lay settings over others, mapping by mapping.

    A loss or optimizer of another name starts afresh, since it has other settings; so does a teacher of another source.

    Args:
        base: settings below.
        over: settings above, which win.

    Returns:
        A new dictionary; neither argument is changed.
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if key == "loss":
            merged[key] = _merge_losses(below, value)
        elif isinstance(value, Mapping) and isinstance(below, Mapping) and not _replaces(key, below, value):
            merged[key] = merge(below, value)
        else:
            merged[key] = merge({}, value) if isinstance(value, Mapping) else value
    return merged


def overlay(recipe: Mapping[str, Any], method: Mapping[str, Any]) -> Plain:
    """Lay a method over a recipe.

    A method's ``weight`` and ``main_weight`` are where to begin; those that a recipe has for the same loss were found
    for its images and networks and stay. The basis, and in which of two stages a loss takes part, are the method's
    alone, and under a method in the teacher's basis nothing stays that has no meaning there. Where a recipe that is
    written out in full has a method's settings, these do not stay either.

    Args:
        recipe: settings of a recipe.
        method: settings of a method, of which ``loss`` is one.

    Returns:
        A new dictionary; neither argument is changed.
    """
    projected = {loss.get("name") for loss in map(_named_loss, _as_list(method["loss"])) if in_teacher_s_basis(loss)}

    def stays(key: str, name: object) -> bool:
        return key not in ("stage", "basis") and not (name in projected and key in OF_OWN_VECTORS)

    below = [_its_own(_named_loss(loss)) for loss in _as_list(recipe.get("loss"))]
    below = [{key: loss[key] for key in loss if stays(key, loss.get("name"))} for loss in below]
    merged = merge({**recipe, "loss": below}, method)
    own = {loss.get("name"): loss for loss in below}
    losses = [
        {**loss, **{key: own[loss["name"]][key] for key in _WEIGHTS if key in own.get(loss["name"], {})}}
        for loss in map(_named_loss, _as_list(merged.get("loss")))
    ]
    merged["loss"] = losses if isinstance(merged.get("loss"), list) else losses[0] if losses else None
    return merged


def _its_own(loss: Plain) -> Plain:
    """Return what a recipe says of a loss itself; where all that is written out is a method's, that is nothing."""
    own = {**own_settings(loss), "stage": None}
    rest, weights = _parted(own)
    like = [_parted(one)[1] for one in _losses_of_methods() if _parted(one)[0] == rest]
    if not like or not _says_no_preset(loss):  # a short recipe that says what a method says means it
        return own
    return {"name": own["name"], **({} if weights in like else weights)}


def _says_no_preset(loss: Mapping[str, Any]) -> bool:
    """Whether it says so, as methods do and recipes that are written out in full."""
    return "preset" in loss and loss["preset"] is None


def _parted(loss: Plain) -> tuple[Plain, Plain]:
    """Return settings of a loss without its weights, and these."""
    weights = {key: loss[key] for key in _WEIGHTS if key in loss}
    return {key: value for key, value in loss.items() if key not in weights}, weights


@cache
def _losses_of_methods() -> tuple[Plain, ...]:
    """Return what each loss of a shipped method says beyond the defaults, but for its stage."""
    plain = [_read_file(path).get("loss") for path in methods.FOLDER.glob("*.yaml")]
    found = [_named_loss(loss) for losses in plain for loss in _as_list(losses)]
    return tuple({**own_settings(loss), "stage": None} for loss in found if not loss.get("preset"))


def owned(loss: Any, whole: Any) -> Any:
    """Name the losses of a recipe whose own settings say no name, as that comes from a method that it extends.

    Args:
        loss: what the recipe itself says of its loss.
        whole: the same with the methods that it extends.

    Returns:
        The settings, each with the name of its loss; as they are where they have one.
    """
    if not isinstance(loss, Mapping) or "name" in loss:
        return loss
    names = [str(one["name"]) for one in map(_named_loss, _as_list(whole)) if "name" in one]
    if all(key in names and isinstance(value, Mapping) for key, value in loss.items()):
        return [{**settings, "name": name} for name, settings in loss.items()]
    return {**loss, "name": names[0]} if len(names) == 1 else loss


def _replaces(key: str, below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    if key == "optimizer":
        return "name" in above and "name" in below and above["name"] != below["name"]
    if key == "teacher":
        sources = ("recipe", "checkpoint")
        other = any(source in above and above[source] != below.get(source) for source in sources)
        other = other or _is_other_model(below.get("model"), above.get("model"))
        return other and any(below.get(source) is not None for source in (*sources, "model"))
    return False


def _is_other_model(below: Any, above: Any) -> bool:
    """Whether settings name another network from outside than those below."""
    if not isinstance(above, Mapping):
        return above is not None
    return not isinstance(below, Mapping) or ("name" in above and above["name"] != below.get("name"))


def _merge_losses(below: Any, above: Any) -> Any:
    """Lay a setting of ``loss`` over another: settings of one loss, its mere name, or a list of either.

    In a sum, and where it is clearer, a loss's settings stand under its name: ``loss.svd.rank=2``.
    """
    if isinstance(below, Mapping) and "name" not in below and isinstance(above, Mapping):
        return merge(below, above)  # two settings of a command line, not yet laid over a recipe
    lower = {loss["name"]: loss for loss in map(_named_loss, _as_list(below)) if "name" in loss}
    if not isinstance(above, Mapping):  # null, a name, or a list: says which losses there are
        merged = [_lay(lower.get(loss.get("name"), {}), loss) for loss in map(_named_loss, _as_list(above))]
        return merged if isinstance(above, list) else merged[0] if merged else None
    if "name" in above:
        return _lay(lower.get(_named_loss(above)["name"], {}), above)
    if above and all(key in lower and isinstance(value, Mapping) for key, value in above.items()):
        merged = [_lay(loss, above.get(name, {})) for name, loss in lower.items()]
        return merged if len(merged) > 1 else merged[0]
    if len(lower) > 1:
        example = f"loss.{next(iter(lower))}.weight=1"
        raise RecipeError(f"loss: a sum of {', '.join(lower)}; say which, for instance {example}")
    return _lay(next(iter(lower.values()), {}), above)


def _lay(below: Plain, above: Mapping[str, Any]) -> Plain:
    """Lay settings of a loss over others of the same; another preset replaces what the former one stood for.

    One over settings that say they have none replaces these.
    """
    if "preset" not in above:
        return merge(below, above)
    kept = own_settings(below)
    if above["preset"] is not None and _says_no_preset(below):
        kept = {key: value for key, value in kept.items() if key not in OF_PRESETS}
    return merge(kept, above)


def _as_list(losses: Any) -> list[Any]:
    return list(losses) if isinstance(losses, list | tuple) else [] if losses is None else [losses]


def _named_loss(loss: Any) -> Plain:
    named = dict(loss) if isinstance(loss, Mapping) else {"name": loss}
    if not isinstance(named.get("name", ""), str):
        raise RecipeError(f"loss: expected a loss's name or settings, or a list of them; got {brief(loss)}")
    return named


def anchored(settings: Plain, folder: Path) -> Plain:
    """Make the paths in settings absolute, so that they mean the same from every folder.

    Args:
        settings: settings of one file or of the command line; not changed.
        folder: what relative paths are relative to.

    Returns:
        The settings with ``data.root``, ``data.classes``, ``data.unlabelled.root``, ``model.checkpoint``,
        ``teacher.checkpoint``, ``teacher.model.checkpoint`` and a ``teacher.recipe`` that is a path made absolute, also
        inside ``teacher.overrides``.
    """

    def absolute(section: Mapping[str, Any], *keys: str) -> Plain:
        paths = {key: section[key] for key in keys if isinstance(section.get(key), str)}
        return {**section, **{key: os.path.normpath(folder / Path(path).expanduser()) for key, path in paths.items()}}

    result = dict(settings)
    if isinstance(data := result.get("data"), Mapping):
        result["data"] = data = absolute(data, "root", "classes")
        if isinstance(data.get("unlabelled"), Mapping):
            data["unlabelled"] = absolute(data["unlabelled"], "root")
    if isinstance(model := result.get("model"), Mapping):
        result["model"] = absolute(model, "checkpoint")
    if isinstance(teacher := result.get("teacher"), Mapping):
        is_file = str(teacher.get("recipe")).endswith(SUFFIXES)
        result["teacher"] = teacher = absolute(teacher, "checkpoint", *(["recipe"] if is_file else []))
        if isinstance(teacher.get("model"), Mapping):
            teacher["model"] = absolute(teacher["model"], "checkpoint")
        if isinstance(teacher.get("overrides"), Mapping):
            teacher["overrides"] = anchored(dict(teacher["overrides"]), folder)
    return result
