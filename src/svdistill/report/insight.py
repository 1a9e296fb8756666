"""The arrays of a run's ``insight.npz``, each checked before a figure is made of it."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdistill.errors import one_line

_MOST = 256 << 20  # bytes that the arrays may take in memory
_SIDE = 4096  # pixels of a picture
_COUNT = 10**12  # images of a class

Array = NDArray[Any]
Arrays = Mapping[str, Array]


def read(file: Path) -> tuple[dict[str, Array], str]:
    """Read the arrays of a run.

    Args:
        file: its ``insight.npz``; it need not exist.

    Returns:
        Those that are as a training writes them, and in a few words what is wrong with the others, "" if nothing is.
    """
    if not file.is_file():
        return {}, ""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > _MOST:
                raise ValueError(f"holds more than {_MOST:,} bytes")
            if {member.compress_type for member in members} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise ValueError("is packed in another way")
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: np.asarray(arrays[name]) for name in arrays.files}  # what is no array comes as bytes
    # NumPy, zipfile and what they call have errors of many kinds for a damaged file, and here each means the same.
    except Exception as error:
        return {}, f"cannot be read ({one_line(error) or type(error).__name__})"
    return _sound(found)


def _sound(found: Arrays) -> tuple[dict[str, Array], str]:
    """Keep the arrays that fit those before them; of a network's vectors all or none."""
    kept: dict[str, Array] = {}
    wrong = []
    for name, fits in _FORMS.items():
        if name in found and fits(found[name], kept):
            kept[name] = found[name]
        elif name in found:
            wrong.append(name)
    for who in ("student", "teacher"):
        names = [f"{who}_vectors_{tap}" for tap in range(len(kept.get("student_taps", ())))]
        there = [name for name in names if name in found]
        if there and names == there and all(_is_vectors(found[name], kept) for name in names):
            kept |= {name: found[name] for name in names}
        elif there:
            wrong.append(f"{who}_vectors")
    return kept, f"has {', '.join(wrong)} of another form than a training writes" if wrong else ""


def _is_texts(array: Array, _: Arrays) -> bool:
    return array.dtype.kind == "U" and array.ndim == 1 and len(array) > 0


def _is_images(array: Array, _: Arrays) -> bool:
    sides = array.ndim == 4 and all(1 <= side <= _SIDE for side in array.shape[1:])
    return array.dtype == np.uint8 and sides and len(array) > 0


def _is_labels(array: Array, kept: Arrays) -> bool:
    if array.dtype.kind not in "iu" or array.ndim != 1 or not {"images", "classes"} <= kept.keys():
        return False
    inside = bool(((array >= 0) & (array < len(kept["classes"]))).all())
    return inside and len(array) == len(kept["images"])


def _is_confusion(array: Array, kept: Arrays) -> bool:
    size = len(kept.get("classes", ()))
    counts = array.dtype.kind in "iu" and array.shape == (size, size)
    return counts and bool(((array >= 0) & (array <= _COUNT)).all())


def _is_spectrum(array: Array, kept: Arrays) -> bool:
    if array.dtype.kind != "f" or array.ndim != 2 or not array.size or len(array) != len(kept.get("student_taps", ())):
        return False
    return bool((np.isnan(array) | ((array >= 0) & (array <= 1.01))).all())  # fractions of a map's energy


def _is_alignment(array: Array, kept: Arrays) -> bool:
    if array.dtype.kind != "f" or array.shape != (len(kept.get("student_taps", ())),):
        return False
    return bool((np.isnan(array) | (np.abs(array) <= 1.01)).all())


def _is_vectors(array: Array, kept: Arrays) -> bool:
    form = array.dtype.kind == "f" and array.ndim == 2 and array.shape[1] > 0
    return form and len(array) == len(kept.get("images", array)) and bool((np.abs(array) <= 1.01).all())


# In this order: each is checked against those before it.
_FORMS: Mapping[str, Callable[[Array, Arrays], bool]] = {
    "student_taps": _is_texts,
    "teacher_taps": _is_texts,
    "classes": _is_texts,
    "images": _is_images,
    "labels": _is_labels,
    "confusion": _is_confusion,
    "student_spectrum": _is_spectrum,
    "teacher_spectrum": _is_spectrum,
    "alignment": _is_alignment,
}
