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

import svdistill
from svdistill.errors import DataError, SvdistillWarning
from svdistill.records import RunRecord, environment

RECIPE = {"name": "digits/svd", "seed": 3, "optimizer": {"lr": 0.01, "milestones": [10, 20]}, "teacher": None, "µ": "ü"}


@pytest.fixture
def record(tmp_path):
    """A run that has just begun."""
    return RunRecord.create(tmp_path / "runs" / "one", RECIPE)


def test_create_writes_recipe_and_environment(record):
    """Both come back as they were; nothing has finished yet."""
    assert record.recipe() == RECIPE
    assert record.environment()["torch"] == torch.__version__
    assert record.metrics() == []
    assert not record.finished


def test_environment_names_versions_and_machine():
    """Everything that a result depends on besides its recipe."""
    found = environment()
    assert found.keys() >= {"svdistill", "python", "torch", "platform", "cpu", "gpu", "threads"}
    assert found["svdistill"] == svdistill.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"]
    json.dumps(found)


def test_create_again_keeps_what_is_there(record):
    """A run that is resumed keeps its metrics."""
    record.append({"epoch": 1})
    assert RunRecord.create(record.path, RECIPE).metrics() == [{"epoch": 1}]


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
        record.append({"epoch": 1, "loss": loss})
        kept.append(record.set_aside())
        assert not record.exists
    assert [RunRecord(path).metrics() for path in kept] == [[{"epoch": 1, "loss": 1}], [{"epoch": 1, "loss": 2}]]
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


def test_metrics_come_back_in_order(record):
    """One mapping an epoch, one line each."""
    lines = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1e-30, "name": "ü"}]
    for line in lines:
        record.append(line)
    assert record.metrics() == lines
    assert (record.path / "metrics.jsonl").read_text().count("\n") == 2


def test_numbers_that_are_not_finite_become_null(record):
    """JSON has no NaN, and what is written must be JSON."""
    record.append({"epoch": 1, "ratio": math.inf, "nested": [math.nan, {"x": -math.inf}], "kept": 1.5})
    assert record.metrics() == [{"epoch": 1, "ratio": None, "nested": [None, {"x": None}], "kept": 1.5}]


def test_rewind_drops_the_epochs_that_run_again(record):
    """The lines of epochs that are done stay."""
    for epoch in (1, 2, 3):
        record.append({"epoch": epoch})
    record.rewind(2)
    assert [line["epoch"] for line in record.metrics()] == [1, 2]
    record.append({"epoch": 3})
    assert [line["epoch"] for line in record.metrics()] == [1, 2, 3]
    record.rewind(0)
    assert record.metrics() == []


def test_rewind_without_metrics_does_nothing(tmp_path):
    """A run that was killed before its first epoch has none."""
    record = RunRecord(tmp_path)
    record.rewind(0)
    assert record.metrics() == []


@pytest.mark.parametrize("written", [0, 1])
def test_rewind_refuses_where_lines_are_missing(tmp_path, written):
    """A run that resumed without them would end with the wrong number of epochs, or with none that was evaluated."""
    record = RunRecord(tmp_path)
    for epoch in range(1, written + 1):
        record.append({"epoch": epoch})
    with pytest.raises(DataError, match=rf"has lines for {written} epochs, but the run's checkpoint has 2"):
        record.rewind(2)


def test_a_line_cut_off_by_an_interruption_is_left_out_and_rewound(record):
    """The rest of the run is still readable, and the next line does not stick to it."""
    record.append({"epoch": 1})
    with (record.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lo')
    assert record.metrics() == [{"epoch": 1}]
    record.rewind(1)
    record.append({"epoch": 2})
    assert record.metrics() == [{"epoch": 1}, {"epoch": 2}]


@pytest.mark.parametrize("damage", ["{]\n", "[1]\n", "\n", '{"epoch": 2, "checksum": "0"}\n'])
def test_a_damaged_line_is_named(record, damage):
    """Which file and which line, not a guess."""
    record.append({"epoch": 1})
    with (record.path / "metrics.jsonl").open("a") as file:
        file.write(damage)
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2, is damaged"):
        record.metrics()


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


@pytest.fixture
def finished(record):
    """A run that has finished: two epochs, a student, diagnostics."""
    for epoch in (1, 2):
        record.append({"epoch": epoch, "accuracy": 0.5 + 0.1 * epoch})
    record.student.write_bytes(b"weights")
    record.diagnostics.write_bytes(b"arrays")
    record.finish({"accuracy": 0.7, "epochs": 2})
    return record


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
        finished.metrics()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "line 1, is of epoch 2"),
        (lambda lines: [lines[0], *lines], "line 2, is of epoch 1"),
        (lambda lines: [lines[0], lines[1].replace("0.7", "0.8")], "line 2, is damaged .*checksum"),
        (lambda lines: [lines[0], '{"epoch": 2}\n'], "lines without a checksum among others"),
        (lambda lines: ['{"epoch": 1}\n', lines[1]], "lines without a checksum among others"),
    ],
)
def test_lines_that_are_missing_twice_or_edited(finished, change, message):
    """Noticed in a run that is yet to finish by order and checksums, in one that has by the whole file's checksum."""
    file = finished.path / "metrics.jsonl"
    file.write_text("".join(change(file.read_text().splitlines(keepends=True))))
    with pytest.raises(DataError, match=r"metrics\.jsonl has changed since the run finished; call the same"):
        finished.metrics()
    finished.reopen()
    with pytest.raises(DataError, match=message):
        finished.metrics()


def test_restore(record):
    """What a checkpoint has kept replaces what does not agree with it; epochs that run again are dropped in silence."""
    lines = [record.append({"epoch": epoch, "ü": "µ"}) for epoch in (1, 2, 3)]
    kept, file = "".join(lines[:2]), record.path / "metrics.jsonl"
    assert file.read_text() == "".join(lines)
    for there, wrong in [(lines, False), (lines[:2], False), (lines[:1], True), (lines[1:], True), ([], True)]:
        file.write_text("".join(there))
        assert record.restore(kept) is wrong
        assert file.read_text() == kept
    before = file.stat().st_ino
    assert not record.restore(kept)
    assert file.stat().st_ino == before  # what agrees is not written again
    file.unlink()
    assert record.restore(kept)
    assert [line["epoch"] for line in record.metrics()] == [1, 2]


def earlier(record):
    """Let the files be as a version without checksums wrote them."""
    for name in ("summary.json", "environment.json"):
        content = json.loads((record.path / name).read_text())
        (record.path / name).write_text(
            json.dumps({k: v for k, v in content.items() if k not in ("checksum", "files")})
        )
    file = record.path / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({k: line[k] for k in ("epoch", "accuracy")}) + "\n" for line in lines))


def test_a_run_of_an_earlier_version(finished):
    """It is read with one note; a student or metrics that are missing are noticed still."""
    earlier(finished)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        assert finished.finished
        assert finished.damage() == {}
        assert finished.summary() == {"accuracy": 0.7, "epochs": 2}
        assert [line["epoch"] for line in finished.metrics()] == [1, 2]
        assert finished.environment()["torch"] == torch.__version__
    assert [str(one.message).partition(",")[0] for one in told] == ["files of an earlier version are read"]
    finished.student.unlink()
    with pytest.warns(SvdistillWarning):
        assert finished.damage() == {"student.safetensors": "is missing"}


def test_rewind_gives_a_run_of_an_earlier_version_its_checksums(finished):
    """The lines that stay are those that :meth:`RunRecord.restore` would want."""
    earlier(finished)
    finished.reopen()
    with pytest.warns(SvdistillWarning, match="carry no checksums"):
        kept = finished.rewind(1)
    assert (finished.path / "metrics.jsonl").read_text() == kept
    assert finished.metrics() == [{"epoch": 1, "accuracy": 0.6}]  # a warning would be an error here


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


def test_metrics_of_a_long_run(record):
    """Of more lines than wanted every n-th and the last are read, n a multiple of what is asked for; few stay all."""
    lines = [{"epoch": epoch, "loss": 1 / epoch} for epoch in range(1, 102)]
    for line in lines:
        record.append(line)
    assert [line["epoch"] for line in record.metrics(most=10)] == [*range(11, 100, 11), 101]
    assert [line["epoch"] for line in record.metrics(most=10, every=4)] == [*range(12, 97, 12), 101]
    assert record.metrics(most=101, every=7) == lines
    record.finish({})
    assert record.metrics(most=10) == [*lines[10:99:11], lines[100]]


@pytest.mark.parametrize("finished", [False, True])
def test_damage_to_a_line_that_is_not_wanted(record, finished):
    """It is noticed all the same, before and after the run has ended."""
    for epoch in range(1, 10):
        record.append({"epoch": epoch, "loss": 0.5})
    if finished:
        record.finish({})
    file = record.path / "metrics.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"epoch": 2, "loss": 0.5', b'"epoch": 2, "loss": 0.7'))
    with pytest.raises(DataError, match="changed since the run finished" if finished else "line 2.*checksum"):
        record.metrics(most=3)


def test_what_the_system_does_not_let_us_read(record, monkeypatch):
    """A folder in place of the metrics, text that is not UTF-8, and a machine that does not tell its processor."""
    file = record.path / "metrics.jsonl"
    file.write_bytes(b'{"epoch": 1, "name": "\xff"}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl cannot be read"):
        record.metrics()
    file.unlink()
    file.mkdir()
    with pytest.raises(DataError, match=r"metrics\.jsonl cannot be read .*Is a directory"):
        record.metrics()
    monkeypatch.setattr(
        "svdistill.records.Path", lambda _: record.path
    )  # which is a folder, as little as a file as /proc
    assert environment()["cpu"]


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
