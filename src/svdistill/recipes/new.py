"""A new recipe, with comments, from a few answers."""

import math
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from svdistill import data, nets
from svdistill.atomic import write_atomically
from svdistill.choices import IMAGE_FOLDER
from svdistill.errors import CheckpointError, OptionError, RecipeError, nearest
from svdistill.methods import BASELINE
from svdistill.recipes import files
from svdistill.recipes.load import lineage, load, methods
from svdistill.recipes.naming import check_names, named

_EPOCHS, _BATCH = 60, 64
_STEPS = 450  # at least, of the main task
_SMALLEST = 4  # images of a batch, where there are so many
_MIRRORED = "flip: true, shift: 2"
_UPRIGHT = "rotation: 10, shift: 1"  # a mirrored digit is no digit


@dataclass(frozen=True)
class Answers:
    """What a new recipe is made of.

    Attributes:
        data: name of a data set, or a folder of images, see `is_folder`.
        student: name of the network that is trained.
        teacher: name of the network that helps it and is trained first, or the file of a trained one; None without.
        method: how the teacher helps, one of `recipes.methods`; ``alone`` needs no teacher.
        labels: how many labelled images are trained on; None = all.
        image_size: height and width of an image in pixels; None = that of the data set.
        log: trackers that are told of the runs.
        allow_code: whether networks may be code of one's own, which the recipe then lets run.
    """

    data: str
    student: str
    teacher: str | None
    method: str
    labels: int | None = None
    image_size: int | None = None
    log: tuple[str, ...] = ()
    allow_code: bool = False


def write(file: Path, answers: Answers) -> list[Path]:
    """Write a recipe, and beside it that of its teacher, where that is to be trained first.

    Args:
        file: the new file; that of the teacher has ``-teacher`` in its name.
        answers: what it is made of.

    Returns:
        The files, that of the student first.

    Raises:
        OptionError: a file is there already or has another ending, a method or the teacher is wrong, or there are not
            as many images as are to be labelled.
        RecipeError: the answers do not make a recipe.
        DataError: a folder is not one of images by class, or has too few.
    """
    if file.suffix not in files.SUFFIXES:
        raise OptionError(f"{file} is no name of a recipe; give one that ends in .yaml")
    texts = _texts(file, answers)
    for path in texts:
        if path.exists():
            raise OptionError(f"there is a file {path} already; give another name, or remove it")
    with tempfile.TemporaryDirectory() as folder:
        tried = [Path(folder) / path.name for path in texts]
        for path, text in zip(tried, texts.values(), strict=True):
            path.write_text(text, encoding="utf-8")
        check_names(*lineage(load(tried[0])))
    _check_images(answers)
    try:
        for path, text in reversed(list(texts.items())):
            write_atomically(path, text.encode())
    except OSError as error:
        raise RecipeError(f"cannot write {file}: {error.strerror or error}; give another folder") from error
    return list(texts)


def is_folder(answer: str) -> bool:
    """Whether an answer means a folder of images; a folder that is called as a data set is meant by ``./NAME``."""
    return Path(answer).is_dir() and answer not in data.names()


def _texts(file: Path, answers: Answers) -> Mapping[Path, str]:
    if answers.method not in methods():
        raise OptionError(f"--method: no method {answers.method!r}{nearest(answers.method, methods())}")
    alone = answers.method == BASELINE
    if not alone and answers.teacher is None:
        raise OptionError(f"--teacher: {answers.method!r} needs one; give a network or a trained one's file")
    if alone and answers.teacher is not None:
        raise OptionError(f"--teacher: {answers.method!r} trains without one; leave it out, or take another --method")
    name = shlex.quote(str(file))
    head = f"# Train it:       svdistill train {name}\n# All settings:   svdistill recipes show {name}\n"
    if alone:
        return {file: head + _about(answers, "the student alone") + _labels(answers) + _network(answers.student)}
    if str(answers.teacher).endswith(".safetensors"):
        grey = _trained_on(Path(str(answers.teacher))) == 1 and is_folder(answers.data)
        helper = f"teacher:\n  checkpoint: {_quoted(str(Path(str(answers.teacher)).resolve()))}  # trained already\n"
        about = _about(answers, "a student and a trained teacher", method=answers.method)
        about += "  channels: 1  # grey, as the teacher has them\n" if grey else ""
        return {file: head + about + _labels(answers) + _network(answers.student) + helper}
    other = file.with_name(f"{file.stem}-teacher{file.suffix}")
    own = (
        f"extends: [{_quoted(other.name)}, methods/{answers.method}]  # images and training as the teacher's\n"
        f"{_leave(answers)}description: {_quoted(f'{answers.student} with the help of {answers.teacher}')}\n"
    )
    labels, (epochs, batch) = _labels(answers), _length(answers)
    length = f"{{epochs: {epochs}, batch_size: {batch}}}"
    train = f"train: {length}  # steps enough for so few labels\n" if (epochs, batch) != (_EPOCHS, _BATCH) else ""
    helper = f"teacher:\n  recipe: {_quoted(other.name)}  # trained first, once\n"
    taught = replace(answers, labels=None)
    teacher = f"# The teacher of {file.name}, on all labels.\n" + _about(taught, "the teacher")
    return {
        file: head + own + train + (f"data:\n{labels}" if labels else "") + _network(answers.student) + helper,
        other: teacher + _network(str(answers.teacher)),
    }


def _trained_on(file: Path) -> int:
    """Return how many channels a trained teacher takes; an error where its file does not say what network it is of."""
    try:
        return int(nets.spec(file)["in_channels"])
    except CheckpointError as error:
        raise OptionError(f"--teacher: {error}") from error


def _check_images(answers: Answers) -> None:
    """Make sure that there are images, and as many as are to be labelled, without decoding one."""
    labels, alone = answers.labels, answers.method == BASELINE
    if is_folder(answers.data):
        with named("--data"):  # the size means nothing to a listing
            train = data.load(IMAGE_FOLDER, root=Path(answers.data).resolve(), image_size=1, in_memory=0).train
        if labels is not None:
            with named("--labels"):
                (train.subset if alone else train.rest)(labels, seed=0)
        return
    known = data.describe(answers.data)
    if known.classes is None or known.train is None:
        raise OptionError(f"--data: {known.name} says nothing of which images; give the folder itself")
    most = known.train if alone else known.train - 1  # the teacher helps on the others
    if labels is not None and not known.classes <= labels <= most:
        raise OptionError(
            f"--labels: {labels} labelled images were asked for, expected {known.classes} (one a class) to {most}; "
            f"leave --labels out for all {known.train}"
        )


def _about(answers: Answers, what: str, *, method: str | None = None) -> str:
    """Write all that is said of images and training; the section of the images is the last, and open."""
    in_folder = is_folder(answers.data)
    root = (
        f"  root: {_quoted(str(Path(answers.data).resolve()))}  # train/CLASS/… and val/CLASS/…\n" if in_folder else ""
    )
    size = f"  image_size: {answers.image_size}  # pixels\n" if answers.image_size else ""
    log = f", log: [{', '.join(map(_quoted, answers.log))}]" if answers.log else ""
    epochs, batch = _length(answers)
    augment = _UPRIGHT if answers.data == "digits" else _MIRRORED
    return (
        (f"extends: methods/{method}\n" if method else "")
        + _leave(answers)
        + f"description: {_quoted(f'{what} on {Path(answers.data).name}')}\n"
        "optimizer: {name: sgd, lr: 0.05, weight_decay: 5.0e-4}  # a lower lr where the loss diverges\n"
        f"train: {{epochs: {epochs}, schedule: cosine, warm_up: 3, batch_size: {batch}{log}}}\n"
        f"data:\n  name: {IMAGE_FOLDER if in_folder else _quoted(answers.data)}\n{root}{size}"
        f"  augment: {{{augment}}}  # how images vary; 'svdistill data show' draws it\n"
    )


def _leave(answers: Answers) -> str:
    return "allow_code: true  # networks may be code of yours\n" if answers.allow_code else ""


def _length(answers: Answers) -> tuple[int, int]:
    """Return how many epochs of which batches: of few labels many, of small ones, two an epoch from eight labels on."""
    if answers.labels is None:
        return _EPOCHS, _BATCH
    batch = min(_BATCH, max(answers.labels // 2, min(answers.labels, _SMALLEST)))
    return max(_EPOCHS, math.ceil(_STEPS / (answers.labels // batch))), batch


def _labels(answers: Answers) -> str:
    if answers.labels is None:
        return ""
    rest = "" if answers.method == BASELINE else "  unlabelled: {name: rest}  # the teacher helps on the others too\n"
    return f"  train_size: {answers.labels}  # labelled images\n{rest}"


def _network(name: str) -> str:
    return f"model:\n  name: {_quoted(name)}  # any of 'svdistill networks', or timm:NAME and the like\n"


def _quoted(text: str) -> str:
    """Write a text so that YAML takes it for one."""
    return "'" + text.replace("'", "''") + "'"
