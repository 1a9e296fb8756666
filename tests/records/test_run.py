"""Tests of a run's folder: what is written is read back, whole or not at all."""

import hashlib
import json
import math
import os
import subprocess
import sys
import warnings

import pytest
import torch
from tests.records.examples import RECIPE, earlier

from svdistill.errors import DataError, SvdistillWarning
from svdistill.records import RunRecord


def test_create_writes_recipe_and_environment(record):
    """Both come back as they were; nothing has finished yet."""
    assert record.recipe() == RECIPE
    assert record.environment()["torch"] == torch.__version__
    assert record.metrics.read() == []
    assert not record.finished


def test_create_again_keeps_what_is_there(record):
    """A run that is resumed keeps its metrics."""
    record.metrics.append({"epoch": 1})
    assert RunRecord.create(record.path, RECIPE).metrics.read() == [{"epoch": 1}]


def test_names_of_the_files(record):
    """Those of every version so far: runs that exist stay readable."""
    files = [record.student, record.data, record.diagnostics, record.last, record.best, record.tensorboard]
    assert [file.relative_to(record.path).as_posix() for file in files] == [
        "student.safetensors",
        "data.json",
        "insight.npz",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
        "tensorboard",
    ]


def test_a_run_exists_as_soon_as_it_has_a_recipe(tmp_path):
    """A folder of something else is not a run, and neither is one that is missing."""
    assert not RunRecord(tmp_path).exists
    assert not RunRecord(tmp_path / "missing").exists
    assert RunRecord.create(tmp_path, RECIPE).exists


def test_find(tmp_path):
    """Runs at any depth or in the folder's own subfolders, in order; not those that were set aside."""
    for name in ("b", "a/two", "a/one"):
        RunRecord.create(tmp_path / name, RECIPE)
    for name in ("b", "a/one"):
        RunRecord.create(tmp_path / name, RECIPE).set_aside()
        RunRecord.create(tmp_path / name, RECIPE)
    (tmp_path / "c").mkdir()
    found = [record.path.relative_to(tmp_path).as_posix() for record in RunRecord.find(tmp_path)]
    assert found == ["a/one", "a/two", "b"]
    assert [record.path.name for record in RunRecord.find(tmp_path, deep=False)] == ["b"]
    assert RunRecord.find(tmp_path / "missing") == []


def test_set_aside_keeps_everything(tmp_path):
    """The folder has another name, also where it is set aside twice within a second; without one nothing happens."""
    kept = []
    for loss in (1, 2):
        record = RunRecord.create(tmp_path / "one", RECIPE)
        record.metrics.append({"epoch": 1, "loss": loss})
        kept.append(record.set_aside())
        assert not record.exists
    assert [RunRecord(path).metrics.read() for path in kept] == [[{"epoch": 1, "loss": 1}], [{"epoch": 1, "loss": 2}]]
    assert RunRecord(tmp_path / "one").set_aside() is None


def test_create_refuses_the_folder_of_another_recipe(record):
    """Nothing is overwritten."""
    with pytest.raises(DataError, match="another recipe"):
        RunRecord.create(record.path, {**RECIPE, "seed": 4})
    assert record.recipe() == RECIPE


def test_create_where_no_folder_can_be(tmp_path):
    """A file in the way is one line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write to the run folder"):
        RunRecord.create(tmp_path / "file" / "run", RECIPE)


@pytest.mark.parametrize("name", ["recipe.yaml", "environment.json", "summary.json"])
@pytest.mark.parametrize("damage", [None, b"\xff\xfe", b"{a: [", b"just text"])
def test_missing_and_damaged_files_are_named(record, name, damage):
    """Each way to read a file says which one is the matter."""
    record.finish({"accuracy": 1.0})
    path = record.path / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        getattr(record, name.partition(".")[0])()


def test_finish_makes_a_run_finished(record):
    """The summary's presence says so."""
    record.finish({"accuracy": 0.9, "ratio": math.nan})
    assert record.finished
    assert record.ended
    assert record.summary() == {"accuracy": 0.9, "ratio": None}
    record.reopen()
    assert not record.finished
    record.reopen()


FILES = ["recipe.yaml", "metrics.jsonl", "student.safetensors", "insight.npz"]


def test_a_finished_run_is_whole(finished):
    """The summary has the SHA-256 of every other file, and is plain JSON."""
    assert finished.damage() == {}
    written = json.loads((finished.path / "summary.json").read_text())
    assert list(written) == ["accuracy", "epochs", "files", "checksum"]
    assert written["files"] == {name: hashlib.sha256((finished.path / name).read_bytes()).hexdigest() for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_or_has_changed_is_named(finished, name):
    """One that is missing is noticed by whoever asks whether the run has finished, one bit by whoever looks closer."""
    file = finished.path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert finished.finished
    assert finished.damage() == {name: "has changed since the run finished"}
    file.unlink()
    assert not finished.finished
    assert finished.ended
    assert finished.damage() == {name: "is missing"}
    file.mkdir()
    assert not finished.finished
    assert finished.damage() == {name: "cannot be read (Is a directory)"}


@pytest.mark.parametrize("name", ["summary.json", "environment.json"])
def test_a_flipped_bit_is_noticed(finished, name):
    """Whichever it is: the file no longer says what was written, or can no longer be read."""
    file = finished.path / name
    whole = file.read_bytes()
    known = getattr(finished, file.stem)()
    for position in range(0, len(whole), 7):
        content = bytearray(whole)
        content[position] ^= 4
        file.write_bytes(content)
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                found = getattr(finished, file.stem)()
        except DataError as error:
            assert name in str(error)  # noqa: PT017
        else:  # in the word 'checksum' itself, or the space around it
            assert told or found == known
            assert {key: value for key, value in found.items() if key in known} == known


def test_a_summary_that_is_damaged_is_said_where_it_is_read(finished):
    """And by whoever looks for damage."""
    (finished.path / "summary.json").write_text('{"files": []}')
    with pytest.warns(SvdistillWarning, match="carry no checksums"):
        assert finished.damage() == {"summary.json": "is damaged"}
    (finished.path / "summary.json").write_text("{")
    assert finished.finished
    assert finished.damage() == {"summary.json": "is damaged"}
    with pytest.raises(DataError, match=r"summary\.json is damaged"):
        finished.metrics.read()


def test_a_run_of_an_earlier_version(finished):
    """It is read with one note; a student or metrics that are missing are noticed still."""
    earlier(finished)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        assert finished.finished
        assert finished.damage() == {}
        assert finished.summary() == {"accuracy": 0.7, "epochs": 2}
        assert [line["epoch"] for line in finished.metrics.read()] == [1, 2]
        assert finished.environment()["torch"] == torch.__version__
    assert [str(one.message).partition(",")[0] for one in told] == ["files of an earlier version are read"]
    finished.student.unlink()
    with pytest.warns(SvdistillWarning):
        assert finished.damage() == {"student.safetensors": "is missing"}


def test_leftovers_of_processes_that_are_gone(record):
    """Of a run's folder and of its checkpoints; not our own."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    record.last.parent.mkdir()
    for folder in (record.path, record.last.parent):
        (folder / f".x.{child.pid}.tmp").write_text("")
        (folder / f".x.{os.getpid()}.tmp").write_text("")
    record.clear_leftovers()
    for folder in (record.path, record.last.parent):
        assert [file.name for file in folder.glob(".*")] == [f".x.{os.getpid()}.tmp"]


def test_what_a_checkpoint_cannot_give_back(finished):
    """The recipe alone: all else is made again."""
    assert not finished.can_finish_again({"recipe.yaml": "is missing", "insight.npz": "is missing"})
    assert finished.can_finish_again(dict.fromkeys(FILES[1:], "is missing"))
    assert repr(finished) == f"RunRecord({str(finished.path)!r})"


def test_the_students_digest_is_that_of_the_end(record, finished):
    """Whatever has become of the file; where the summary does not say it, that of the file there is."""
    known = hashlib.sha256(finished.student.read_bytes()).hexdigest()
    assert finished.student_digest() == known
    finished.student.write_bytes(b"others")
    assert finished.student_digest() == known
    (finished.path / "summary.json").write_text("{")
    assert finished.student_digest() == hashlib.sha256(b"others").hexdigest()
    finished.student.unlink()
    assert finished.student_digest() is None


def test_the_recipe_can_be_written_again(record):
    """As it was."""
    (record.path / "recipe.yaml").write_text("name: [")
    record.rewrite_recipe(RECIPE)
    assert record.recipe() == RECIPE


def test_a_pipe_in_place_of_a_file_is_damage(finished):
    """It is not waited for."""
    finished.student.unlink()
    os.mkfifo(finished.student)
    assert finished.damage() == {"student.safetensors": "is no file"}
    assert finished.damage(large=False) == {}
