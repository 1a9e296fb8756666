"""Measure a trained network on the test images."""

import os
from pathlib import Path
from typing import Any

from svdistill import data, nets, training
from svdistill.errors import CheckpointError, DataError
from svdistill.jobs.run import Run
from svdistill.recipes import weights


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
        CheckpointError: the file is missing, damaged or does not say how its images are prepared.
        OptionError: an unknown data set or device, or the network is made of code, which may not run.
    """
    file = _student_file(Path(path))
    model, spec = nets.load(file, allow_code=allow_code), nets.spec(file)
    mean, std = weights.statistics(file, spec)
    name = name or spec.get("data")
    if name is None:
        raise CheckpointError(f"{file} does not say what it was trained on; give the data set's name")
    if root is None and name == spec.get("data"):
        root = _recorded_root(file)
    own = name == spec.get("data")
    turned = spec.get("task") == "rotation"
    test = data.load_test(
        name,
        root=root,
        image_size=weights.told(file, spec, "image_size"),
        classes=weights.told(file, spec, "turned" if turned else "classes") if own else None,
        channels=spec["in_channels"] if own and spec["in_channels"] in (1, 3) else None,
        background=spec.get("background", "white"),
    )
    test = data.turned(test) if turned else test
    if test.shape[0] != spec["in_channels"] or test.num_classes != spec["num_classes"]:
        raise DataError(
            f"{name} has {test.shape[0]} channels and {test.num_classes} classes, but {file} takes "
            f"{spec['in_channels']} and tells {spec['num_classes']} apart; name a data set that fits"
        )
    engine = training.launch(device=device, seed=0)
    result = training.evaluate(engine, model.to(engine.device), test, mean=mean, std=std, confusion=True)
    rows = zip(test.classes, result["confusion"], strict=True)
    classes = [{"name": label, "images": sum(row), "right": row[i]} for i, (label, row) in enumerate(rows)]
    return {"model": spec["name"], "path": str(file), "data": name, "images": len(test), "classes": classes, **result}


def _student_file(path: Path) -> Path:
    run = Run(path)
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"there is no run and no file {path}; give a run's folder or its {run.student_file.name}")
        return path
    if not run.record.exists:
        raise DataError(
            f"{path} is not the folder of a run, as it has no recipe; give one that 'svdistill train' has named"
        )
    if not run.finished:
        raise DataError(f"the run {path} has not finished; call the same training again to resume it")
    return run.student_file


def _recorded_root(file: Path) -> str | None:
    """Return the data folder in the recipe of the file's run; a file that was moved away from its run has none."""
    run = Run(file.parent)
    return run.recipe.data.root if run.record.exists else None
