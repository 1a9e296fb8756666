"""What a trained network takes pictures for."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from svdistill import training
from svdistill.data import Files
from svdistill.data.decoding import Pixels
from svdistill.data.listing import Listing
from svdistill.errors import DataError, OptionError, SvdistillWarning
from svdistill.jobs.student import Student
from svdistill.machine import usable_cores

_AT_ONCE = 64
_Place = tuple[Files, int]


@dataclass(frozen=True)
class Prediction:
    """What a network takes one picture for.

    Attributes:
        image: its file.
        classes: the most probable classes, each with its probability (0 to 1), the most probable first; () where the
            picture could not be read.
        error: why it could not be read, or None.
    """

    image: Path
    classes: tuple[tuple[str, float], ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return ``image`` and ``classes`` (``name``, ``probability``), or ``image`` and ``error``."""
        if self.error is not None:
            return {"image": str(self.image), "error": self.error}
        named = [{"name": name, "probability": probability} for name, probability in self.classes]
        return {"image": str(self.image), "classes": named}


def predict(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    top: int = 3,
    device: str = "auto",
    allow_code: bool = False,
) -> Iterator[Prediction]:
    """Say what a trained network takes pictures for, which are prepared as those that it was measured with.

    Args:
        path: a run's folder, or its ``student.safetensors``.
        images: files of pictures and folders, of which all pictures in them are taken, sorted by name.
        top: how many classes to name for each.
        device: ``auto``, ``cpu`` or ``cuda``.
        allow_code: whether the code that the network is made of, a class of somebody's own, may be imported and run.

    Returns:
        One prediction a picture, in order, as they are made; 64 are read at a time. One that cannot be read has an
        ``error`` instead of classes.

    Raises:
        DataError: a file, a folder or the run is missing, or a folder holds no picture.
        CheckpointError: the network's file is damaged or does not say how its images are prepared, or what it gives
            is not finite.
        OptionError: an unknown device, no class to name, a network of other than 1 or 3 channels, or one made of code,
            which may not run.
    """
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise OptionError(f"top is {top!r}, expected a whole number of at least 1: how many classes to name")
    student = Student.load(path, allow_code=allow_code)
    student.picture_form()
    places = list(_find([images] if isinstance(images, str | os.PathLike) else images))
    if not places:
        raise DataError("no picture is named; give files, or folders with pictures in them")
    engine = training.launch(device=device, seed=None)
    student.network.to(engine.device)
    # All that can be wrong is found by now, not when the first prediction is asked for.
    return _predictions(student, places, top=min(top, len(student.classes)), device=engine.device)


def _find(images: Iterable[str | os.PathLike[str]]) -> Iterator[_Place]:
    for given in map(Path, images):
        if not given.exists():
            raise DataError(f"there is no picture and no folder {given}; name files, or folders with pictures in them")
        if not given.is_dir():
            yield Files(given.parent, (given.name,)), 0
            continue
        listing = Listing(given)
        files = Files(given, listing.images())
        if listing.left_out.counts:
            warnings.warn(f"left out of {given}: {listing.left_out}", SvdistillWarning, stacklevel=4)
        if not len(files):
            raise DataError(f"{given} holds no picture; name another folder")
        yield from ((files, position) for position in range(len(files)))


def _predictions(student: Student, places: Sequence[_Place], *, top: int, device: torch.device) -> Iterator[Prediction]:
    channels, size, background = student.picture_form()

    def read(place: _Place) -> Pixels | DataError:
        files, position = place
        try:
            return files.decoded(position, size, channels, background)
        except DataError as error:
            return error

    with ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        for start in range(0, len(places), _AT_ONCE):
            part = places[start : start + _AT_ONCE]
            named = [files.base / files.names[position] for files, position in part]
            yield from _batch(student, named, list(pool.map(read, part)), top=top, device=device)


def _batch(
    student: Student, named: Sequence[Path], read: Sequence[Pixels | DataError], *, top: int, device: torch.device
) -> Iterator[Prediction]:
    pixels = [torch.from_numpy(one.copy()) for one in read if not isinstance(one, DataError)]
    rows: Iterator[tuple[list[float], list[int]]] = iter(())
    if pixels:
        logits = student.logits(student.standardize(torch.stack(pixels).to(device))).cpu()
        if not logits.isfinite().all():
            raise student.not_finite()
        probable = logits.double().softmax(dim=1).topk(top, dim=1)
        rows = zip(probable.values.tolist(), probable.indices.tolist(), strict=True)
    for image, one in zip(named, read, strict=True):
        if isinstance(one, DataError):
            yield Prediction(image, error=str(one))
            continue
        values, indices = next(rows)
        yield Prediction(image, tuple((student.classes[i], p) for p, i in zip(values, indices, strict=True)))
