"""A run belongs to the images and the teacher that made it: no other images ever get its result."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.data.pictures import tree
from tests.jobs.shared_runs import Stops

from svdistill import jobs, nets, recipes, sweep
from svdistill.data.folder import load_image_folder
from svdistill.errors import DataError, SvdistillWarning
from svdistill.jobs import Run
from svdistill.recipes.images import load_images

ALONE = ["data.name=image-folder", "data.image_size=8", "data.channels=1", "data.train_size=null", "model.width=0.05"]
ALONE += ["model.taps=[block1,block2]", "train.batch_size=4", "train.epochs=1"]
CPU = "train.device=cpu"
HELPED = [*ALONE, *(f"teacher.overrides.{one}" for one in ALONE), CPU]


def train(root: Path, *overrides: str, runs: Path, **options: Any) -> Run:
    """Train a very small network on a tree of images."""
    return jobs.train("digits/student", overrides=[*ALONE, CPU, f"data.root={root}", *overrides], runs=runs, **options)


def distill(root: Path, *overrides: str, runs: Path, **options: Any) -> Run:
    """Train one with a teacher of the same images."""
    return jobs.train("digits/svd", overrides=[*HELPED, f"data.root={root}", *overrides], runs=runs, **options)


def bitmaps(root: Path) -> Path:
    """Three classes of four images, and two of each to test with, in files of the same size."""
    for file in tree(root).glob("*/*/*.png"):
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()
    return root


def replace_in_place(file: Path) -> None:
    """Turn an image into another one, in a file of the same size and date: a bit of its last pixel."""
    about, content = file.stat(), file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A tree of images."""
    return bitmaps(tmp_path / "photos")


def test_folds(photos: Path, tmp_path: Path) -> None:
    """Other images of the same names, numbers and classes, elsewhere, never get the result of the first ones."""
    runs = tmp_path / "runs"
    first = train(photos, runs=runs)
    fold = shutil.copytree(photos, tmp_path / "fold")
    assert train(fold, runs=runs).path == first.path  # the same images, elsewhere
    replace_in_place(fold / "train" / "cat" / "0.bmp")
    with pytest.raises(
        DataError, match=r"other images .*\(other training images\); take another folder of runs"
    ) as said:
        train(fold, runs=runs)
    assert "\n" not in str(said.value)
    assert train(photos, runs=runs).path == first.path
    assert train(fold, runs=runs, fresh=True).path == first.path
    with pytest.raises(DataError, match="other training images"):
        train(photos, runs=runs)


def answers(settings: Sequence[str], run: Run, changed: Path) -> Counter[str]:
    """What a run says to each image of a folder that is another one now: which of its images differ; none = nothing."""
    recipe = recipes.load("digits/svd", [*HELPED, *settings])
    run.note_data(load_images(recipe), None)
    found: Counter[str] = Counter()
    for file in sorted(changed.glob("*/*.bmp")):
        content = file.read_bytes()
        replace_in_place(file)
        try:
            run.check_data(load_images(recipe))
            found["none"] += 1
        except DataError as error:
            found[str(error).partition("(other ")[2].partition(");")[0]] += 1
        file.write_bytes(content)
    return found


STATISTICS = "images behind mean and deviation"
FEW = ("data.train_size=3", "train.batch_size=3")


@pytest.mark.parametrize(
    ("settings", "part", "expected"),
    [
        ((), "train", {"training images": 12}),
        ((), "val", {"test images": 6}),
        (("data.classes=[eel,cat]",), "train", {"training images": 8, "none": 4}),
        (("data.held_out=0.25",), "train", {"training images": 9, "test images": 3}),
        (("data.held_out=0.25",), "val", {"none": 6}),
        (("data.task=rotation",), "train", {"training images": 12}),
        (FEW, "train", {f"training images, {STATISTICS}": 3, STATISTICS: 9}),
        (
            (*FEW, "data.unlabelled={batch_size: 9}"),
            "train",
            {f"training images, {STATISTICS}": 3, f"images without labels, {STATISTICS}": 9},
        ),
    ],
)
def test_every_image_that_decides_counts(
    photos: Path, tmp_path: Path, settings: tuple[str, ...], part: str, expected: dict[str, int]
) -> None:
    """Each one that is trained on, measured on, or behind mean and deviation, and no other."""
    assert answers([f"data.root={photos}", *settings], Run(tmp_path / "run"), photos / part) == expected


def test_an_exchanged_pool_of_images_without_labels(photos: Path, tmp_path: Path) -> None:
    """Those of them that are chosen count; the folder that they lie in does not."""
    pool = bitmaps(tmp_path / "pool")
    own = {"name": "image-folder", "root": str(pool), "size": 5, "batch_size": 2}
    settings, run = [f"data.root={photos}", f"data.unlabelled={json.dumps(own)}"], Run(tmp_path / "run")
    assert answers(settings, run, pool / "train") == {"images without labels": 5, "none": 7}
    assert answers(settings, run, pool / "val") == {"none": 6}
    moved = f"data.unlabelled={json.dumps({**own, 'root': str(pool.rename(tmp_path / 'moved'))})}"
    run.check_data(load_images(recipes.load("digits/svd", [*HELPED, settings[0], moved])))


def test_an_interrupted_run_is_not_resumed_with_other_images(photos: Path, tmp_path: Path) -> None:
    """It says so in one line; with its own images it is resumed."""
    runs, file = tmp_path / "runs", photos / "train" / "dog" / "1.bmp"
    with pytest.raises(KeyboardInterrupt):
        train(photos, "train.epochs=2", runs=runs, callbacks=Stops())
    content = file.read_bytes()
    replace_in_place(file)
    with pytest.raises(DataError, match="other training images"):
        train(photos, "train.epochs=2", runs=runs)
    file.write_bytes(content)
    assert train(photos, "train.epochs=2", runs=runs).finished


def test_one_teacher_alone(photos: Path, tmp_path: Path) -> None:
    """A finished student is not handed out for a teacher that was trained again, or whose images are others now."""
    runs = tmp_path / "runs"
    student = distill(photos, runs=runs)
    parent = recipes.lineage(student.recipe)[1]
    teacher = Run.of(parent, runs)
    assert distill(photos, runs=runs).path == student.path
    kept = teacher.student_file.read_bytes()
    weights, spec = teacher.student(), nets.spec(teacher.student_file)
    with torch.no_grad():
        next(weights.parameters()).add_(1)
    known = {key: spec.pop(key) for key in ("name", "num_classes", "in_channels", "width")}
    nets.save(weights, teacher.student_file, **known, extra=spec)
    summary = teacher.summary
    teacher.record.reopen()
    teacher.record.finish(summary)  # as a training does that has come to other weights
    overrides = [*HELPED, f"data.root={photos}"]
    for again in (
        lambda: distill(photos, runs=runs),
        lambda: sweep.plan("digits/svd", overrides=overrides, methods=["svd"], seeds=[0], runs=runs),
    ):
        with pytest.raises(DataError, match=r"begun with another teacher: .*student\.safetensors was trained again"):
            again()
    teacher.student_file.write_bytes(kept)
    teacher.record.reopen()
    teacher.record.finish(summary)
    distill(photos, runs=runs)
    teacher.path.rename(tmp_path / "gone")  # students are all that is wanted
    assert distill(photos, runs=runs).path == student.path


def test_a_damaged_teacher_is_made_again(photos: Path, tmp_path: Path) -> None:
    """Its student stays what it is, and another one waits until the teacher is whole."""
    runs = tmp_path / "runs"
    student = distill(photos, runs=runs)
    teacher = Run.of(recipes.lineage(student.recipe)[1], runs)
    whole = teacher.student_file.read_bytes()
    teacher.student_file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert distill(photos, runs=runs).path == student.path
    with pytest.warns(SvdistillWarning, match=r"student\.safetensors has changed .* finished again"):
        distill(photos, "loss.rank=2", runs=runs)
    assert teacher.student_file.read_bytes() == whole


def test_a_teachers_own_images(photos: Path, tmp_path: Path) -> None:
    """They decide what a student is, too, also where it is finished."""
    own = bitmaps(tmp_path / "own")
    runs, data = tmp_path / "runs", f"teacher.overrides.data.root={own}"
    student = distill(photos, data, runs=runs)
    replace_in_place(own / "train" / "eel" / "3.bmp")
    with pytest.raises(DataError, match=r"digits/teacher/\S+ was made with other images .*other training images"):
        distill(photos, data, runs=runs)
    with pytest.raises(DataError, match=r"digits/teacher/\S+ was made with other images"):
        distill(photos, data, runs=runs, fresh=True)
    assert student.finished  # nothing was set aside for it


def test_a_teachers_file_replaced_in_place(photos: Path, tmp_path: Path) -> None:
    """Other weights under the same path are another teacher, and make another run."""
    runs, file = tmp_path / "runs", tmp_path / "teacher.safetensors"
    plain = [one for one in HELPED if not one.startswith("teacher.")]
    settings = [*plain, f"data.root={photos}", "teacher.recipe=null", f"teacher.checkpoint={file}"]
    settings += ["teacher.taps=[block1,block2]"]
    names = []
    for seed in (0, 1):
        shutil.copy(train(photos, f"seed={seed}", runs=runs).student_file, file)
        names.append(jobs.train("digits/svd", overrides=settings, runs=runs).path.name)
    assert len(set(names)) == 2


@pytest.fixture
def begun(photos: Path, tmp_path: Path) -> Run:
    """A run that says what it is made with, and its recipe."""
    run = Run(tmp_path / "run")
    recipe = recipes.load("digits/student", [*ALONE, f"data.root={photos}"])
    run.note_data(load_images(recipe), None)
    run.record.create(run.path, recipe.to_dict())
    return run


def test_a_run_of_an_earlier_version(begun: Run) -> None:
    """Is read with a note, and what it knows of its images is compared all the same."""
    images = load_images(begun.recipe)
    begun.check_data(images)
    known = json.loads(begun.record.data.read_text())
    assert set(known) == {"labels", "shapes", "classes", "pixels", "teacher", "checksum"}
    del known["pixels"], known["teacher"], known["checksum"]
    begun.record.data.write_text(json.dumps(known))
    with pytest.warns(SvdistillWarning, match="does not say what its images were"):
        begun.check_data(images)
    begun.check_teacher(begun.record.data)
    for key, other, title in (
        ("labels", "0", "labels"),
        ("shapes", [], "number or size"),
        ("classes", ["a"], "class names"),
    ):
        begun.record.data.write_text(json.dumps({**known, key: other}))
        with (
            pytest.warns(SvdistillWarning),
            pytest.raises(DataError, match=rf"with other images of the same name \(other {title}\)"),
        ):
            begun.check_data(images)
    begun.record.data.unlink()
    with pytest.warns(SvdistillWarning, match="does not say what its images were"):
        begun.check_data(images)
    shutil.rmtree(begun.path)
    begun.check_data(images)  # nothing has begun


def test_other_labels_of_the_same_images(begun: Run) -> None:
    """An image that is of another class now is another task, though all pixels are as they were."""
    root = Path(str(begun.recipe.data.root)) / "train"
    (root / "cat" / "3.bmp").rename(root / "dog" / "!.bmp")  # in the order of all images it stays where it was
    with pytest.raises(DataError, match=r"\(other labels\)"):
        begun.check_data(load_images(begun.recipe))


def test_a_class_whose_name_is_not_utf8(begun: Run) -> None:
    """It is written down and compared like any other, held-out images included."""
    for part in ("train", "val"):
        folder = Path(str(begun.recipe.data.root)) / part
        (folder / "cat").rename(folder / os.fsdecode(b"caf\xe9"))
    recipe = recipes.load("digits/student", [*ALONE, f"data.root={begun.recipe.data.root}", "data.held_out=0.25"])
    images = load_images(recipe)
    with pytest.raises(DataError, match="class names"):
        begun.check_data(images)
    begun.note_data(images, None)
    begun.check_data(images)


NESTED = b"[" * 100_000
SOUND = {"labels": "a", "shapes": [], "classes": []}


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\0", b"\xff{}", b"[]", b"null", b"3", b'"pixels"', b"NaN", b"{}", b"{", NESTED, b"9" * 10_000),
        json.dumps({**SOUND, "checksum": "0"}).encode(),
        *(json.dumps({**SOUND, key: 5}).encode() for key in ("labels", "shapes", "classes", "pixels", "teacher")),
        json.dumps({**SOUND, "pixels": {}, "filler": " " * (32 << 20)}).encode(),
    ],
    ids=lambda content: str(content[:12]),
)
def test_what_a_run_was_made_with_is_damaged(begun: Run, content: bytes) -> None:
    """One line, whatever the file holds."""
    images = load_images(begun.recipe)
    begun.record.data.write_bytes(content)
    for check in (lambda: begun.check_data(images), lambda: begun.check_teacher(None)):
        with pytest.raises(DataError, match=r"^\S+data\.json is damaged, .*; train it afresh") as caught:
            check()
        assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written(photos: Path, tmp_path: Path) -> None:
    """Before anything is trained, in one line: here a file is in the folder's place."""
    (tmp_path / "runs").write_text("")
    images = load_images(recipes.load("digits/student", [*ALONE, CPU, f"data.root={photos}"]))
    with pytest.raises(DataError, match=r"cannot write to the run folder .*; free the disk, or choose another"):
        Run(tmp_path / "runs" / "0-abc").note_data(images, None)


def test_a_pipe_in_place_of_the_file(begun: Run) -> None:
    """Nobody waits for what never comes."""
    begun.record.data.unlink()
    os.mkfifo(begun.record.data)
    with pytest.raises(DataError, match="is damaged"):
        begun.check_teacher(None)


@pytest.mark.parametrize("in_memory", [1 << 30, 0])
def test_what_is_stored_of_a_teacher(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    """It is of these pixels and no others, also where they stay on disk."""

    def loaded(*arguments: Any, **options: Any) -> Any:
        return load_image_folder(*arguments, **{**options, "in_memory": in_memory})

    monkeypatch.setattr("svdistill.data.catalogue.load_image_folder", loaded)
    images, pool, runs = bitmaps(tmp_path / "others"), bitmaps(tmp_path / "pool"), tmp_path / "runs"
    settings = [*HELPED, f"data.root={images}", "views=2", f"teacher.overrides.data.root={photos}"]
    settings += [f"data.unlabelled={{name: image-folder, root: {pool}, batch_size: 2}}"]
    first = jobs.cache("digits/svd", overrides=settings, runs=runs)
    assert jobs.cache("digits/svd", overrides=settings, runs=runs).taken == 0
    replace_in_place(images / "val" / "cat" / "0.bmp")  # the teacher is not asked about it
    assert jobs.cache("digits/svd", overrides=settings, runs=runs).taken == 0
    for root in (images, pool):
        replace_in_place(root / "train" / "cat" / "0.bmp")
        with pytest.raises(DataError, match=f"{first.path} is of other training images"):
            jobs.cache("digits/svd", overrides=settings, runs=runs)
        replace_in_place(root / "train" / "cat" / "0.bmp")  # as it was
    assert jobs.cache("digits/svd", overrides=settings, runs=runs).taken == 0
