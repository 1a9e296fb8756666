"""Write a trained network for other programs, once it is shown to be the same network there."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svdistill import training
from svdistill.atomic import digest, write_atomically
from svdistill.data import ImageSource
from svdistill.data.folder import load_flat_folder
from svdistill.errors import DataError, OptionError, SvdistillError, SvdistillWarning
from svdistill.jobs.deployment import formats, verify
from svdistill.jobs.deployment.formats import Artifact, Format, Runner
from svdistill.jobs.deployment.int8 import quantize
from svdistill.jobs.deployment.verify import Agreement, Differing
from svdistill.jobs.evaluate import measure
from svdistill.jobs.run import Run
from svdistill.jobs.student import Student

PYTORCH = "PyTorch"
TEACHER, STUDENT, INT8 = "teacher", "student", "int8 student"
CALIBRATION = 512
# What 8 bits may cost without a word: of the accuracy, and, without labels, of the images that stay in their class.
_LOST, _MOVED = 0.02, 0.05


@dataclass(frozen=True)
class Measured:
    """One network in one program, measured.

    Attributes:
        network: ``teacher``, ``student`` or ``int8 student``.
        runtime: what ran it.
        file: its weights.
        bytes: of the file.
        seconds: the median for one image.
        accuracy: 0 to 1, on the images that were compared; None without labels, or where its own data were others.
        agreement: on how many of the images, 0 to 1, it agrees with the student in PyTorch; None for that one, and for
            the teacher.
    """

    network: str
    runtime: str
    file: Path
    bytes: int
    seconds: float
    accuracy: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class Export:
    """What was written and how it compares.

    Attributes:
        files: what was written.
        images: how many real images the networks were compared on.
        source: where these are from.
        networks: each network in each program; the student in PyTorch is what the others are compared with.
        largest_difference: between a logit of the student in PyTorch and of the export in 32 bits.
        largest_logit: the largest absolute value of one.
        differing: images, at most 20, that student and export in 32 bits take for different things.
        int8_differing: images, at most 20, that student and export in 8-bit integers take for different things; None
            where there is no such export.
        teacher_left_out: why the teacher is not among the networks; None where it is, or there is none.
        threads: that each program used.
    """

    files: tuple[Path, ...]
    images: int
    source: str
    networks: tuple[Measured, ...]
    largest_difference: float
    largest_logit: float
    differing: tuple[Differing, ...]
    int8_differing: tuple[Differing, ...] | None
    teacher_left_out: str | None
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        networks = [{**asdict(one), "file": str(one.file)} for one in self.networks]
        return {**asdict(self), "files": [str(file) for file in self.files], "networks": networks}


@dataclass(frozen=True)
class Pictures:
    """The real images that an export is compared on, and those that an int8 network is calibrated with.

    Attributes:
        data: the data set whose test images are compared; None = the one that the network was trained on.
        root: folder with its files; None = that of the run, or where they usually are.
        images: a folder of pictures to compare on instead, without labels.
        calibrate: a folder of pictures to calibrate with, instead of the data set's training images.
        calibration: how many images to calibrate with, at most.
    """

    data: str | None = None
    root: str | os.PathLike[str] | None = None
    images: str | os.PathLike[str] | None = None
    calibrate: str | os.PathLike[str] | None = None
    calibration: int = CALIBRATION


def export(
    path: str | os.PathLike[str],
    *,
    to: str = "onnx",
    output: str | os.PathLike[str] | None = None,
    preprocessing: bool = False,
    int8: bool = False,
    pictures: Pictures | None = None,
    allow_code: bool = False,
) -> Export:
    """Write a trained network alone, for any batch size, once it is shown on real images to be the same network.

    The file says what its classes are and how images are prepared for it. It is read back by the program that is to run
    it and compared with PyTorch before anything is written.

    Args:
        path: a run's folder, or its ``student.safetensors``.
        to: ``onnx``, for onnxruntime and others; ``torch-export``, for PyTorch without svdistill; ``safetensors``, a
            copy of the run's own file.
        output: the file to write, or a folder for it; None = beside the network's own file.
        preprocessing: standardize within the graph, which then takes uint8 pixels (B, C, H, W).
        int8: write a second file, in 8-bit integers, by onnxruntime's static quantization.
        pictures: the images to compare on and to calibrate with; None = of the network's own data set.
        allow_code: whether the code that the network is made of, a class of somebody's own, may be imported and run.

    Returns:
        What was written, and how the networks compare.

    Raises:
        OptionError: an unknown format, one that does not offer what is asked for, a library is missing, or the network
            is made of code, which may not run.
        DataError: no such run, the real images are missing, or a file of something else is in the way.
        CheckpointError: the network's file is damaged.
        ExportError: the format has no form for what the network does, or it gives other values there.
    """
    pictures = pictures or Pictures()
    if pictures.calibrate is not None and not int8:
        raise OptionError("pictures to calibrate with are for int8; ask for that too (--int8), or leave them out")
    kind = formats.check_format(to, int8=int8, inside=preprocessing)
    student = Student.load(path, allow_code=allow_code)
    files = _free_files(student, output, kind, int8=int8)
    training.launch(device="cpu", seed=None)
    images, source = _compared_on(student, pictures)
    calibrated_with = _calibrated_with(student, pictures) if int8 else None
    prepare = _pixels if preprocessing else student.standardize
    made = {STUDENT: formats.make(student, kind, inside=preprocessing)}
    if calibrated_with is not None:
        told = formats.about(student, inside=preprocessing)
        made[INT8] = quantize(made[STUDENT], calibrated_with, prepare, count=pictures.calibration, told=told)
    runs = {name: _composed(prepare, one.run) for name, one in made.items()}
    found = verify.compare(images, _composed(student.standardize, student.logits), runs, classes=student.classes)
    _check(student, made[STUDENT], found)
    teacher, left_out = _teacher(student, allow_code=allow_code)
    networks = _measured(student, made, files, found, teacher, preprocessing=preprocessing)
    if teacher is not None:
        accuracy = _teacher_accuracy(student, teacher, pictures) if images.labelled else None
        networks = (replace(networks[0], accuracy=accuracy), *networks[1:])
    for file, artifact in zip(files, made.values(), strict=True):
        write_atomically(file, artifact.content)
    first = found[STUDENT]
    return Export(
        files=files,
        images=first.images,
        source=source,
        networks=networks,
        largest_difference=first.largest_difference,
        largest_logit=first.largest_logit,
        differing=tuple(first.differing),
        int8_differing=tuple(found[INT8].differing) if INT8 in found else None,
        teacher_left_out=left_out,
        threads=torch.get_num_threads(),
    )


def _free_files(student: Student, output: str | os.PathLike[str] | None, to: Format, *, int8: bool) -> tuple[Path, ...]:
    """Choose the files to write; what lies there must be an earlier export, not anything else."""
    suffix = formats.SUFFIXES[to]
    if output is None and to == "safetensors":
        raise OptionError(f"the network is in a safetensors file already, {student.file}; name the copy with --output")
    file = student.file.with_suffix(suffix) if output is None else Path(output)
    if file.is_dir():
        file = file / student.file.with_suffix(suffix).name
    if file.suffix != suffix:
        raise OptionError(f"{file} does not end in {suffix}, as files of {to} do; name another --output")
    files = (file, file.with_name(f"{file.stem}-int8{suffix}")) if int8 else (file,)
    for one in files:
        _check_free(one, student, to)
    return files


def _check_free(file: Path, student: Student, to: Format) -> None:
    place = next(parent for parent in file.absolute().parents if parent.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise DataError(f"{place} cannot be written to; name another --output")
    if not file.exists():
        return
    ours = (
        digest(file) == digest(student.file) if to == "safetensors" and file.is_file() else formats.is_export(file, to)
    )
    if not ours:
        raise DataError(f"{file} is there and is not an earlier export; remove it, or name another --output")


def _compared_on(student: Student, pictures: Pictures) -> tuple[ImageSource, str]:
    """Return the images that networks are compared on, and where they are from."""
    if pictures.images is not None:
        return _folder(student, pictures.images), str(pictures.images)
    try:
        name, root = student.data_set(pictures.data, pictures.root)
        images = student.test_images(name, root)
    except SvdistillError as error:
        raise DataError(
            f"an export is compared on real images, and: {error}; or give a folder of pictures (--images)"
        ) from error
    return images, f"test images of {name}" + ("" if root is None else f" in {root}")


def _calibrated_with(student: Student, pictures: Pictures) -> ImageSource:
    if pictures.calibration < 1:
        raise OptionError(f"calibration is {pictures.calibration}, expected at least 1 image")
    if pictures.calibrate is not None:
        return _folder(student, pictures.calibrate)
    try:
        return student.training_images(pictures.data, pictures.root)
    except SvdistillError as error:
        raise DataError(
            f"int8 is calibrated with training images, and: {error}; or give a folder of pictures (--calibrate)"
        ) from error


def _folder(student: Student, folder: str | os.PathLike[str]) -> ImageSource:
    channels, size, _ = student.picture_form()
    # From disk, so that each picture is known by its file.
    return load_flat_folder(folder, image_size=size, channels=channels, background=student.background, in_memory=0)


def _pixels(images: Tensor) -> Tensor:
    return images


def _composed(prepare: Runner, run: Runner) -> Runner:
    return lambda pixels: run(prepare(pixels))


def _check(student: Student, made: Artifact, found: Mapping[str, Agreement]) -> None:
    """Make sure that an export is the same network, and say so where 8 bits have cost a lot."""
    verify.check_same(found[STUDENT], made.runtime, student.file)
    small = found.get(INT8)
    if small is not None and (words := _cost(small)):
        warnings.warn(
            f"the int8 student {words}; calibrate it with more images, or deploy the one in 32 bits",
            SvdistillWarning,
            stacklevel=3,
        )


def _cost(small: Agreement) -> str:
    """Say what 8 bits have cost, where it is much."""
    if not small.finite:
        return "gives values that are not finite"
    if small.right is None or small.right_after is None:
        moved = 1 - small.agreement
        return f"takes {100 * moved:.1f} % of the images for another class" if moved > _MOVED else ""
    lost = (small.right - small.right_after) / small.images
    return f"is right about {100 * lost:.1f} % of the images less" if lost > _LOST else ""


def _teacher(student: Student, *, allow_code: bool) -> tuple[Student | None, str | None]:
    """Return the teacher of the network's run, or why it cannot be had; neither where it has none."""
    run = Run(student.file.parent)
    if not run.record.exists or student.file.name != run.student_file.name:
        return None, None
    recipe = run.recipe
    if recipe.teacher is None:
        return None, None
    if recipe.teacher.model is not None:
        return None, f"{recipe.teacher.model.name} is a network from outside, whose weights are in no file of ours"
    parent = run.teacher
    place = Path(str(recipe.teacher.checkpoint)) if parent is None else parent.path
    try:
        return Student.load(place, allow_code=allow_code), None
    except SvdistillError as error:
        return None, str(error)


def _teacher_accuracy(student: Student, teacher: Student, pictures: Pictures) -> float | None:
    """Measure the teacher on the student's images, in its own size; None, with a warning, where it cannot read them."""
    if teacher.classes != student.classes:
        return None
    try:
        images = teacher.test_images(*student.data_set(pictures.data, pictures.root), tell_others=False)
        accuracy: float = measure(teacher, images)["accuracy"]
    except SvdistillError as error:
        warnings.warn(f"the teacher's accuracy is left out: {error}", SvdistillWarning, stacklevel=3)
        return None
    return accuracy


def _measured(
    student: Student,
    made: Mapping[str, Artifact],
    files: Sequence[Path],
    found: Mapping[str, Agreement],
    teacher: Student | None,
    *,
    preprocessing: bool,
) -> tuple[Measured, ...]:
    """Measure the teacher and the student in PyTorch, and each export; the last ones are given the same image."""
    random = torch.Generator().manual_seed(0)  # of its own: a caller's numbers are left alone
    pixels = torch.randint(256, (1, *student.shape), dtype=torch.uint8, generator=random)
    own = _composed(student.standardize, student.logits) if preprocessing else student.logits
    image = pixels if preprocessing else student.standardize(pixels)
    runs = {name: (one.run, image) for name, one in made.items()} | {PYTORCH: (own, image)}
    if teacher is not None:
        runs[TEACHER] = (teacher.logits, torch.rand(1, *teacher.shape, generator=random))
    seconds = verify.latency(runs)
    networks = [] if teacher is None else [Measured(TEACHER, PYTORCH, teacher.file, _size(teacher), seconds[TEACHER])]
    right = _share(found[STUDENT].right, found[STUDENT])
    networks.append(Measured(STUDENT, PYTORCH, student.file, _size(student), seconds[PYTORCH], right))
    for (name, one), file in zip(made.items(), files, strict=True):
        right = _share(found[name].right_after, found[name])
        agreement = found[name].agreement
        networks.append(Measured(name, one.runtime, file, len(one.content), seconds[name], right, agreement))
    return tuple(networks)


def _size(network: Student) -> int:
    return network.file.stat().st_size


def _share(right: int | None, agreement: Agreement) -> float | None:
    return None if right is None else right / agreement.images
