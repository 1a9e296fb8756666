"""Tests of what the environment says about other processes."""

import pytest

from svdistill.errors import RecipeError
from svdistill.ranks import Ranks, find_ranks, refuse_several

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
SLURM = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(("environment", "launcher"), [(TORCHRUN, "torchrun"), (SLURM, "slurm")])
def test_the_launcher_says_where_this_process_is(environment, launcher):
    """Sixth of eight, second on the second machine."""
    found = find_ranks(environment)
    assert found == Ranks(5, 8, 1, 4, launcher)
    assert found.machines == 2


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {**TORCHRUN, "WORLD_SIZE": "1"},
        {"RANK": "1", "WORLD_SIZE": "2"},  # of another program
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"},  # a batch script that did not call srun
    ],
)
def test_a_process_by_itself(environment):
    """One process, or variables that another program has set for its own."""
    assert find_ranks(environment) == Ranks()
    assert Ranks().machines == 1


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**TORCHRUN, "WORLD_SIZE": "7"}, "7 processes are not spread evenly over the machines"),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "7", "SLURM_STEP_NUM_NODES": "2"}, "7 processes are not spread evenly"),
        ({**TORCHRUN, "RANK": "first"}, "but not how"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "but not how.*SLURM_PROCID"),
    ],
)
def test_what_cannot_be_is_refused(environment, message):
    """In one line."""
    with pytest.raises(RecipeError, match=message):
        find_ranks(environment)


def test_what_is_for_one_process_refuses_several(monkeypatch):
    """And lets one pass."""
    refuse_several("svdistill compare")
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match="svdistill compare runs in one process, and 8 were started"):
        refuse_several("svdistill compare")
