"""What a worker reports of a run that it cannot train."""

from pathlib import Path

import pytest

from svdistill import recipes
from svdistill.sweep import Task, worker


def test_a_program_that_changed_meanwhile_trains_nothing(tmp_path: Path) -> None:
    """A worker that would put the run elsewhere than expected reports that."""
    said: list[tuple[object, ...]] = []
    wrong = Task(str(tmp_path / "elsewhere"), recipes.load("digits/student"))
    assert worker.train_one(wrong, tmp_path, lambda *message: said.append(message))
    assert said == [("failed", "the program has changed meanwhile; call the same command again", None)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_has_a_message_of_its_own(error: Exception) -> None:
    """What the system says about memory is turned into what to do."""
    assert worker._reason(error).startswith("not enough memory; take fewer jobs")
