"""Tests of a run's folder: what is written is read back, whole or not at all."""

import json
import math

import pytest
import torch

import svdistill
from svdistill.errors import DataError
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
    for epoch in (1, 2):
        record = RunRecord.create(tmp_path / "one", RECIPE)
        record.append({"epoch": epoch})
        kept.append(record.set_aside())
        assert not record.exists
    assert [RunRecord(path).metrics() for path in kept] == [[{"epoch": 1}], [{"epoch": 2}]]
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


@pytest.mark.parametrize("damage", ["{]\n", "[1]\n", "\n"])
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
    assert record.summary() == {"accuracy": 0.9, "ratio": None}
