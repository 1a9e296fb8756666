"""The one file that knows the distributed engine: device, precision, seed and processes of a run."""

import logging
import os
from datetime import timedelta
from typing import Literal, cast

import torch
from lightning_fabric import Fabric as Engine
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.single_device import SingleDeviceStrategy
from lightning_fabric.strategies.strategy import Strategy

from svdistill.errors import OptionError, TrainingError, nearest
from svdistill.ranks import Place, place
from svdistill.training.memory import keep_freed_memory

__all__ = ["DEVICES", "PRECISIONS", "Engine", "launch"]

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("32-true", "bf16-mixed")

# A process that ends is noticed at once, because its connections close. This is for one that no longer answers, and it
# must be longer than the first process may keep the others waiting: for a download, a checkpoint or a look inside.
TIMEOUT = timedelta(minutes=30)


def launch(*, device: str = "auto", precision: str = "32-true", seed: int) -> Engine:
    """Choose the device, set the precision, seed everything and, where several processes were started, find the others.

    With one seed, one number of threads and one version of torch, a run on a CPU gives the same weights bit for bit.
    Where torchrun or Slurm's srun has started several processes, they are connected (gloo on CPUs, NCCL between GPUs,
    one GPU each); the seed is the same in all, so they make the same weights. Models are not wrapped: what is averaged
    over the processes, and when, is :func:`svdistill.training.step`'s matter. A second call in a process keeps the
    connection of the first. On a CPU the process keeps memory that is freed, see
    :func:`svdistill.training.memory.keep_freed_memory`.

    Args:
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or, in one process, ``cuda:N``.
        precision: ``32-true``, or ``bf16-mixed`` for autocast. float16 is left out: it needs a scaled loss, and the two
            gradients of a step, taken one by one, would each need its own scale.
        seed: seeds torch, numpy and random; 0 to 2³² − 1.

    Returns:
        The engine: its device, its autocast, its transfers, and which of how many processes this is.

    Raises:
        OptionError: an unknown device or precision, a seed out of range, or no such device is there.
        TrainingError: the other processes cannot be reached.
    """
    if precision not in PRECISIONS:
        raise OptionError(f"unknown precision {precision!r}{nearest(precision, PRECISIONS)}")
    if not 0 <= seed < 2**32:
        raise OptionError(f"the seed is {seed}, expected a whole number from 0 to {2**32 - 1}")
    here = place()
    accelerator, index = _device(device, here)
    if accelerator == "cpu":
        keep_freed_memory()
    # It announces the precision that the recipe asks for, in the middle of what a command prints.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    engine = Engine(
        accelerator=accelerator,
        devices=here.local_world if here.world > 1 or accelerator == "cpu" else [index],
        num_nodes=here.machines,
        strategy=_strategy(accelerator, index, here),
        plugins=[_Started(here)],
        precision=cast(Literal["32-true", "bf16-mixed"], precision),
    )
    try:
        engine.launch()
    except RuntimeError as error:
        if here.world == 1:
            raise
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise TrainingError(
            f"the {here.world} processes cannot reach each other by way of {address} ({error}); see docs/scale.md"
        ) from error
    engine.seed_everything(seed, verbose=False)
    return engine


def _strategy(accelerator: str, index: int, here: Place) -> Strategy:
    """Return how the processes are connected: no wrapper is put around any model."""
    if here.world == 1:
        return SingleDeviceStrategy(torch.device(accelerator, index) if accelerator == "cuda" else "cpu")
    # What the processes tell each other in words does not go through the GPU.
    return DDPStrategy(process_group_backend="gloo" if accelerator == "cpu" else "cpu:gloo,cuda:nccl", timeout=TIMEOUT)


class _Started(ClusterEnvironment):
    """Tells Fabric what the launcher has said; its own reading of Slurm's variables also takes in jobs without srun."""

    def __init__(self, here: Place) -> None:
        self._here = here

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        nodes = os.environ.get("SLURM_STEP_NODELIST", "localhost")
        return os.environ.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes)

    @property
    def main_port(self) -> int:
        """Slurm hands out no port: one that other jobs on the same machine hardly have."""
        job, step = (int(os.environ.get(name, 0)) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        return int(os.environ.get("MASTER_PORT") or 15000 + (7 * job + step) % 10000)

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._here.world

    def set_world_size(self, size: int) -> None:
        """Do nothing: it is as it is."""

    def global_rank(self) -> int:
        return self._here.rank

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: it is as it is."""

    def local_rank(self) -> int:
        return self._here.local_rank

    def node_rank(self) -> int:
        return self._here.rank // self._here.local_world


def _device(device: str, here: Place) -> tuple[str, int]:
    """Return the kind of the device and its number."""
    kind, _, number = device.partition(":")
    if kind not in DEVICES or (number and not (kind == "cuda" and number.isdigit())):
        raise OptionError(f"unknown device {device!r}{nearest(device, DEVICES)}")
    available = torch.cuda.device_count()
    if here.world > 1:
        return _shared_device(kind, number, here, available)
    if kind == "auto":
        return ("cuda", 0) if available else ("cpu", 0)
    if kind == "cuda" and int(number or 0) >= available:
        raise OptionError(f"device {device!r} is not there ({available} CUDA devices visible); use device=cpu")
    return kind, int(number or 0)


def _shared_device(kind: str, number: str, here: Place, available: int) -> tuple[str, int]:
    """Give each of the processes of a machine a GPU of its own."""
    if number:
        raise OptionError(
            f"device 'cuda:{number}' names one GPU, but {here.world} processes take one each; use device=cuda"
        )
    if kind == "cpu" or (kind == "auto" and not available):
        return "cpu", 0
    if here.local_world > available:
        raise OptionError(
            f"{here.local_world} processes on this machine see {available} CUDA devices; start one for each, let every "
            "process see them all, or use device=cpu"
        )
    return "cuda", here.local_rank
