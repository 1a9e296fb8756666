"""A comparison from one end to the other."""

from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tests.sweep.small import TINY
from tests.sweep.telling import train_and_tell

from svdistill import jobs, recipes, sweep
from svdistill.methods import TEACHER
from svdistill.recipes.images import load_images
from svdistill.teacher_cache import TeacherCache


def test_compare_trains_everything(tmp_path: Path) -> None:
    """From Python: one call, the teacher first, and each run has its summary."""
    done = sweep.compare("digits/svd", overrides=TINY, methods=["alone", "svd"], seeds=[1], runs=tmp_path)
    assert [member.state for member in done.members] == ["finished"] * 3
    assert done.failed == []
    assert [member.summary["method"] for member in done.members if member.summary] == ["alone", "alone", "svd"]
    assert all(recipes.identity(member.recipe) == member.run.path.name for member in done.members)


def test_students_of_a_teacher_that_is_made_again(tmp_path: Path) -> None:
    """They stand where it comes out the same; one of another teacher is not compared with them."""

    def compare(methods: list[str]) -> dict[str, tuple[str, str | None]]:
        done = sweep.compare("digits/svd", overrides=TINY, methods=methods, seeds=[1], runs=tmp_path)
        return {member.method: (member.state, member.error) for member in done.members}

    teacher, same, other = sweep.plan(
        "digits/svd", overrides=TINY, methods=["svd", "fsp"], seeds=[1], runs=tmp_path
    ).members
    compare(["svd", "fsp"])
    before = (same.run.path / "summary.json").read_bytes()
    other.run.note_data(load_images(other.recipe), same.run.student_file)
    teacher.run.path.rename(tmp_path / "gone")
    found = compare(["svd", "fsp", "soft-target"])
    state, error = found.pop("fsp")
    assert found == dict.fromkeys([TEACHER, "svd", "soft-target"], ("finished", None))
    assert (same.run.path / "summary.json").read_bytes() == before
    assert state == "failed"
    assert "was begun with another teacher" in str(error)


def test_students_side_by_side_share_one_teacher_cache(tmp_path: Path) -> None:
    """Processes of several seeds and methods, all at once: one stores, the others wait, all read the same files."""
    overrides = [*TINY, "data.train_size=null", "train.batch_size=64", "teacher.views=2"]
    planned = sweep.plan(
        "digits/svd", overrides=overrides, methods=["svd", "svd-eccv2018"], seeds=[0, 1], runs=tmp_path / "runs"
    )
    teacher, *students = planned.members
    assert teacher.method == TEACHER
    jobs.train(teacher.recipe, runs=tmp_path / "runs")
    told, context = tmp_path / "told", get_context("spawn")
    processes = [context.Process(target=train_and_tell, args=(one.recipe, tmp_path / "runs", told)) for one in students]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * 4
    (manifest,) = (tmp_path / "runs" / "knowledge").rglob("manifest.json")
    cache = TeacherCache.open(manifest.parent)
    assert sum(int(line) for line in told.read_text().split()) == cache.images * cache.views
    for file in manifest.parent.glob("*.npy"):
        assert isinstance(np.load(file, mmap_mode="r"), np.memmap)
