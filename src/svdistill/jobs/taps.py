"""Where a network can be tapped, and which taps of two belong together."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from svdistill import data, nets, recipes
from svdistill.choices import IMAGE_FOLDER
from svdistill.data import ImageSource, standardize
from svdistill.data.sets import spread
from svdistill.errors import OptionError
from svdistill.jobs.diagnostics import Tapped, diagnose
from svdistill.jobs.student import student_file
from svdistill.nets import Suggestion, foreign, suggest
from svdistill.nets.pairs import pair_up
from svdistill.nets.suggest import named, outermost
from svdistill.nets.trace import Place
from svdistill.recipes import build
from svdistill.recipes.images import load_images
from svdistill.recipes.told import told

ENERGY = 0.9  # the part of a map's energy, σ² / ‖M‖², whose singular vectors are counted
_IMAGES = 64


@dataclass(frozen=True)
class Settings:
    """How a network is built that is given by its name, and what images it takes.

    Attributes:
        classes: number of classes; None = as the network has it, else 100.
        image_size: height and width; None = as its configuration says, else 32.
        channels: of an image.
        width: factor on every channel count.
        pretrained: with the weights of its library.
        allow_code: whether code of the user's own may run.
    """

    classes: int | None = None
    image_size: int | None = None
    channels: int = 3
    width: float = 1.0
    pretrained: bool = False
    allow_code: bool = False


@dataclass(frozen=True)
class _Model:
    name: str
    network: nn.Module
    shape: tuple[int, int, int]
    taps: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    trained: bool = False

    def look(self) -> Suggestion:
        noise = torch.rand(2, *self.shape, generator=torch.Generator().manual_seed(0))
        try:
            if self.taps is None:
                return suggest(self.network, noise)
            return named(self.network, noise, self.taps, fixed=False)
        except OptionError as error:
            raise OptionError(f"{self.name}: {error}") from error


def find_taps(
    model: str,
    *,
    pair: str | None = None,
    images: str | None = None,
    root: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Show the places of a network, or of two that are to be compared, and which of them are suggested as taps.

    Args:
        model: the student where there are two: name of a network, name or path of a recipe, a run's folder, or the
            file of a network's weights.
        pair: the teacher, given in the same way.
        images: a data set, or a folder of images, on which the singular vectors of the maps are counted.
        root: folder of the data set's files.
        settings: for a network that is given by its name.

    Returns:
        ``networks``, for each its ``model``, ``image`` (C, H, W), ``trained``, ``drop_tokens``, ``taps`` and
        ``places``; ``pairs``, the taps of both, where there are two.

    Raises:
        SvdistillError: there is no such model or data set, or there is no place to tap.
    """
    settings = settings or Settings()
    models = [_resolve(name, settings) for name in (model, *([] if pair is None else [pair]))]
    found = [one.look() for one in models]
    alone = found
    if pair is not None:
        found = list(pair_up(*found))
    tables = [_table(*both) for both in zip(models, alone, found, strict=True)]
    if images is not None:
        for one, chosen, table in zip(models, found, tables, strict=True):
            ranks = _ranks(one, chosen, images, root)
            for row in table["places"]:
                row["rank"] = ranks.get(row["name"])
    names = [table["taps"] for table in tables]
    return {"networks": tables, "pairs": [list(both) for both in zip(*names, strict=True)] if pair else []}


def _resolve(name: str, settings: Settings) -> _Model:
    path = Path(name)
    if path.is_dir() or path.suffix == ".safetensors":
        return _from_file(path, settings)
    if path.suffix in (".yaml", ".yml") or name in recipes.names():
        return _from_recipe(name, settings)
    known = foreign.configuration(name, in_channels=settings.channels) if foreign.is_of_library(name) else None
    try:
        network = nets.create(
            name,
            num_classes=settings.classes or 100,
            in_channels=settings.channels,
            width=settings.width,
            pretrained=settings.pretrained,
            allow_code=settings.allow_code,
        )
    except OptionError as error:
        if foreign.is_foreign(name) or name in nets.names():
            raise
        raise OptionError(f"{error}; a recipe, a run's folder or a .safetensors file will do too") from error
    size = (settings.image_size,) * 2 if settings.image_size else known.size if known and known.size else (32, 32)
    taps = None if foreign.is_foreign(name) else nets.default_taps(name)
    mean, std = (known.mean, known.std) if known else (None, None)
    return _Model(name, network, (settings.channels, *size), taps, mean, std, settings.pretrained)


def _from_file(path: Path, settings: Settings) -> _Model:
    file = student_file(path)
    spec = nets.spec(file)
    size = settings.image_size or told(file, spec, "image_size") or 32
    taps = told(file, spec, "taps")
    if taps is None and not foreign.is_foreign(spec["name"]):
        taps = nets.default_taps(spec["name"])
    mean, std = (told(file, spec, key) for key in ("mean", "std"))
    network = nets.load(file, allow_code=settings.allow_code)
    return _Model(str(path), network, (spec["in_channels"], int(size), int(size)), taps, mean, std, trained=True)


def _from_recipe(name: str, settings: Settings) -> _Model:
    recipe = recipes.load(name, ["allow_code=true"] if settings.allow_code else [])
    images = load_images(recipe)
    taps = recipe.model.taps
    if taps is None and not foreign.is_foreign(recipe.model.name):
        taps = nets.default_taps(recipe.model.name)
    mean, std = images.mean.tolist(), images.std.tolist()
    return _Model(name, build.model(recipe, images), images.shape, taps, mean, std, recipe.model.trained)


def _table(model: _Model, alone: Suggestion, chosen: Suggestion) -> dict[str, Any]:
    """Describe a network: ``shown`` are the places that all passes through, of which those are the outermost."""
    places = alone.trace.places
    usable = [place for place in places if not place.obstacle]
    shown = {place.name for place in outermost([place for place in usable if place.passed] or usable)}
    shown |= set(alone.names) | set(chosen.names)
    return {
        "model": model.name,
        "image": list(model.shape),
        "trained": model.trained,
        "drop_tokens": chosen.drop_tokens,
        "taps": list(chosen.names),
        "places": [
            {
                "name": place.name,
                "kind": place.kind,
                "shape": list(place.shape),
                "layout": place.layout,
                "stage": _stage(place, alone),
                "share": place.share,
                "tap": place.name in chosen.names,
                "shown": place.name in shown,
                "obstacle": place.obstacle,
            }
            for place in places
        ],
    }


def _stage(place: Place, found: Suggestion) -> int | None:
    """Return the number of the stage that a place is in, from 1; None beyond the last."""
    return next((number for number, end in enumerate(found.stages, start=1) if place.order <= end.order), None)


def _ranks(model: _Model, chosen: Suggestion, images: str, root: str | os.PathLike[str] | None) -> dict[str, int]:
    """Count the singular vectors that hold most of the energy of the maps at each tap, on average over the images."""
    source = _images(model, images, root)
    raw = torch.cat(list(source.batches([spread(len(source), _IMAGES)])))
    mean, std = data.channel_statistics(raw)
    if model.mean is not None and model.std is not None:
        mean, std = torch.tensor(model.mean), torch.tensor(model.std)
    tapped = Tapped(model.network, chosen.names, chosen.drop_tokens)
    spectra = diagnose(tapped, images=standardize(raw, mean, std))["student_spectrum"]
    held = np.nancumsum(spectra, axis=1)
    return {name: int((row < ENERGY).sum()) + 1 for name, row in zip(chosen.names, held, strict=True)}


def _images(model: _Model, images: str, root: str | os.PathLike[str] | None) -> ImageSource:
    channels, height, width = model.shape
    if height != width:
        raise OptionError(f"{model.name} takes images of {height} × {width}, but those of a data set are square")
    if Path(images).is_dir():
        return data.load_unlabelled(IMAGE_FOLDER, root=images, image_size=height, channels=channels)
    return data.load_test(images, root=root, image_size=height, channels=channels)
