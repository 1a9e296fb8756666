"""YAML files and ``key=value`` settings as plain dictionaries: ``extends``, merging, paths. Knows no schema."""

import os
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from svdistill.errors import RecipeError, nearest

SUFFIXES = (".yaml", ".yml")
PATH_KEYS = (("data", "root"), ("teacher", "checkpoint"))

Plain = dict[str, Any]


def shipped() -> dict[str, Path]:
    """Return the recipes that come with svdistill: name, e.g. ``digits/svd`` → file."""
    home = Path(str(files("svdistill.recipes")))
    found = sorted(home.rglob("*.yaml"))
    return {path.relative_to(home).with_suffix("").as_posix(): path for path in found}


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
    known = shipped()
    if name in known:
        return name, known[name]
    if not name.endswith(SUFFIXES):
        raise RecipeError(f"no recipe {name!r}{nearest(name, known)}")
    path = (beside or Path.cwd()) / Path(name).expanduser()
    if not path.is_file():
        raise RecipeError(f"no recipe file {name!r}; give a path that exists, or one of the names: {', '.join(known)}")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-")
    return stem or "recipe", path


def read(name: str, *, beside: Path | None = None) -> Plain:
    """Read a recipe with everything that it extends.

    Args:
        name: name or path of the recipe, see ``find``.
        beside: folder that relative paths start from; None = the current one.

    Returns:
        Its settings, merged, not yet validated, with a ``name``.

    Raises:
        RecipeError: a file is missing or is no YAML mapping, or recipes extend each other in a circle.
    """
    layers: list[Plain] = []
    seen: list[Path] = []
    wanted: str | None = name
    own_name = ""
    while wanted is not None:
        default, path = find(wanted, beside=beside)
        if path.resolve() in seen:
            raise RecipeError(f"extends: {wanted!r} extends itself in a circle; take one 'extends' out")
        seen.append(path.resolve())
        layer = _read_file(path)
        own_name = own_name or str(layer.get("name") or default)
        wanted = layer.pop("extends", None)
        if wanted is not None and not isinstance(wanted, str):
            raise RecipeError(f"extends: expected a recipe's name or path in {path}, got {wanted!r}")
        beside = path.resolve().parent
        layers.append(anchored(layer, beside))
    merged: Plain = {}
    for layer in reversed(layers):
        # A description tells of one recipe, so that it is not handed on.
        merged.pop("description", None)
        merged = merge(merged, layer)
    return {**merged, "name": own_name}


def _read_file(path: Path) -> Plain:
    try:
        text = path.read_text(encoding="utf-8")
        plain = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error
    except (YAMLError, OmegaConfBaseException) as error:
        raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(plain, dict) or not plain or (len(plain) == 1 and next(iter(plain.values())) is None):
        raise RecipeError(f"{path} is no recipe: expected 'key: value' lines such as 'extends: digits/svd'")
    return {str(key): value for key, value in plain.items()}


def parse(overrides: Iterable[str]) -> Plain:
    """Turn ``key=value`` settings into nested dictionaries; of two for one key the later one holds.

    Args:
        overrides: e.g. ``["seed=3", "train.milestones=[60,90]", "teacher=null"]``; values are YAML.

    Returns:
        e.g. ``{"seed": 3, "train": {"milestones": [60, 90]}, "teacher": None}``.

    Raises:
        RecipeError: no ``=``, an empty key, or a value that is no YAML.
    """
    merged: Plain = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise RecipeError(f"{override!r}: expected key=value, for instance train.epochs=20")
        try:
            parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]), resolve=True)
        except (YAMLError, OmegaConfBaseException) as error:
            raise RecipeError(f"{key}: cannot read the value {value!r}: {' '.join(str(error).split())}") from error
        assert isinstance(parsed, dict)
        nested: Any = parsed["value"]
        for part in reversed(key.split(".")):
            nested = {part.strip(): nested}
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
        if isinstance(value, Mapping) and isinstance(below, Mapping) and not _replaces(key, below, value):
            merged[key] = merge(below, value)
        else:
            merged[key] = merge({}, value) if isinstance(value, Mapping) else value
    return merged


def _replaces(key: str, below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    if key in ("loss", "optimizer"):
        return "name" in above and "name" in below and above["name"] != below["name"]
    if key == "teacher":
        other = {"recipe": "checkpoint", "checkpoint": "recipe"}
        return any(source in above and other[source] in below for source in other)
    return False


def anchored(settings: Plain, folder: Path) -> Plain:
    """Make the paths in settings absolute, so that they mean the same from every folder.

    Args:
        settings: settings of one file or of the command line; not changed.
        folder: what relative paths are relative to.

    Returns:
        The settings with ``data.root``, ``teacher.checkpoint`` and a ``teacher.recipe`` that is a path made absolute,
        also inside ``teacher.overrides``.
    """

    def absolute(path: str) -> str:
        return os.path.normpath(folder / Path(path).expanduser())

    result = dict(settings)
    for part, key in (*PATH_KEYS, ("teacher", "recipe")):
        section = result.get(part)
        value = section.get(key) if isinstance(section, Mapping) else None
        if isinstance(section, Mapping) and isinstance(value, str) and (key != "recipe" or value.endswith(SUFFIXES)):
            result[part] = {**section, key: absolute(value)}
    teacher = result.get("teacher")
    if isinstance(teacher, Mapping) and isinstance(teacher.get("overrides"), Mapping):
        result["teacher"] = {**teacher, "overrides": anchored(dict(teacher["overrides"]), folder)}
    return result
