"""Measure a trained network on the test images."""

import math
import os
from typing import Any

import torch

from svdistill import training
from svdistill.data import ImageSource
from svdistill.jobs.student import Student


def evaluate(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    root: str | os.PathLike[str] | None = None,
    device: str = "auto",
    allow_code: bool = False,
) -> dict[str, Any]:
    """Measure a trained network, in 32-bit precision, on the test images of a data set, prepared as when it was saved.

    They are the test images even where the run itself was measured on a part of the training images. A run's network is
    the one that its accuracy is of: after the last epoch, or with ``data.validation`` after the best, averaged with
    ``train.ema``.

    Args:
        path: a run's folder, or its ``student.safetensors``.
        name: the data set; None = the one that the network was trained on.
        root: folder with the data set's files; None = that of the run, or where they usually are.
        device: ``auto``, ``cpu`` or ``cuda``.
        allow_code: whether the code that the network is made of, a class of somebody's own, may be imported and run.

    Returns:
        ``model``, ``path``, ``data``, ``images``, ``accuracy`` (0 to 1), ``loss`` (mean cross-entropy), ``classes``
        (for each its ``name``, ``images`` and how many of them are ``right``) and ``confusion`` (rows: true classes).

    Raises:
        DataError: no such run, it has not finished, or the data set does not fit the network.
        CheckpointError: the file is missing, damaged or does not say how its images are prepared, or what the network
            gives is not finite.
        OptionError: an unknown data set or device, or the network is made of code, which may not run.
    """
    student = Student.load(path, allow_code=allow_code)
    test = student.test_images(name, root)
    engine = training.launch(device=device, seed=None)
    student.network.to(engine.device)
    result = measure(student, test, engine=engine, confusion=True)
    rows = zip(test.classes, result["confusion"], strict=True)
    classes = [{"name": label, "images": sum(row), "right": row[i]} for i, (label, row) in enumerate(rows)]
    about = {"model": student.name, "path": str(student.file), "data": name or student.trained_on}
    return {**about, "images": len(test), "classes": classes, **result}


def measure(
    student: Student, images: ImageSource, *, engine: training.Engine | None = None, confusion: bool = False
) -> dict[str, Any]:
    """Measure a trained network on images as `training.evaluate` does, which says what the arguments are.

    Raises:
        CheckpointError: what the network gives is not finite.
    """
    mean, std = torch.tensor(student.mean), torch.tensor(student.std)
    result = training.evaluate(engine, student.network, images, mean=mean, std=std, confusion=confusion)
    if math.isnan(result["loss"]):  # the first class would count as its answer; −inf, which excludes a class, is none
        raise student.not_finite()
    return result
