"""Tests of a run's metrics: every epoch once, in order, or a message that says where not."""

import math

import pytest
from tests.records.examples import earlier

from svdistill.errors import DataError, SvdistillWarning
from svdistill.records import RunRecord


def test_metrics_come_back_in_order(record):
    """One mapping an epoch, one line each."""
    lines = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1e-30, "name": "ü"}]
    for line in lines:
        record.metrics.append(line)
    assert record.metrics.read() == lines
    assert (record.path / "metrics.jsonl").read_text().count("\n") == 2


def test_numbers_that_are_not_finite_become_null(record):
    """JSON has no NaN, and what is written must be JSON."""
    record.metrics.append({"epoch": 1, "ratio": math.inf, "nested": [math.nan, {"x": -math.inf}], "kept": 1.5})
    assert record.metrics.read() == [{"epoch": 1, "ratio": None, "nested": [None, {"x": None}], "kept": 1.5}]


def test_rewind_drops_the_epochs_that_run_again(record):
    """The lines of epochs that are done stay."""
    for epoch in (1, 2, 3):
        record.metrics.append({"epoch": epoch})
    record.metrics.rewind(2)
    assert [line["epoch"] for line in record.metrics.read()] == [1, 2]
    record.metrics.append({"epoch": 3})
    assert [line["epoch"] for line in record.metrics.read()] == [1, 2, 3]
    record.metrics.rewind(0)
    assert record.metrics.read() == []


def test_rewind_without_metrics_does_nothing(tmp_path):
    """A run that was killed before its first epoch has none."""
    record = RunRecord(tmp_path)
    record.metrics.rewind(0)
    assert record.metrics.read() == []


@pytest.mark.parametrize("written", [0, 1])
def test_rewind_refuses_where_lines_are_missing(tmp_path, written):
    """A run that resumed without them would end with the wrong number of epochs, or with none that was evaluated."""
    record = RunRecord(tmp_path)
    for epoch in range(1, written + 1):
        record.metrics.append({"epoch": epoch})
    with pytest.raises(DataError, match=rf"has lines for {written} epochs, but the run's checkpoint has 2"):
        record.metrics.rewind(2)


def test_a_line_cut_off_by_an_interruption_is_left_out_and_rewound(record):
    """The rest of the run is still readable, and the next line does not stick to it."""
    record.metrics.append({"epoch": 1})
    with (record.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lo')
    assert record.metrics.read() == [{"epoch": 1}]
    record.metrics.rewind(1)
    record.metrics.append({"epoch": 2})
    assert record.metrics.read() == [{"epoch": 1}, {"epoch": 2}]


@pytest.mark.parametrize("damage", ["{]\n", "[1]\n", "\n", '{"epoch": 2, "checksum": "0"}\n'])
def test_a_damaged_line_is_named(record, damage):
    """Which file and which line, not a guess."""
    record.metrics.append({"epoch": 1})
    with (record.path / "metrics.jsonl").open("a") as file:
        file.write(damage)
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2, is damaged"):
        record.metrics.read()


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
        finished.metrics.read()
    finished.reopen()
    with pytest.raises(DataError, match=message):
        finished.metrics.read()


def test_restore(record):
    """What a checkpoint has kept replaces what does not agree with it; epochs that run again are dropped in silence."""
    lines = [record.metrics.append({"epoch": epoch, "ü": "µ"}) for epoch in (1, 2, 3)]
    kept, file = "".join(lines[:2]), record.path / "metrics.jsonl"
    assert file.read_text() == "".join(lines)
    for there, wrong in [(lines, False), (lines[:2], False), (lines[:1], True), (lines[1:], True), ([], True)]:
        file.write_text("".join(there))
        assert record.metrics.restore(kept) is wrong
        assert file.read_text() == kept
    before = file.stat().st_ino
    assert not record.metrics.restore(kept)
    assert file.stat().st_ino == before  # what agrees is not written again
    file.unlink()
    assert record.metrics.restore(kept)
    assert [line["epoch"] for line in record.metrics.read()] == [1, 2]


def test_rewind_gives_a_run_of_an_earlier_version_its_checksums(finished):
    """The lines that stay are those that :meth:`Metrics.restore` would want."""
    earlier(finished)
    finished.reopen()
    with pytest.warns(SvdistillWarning, match="carry no checksums"):
        kept = finished.metrics.rewind(1)
    assert (finished.path / "metrics.jsonl").read_text() == kept
    assert finished.metrics.read() == [{"epoch": 1, "accuracy": 0.6}]  # a warning would be an error here


def test_metrics_of_a_long_run(record):
    """Of more lines than wanted every n-th and the last are read, n a multiple of what is asked for; few stay all."""
    lines = [{"epoch": epoch, "loss": 1 / epoch} for epoch in range(1, 102)]
    for line in lines:
        record.metrics.append(line)
    assert [line["epoch"] for line in record.metrics.read(most=10)] == [*range(11, 100, 11), 101]
    assert [line["epoch"] for line in record.metrics.read(most=10, every=4)] == [*range(12, 97, 12), 101]
    assert record.metrics.read(most=101, every=7) == lines
    record.finish({})
    assert record.metrics.read(most=10) == [*lines[10:99:11], lines[100]]


@pytest.mark.parametrize("finished", [False, True])
def test_damage_to_a_line_that_is_not_wanted(record, finished):
    """It is noticed all the same, before and after the run has ended."""
    for epoch in range(1, 10):
        record.metrics.append({"epoch": epoch, "loss": 0.5})
    if finished:
        record.finish({})
    file = record.path / "metrics.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"epoch": 2, "loss": 0.5', b'"epoch": 2, "loss": 0.7'))
    with pytest.raises(DataError, match="changed since the run finished" if finished else "line 2.*checksum"):
        record.metrics.read(most=3)


def test_what_the_system_does_not_let_us_read(record):
    """A folder in place of the metrics, and text that is not UTF-8."""
    file = record.path / "metrics.jsonl"
    file.write_bytes(b'{"epoch": 1, "name": "\xff"}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl cannot be read"):
        record.metrics.read()
    file.unlink()
    file.mkdir()
    with pytest.raises(DataError, match=r"metrics\.jsonl cannot be read .*Is a directory"):
        record.metrics.read()
