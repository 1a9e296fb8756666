"""How many processes make this run and which of them this one is, as torchrun or Slurm says in the environment."""

import os
from collections.abc import Mapping
from typing import Literal, NamedTuple

from svdistill.errors import RecipeError


class Ranks(NamedTuple):
    """Which of the processes that were started together this one is.

    Attributes:
        rank: its number, from 0; rank zero writes files and messages for all.
        world: how many there are.
        local_rank: its number on its own machine.
        local_world: how many there are on each machine.
        launcher: what started them; none where there is one process.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    launcher: Literal["none", "torchrun", "slurm"] = "none"

    @property
    def machines(self) -> int:
        """The number of machines."""
        return self.world // self.local_world


def find_ranks(environment: Mapping[str, str] | None = None) -> Ranks:
    """Read which process this is; the only one, where no launcher has started several.

    Only what torchrun, or srun inside a Slurm job, sets for each process counts. A batch script on Slurm that calls
    svdistill without srun is one process, however many tasks the job has.

    Args:
        environment: the environment variables; None = those of this process.

    Returns:
        Rank and world size, over all machines and on this one.

    Raises:
        RecipeError: the machines do not have equally many processes, or a variable is not a number.
    """
    env = os.environ if environment is None else environment
    try:
        if "TORCHELASTIC_RUN_ID" in env and int(env["WORLD_SIZE"]) > 1:
            rank, world = int(env["RANK"]), int(env["WORLD_SIZE"])
            found = Ranks(rank, world, int(env["LOCAL_RANK"]), int(env["LOCAL_WORLD_SIZE"]), "torchrun")
        elif int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
            world = int(env["SLURM_STEP_NUM_TASKS"])
            nodes = int(env.get("SLURM_STEP_NUM_NODES", 1))
            # Rounded up: where they do not divide, it is refused below.
            found = Ranks(int(env["SLURM_PROCID"]), world, int(env["SLURM_LOCALID"]), -(-world // nodes), "slurm")
        else:
            return Ranks()
    except (KeyError, ValueError) as error:
        raise RecipeError(
            f"the environment says that several processes were started, but not how ({error}); start them with "
            "torchrun or srun"
        ) from error
    if found.world % found.local_world:
        raise RecipeError(
            f"{found.world} processes are not spread evenly over the machines; start equally many on each "
            "(torchrun --nproc-per-node, srun --ntasks-per-node)"
        )
    return found


def refuse_several(command: str) -> None:
    """Refuse to run in several processes what is made for one.

    Args:
        command: what the user called.

    Raises:
        RecipeError: there are several.
    """
    world = find_ranks().world
    if world > 1:
        raise RecipeError(
            f"{command} runs in one process, and {world} were started; call it without torchrun or srun (several "
            "processes are for 'svdistill train')"
        )
