"""Runs to read and to damage."""

import pytest
from tests.records.examples import RECIPE

from svdistill.records import RunRecord


@pytest.fixture
def record(tmp_path):
    """A run that has just begun."""
    return RunRecord.create(tmp_path / "runs" / "one", RECIPE)


@pytest.fixture
def finished(record):
    """A run that has finished: two epochs, a student, diagnostics."""
    for epoch in (1, 2):
        record.metrics.append({"epoch": epoch, "accuracy": 0.5 + 0.1 * epoch})
    record.student.write_bytes(b"weights")
    record.diagnostics.write_bytes(b"arrays")
    record.finish({"accuracy": 0.7, "epochs": 2})
    return record
