"""The engine of a run: device, precision and seed, and the connection between its processes."""

import os
import random
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import overload

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from svdistill.errors import OptionError, TrainingError, nearest
from svdistill.machine import usable_cores
from svdistill.ranks import Ranks, find_ranks
from svdistill.training.memory import keep_freed_memory

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("32-true", "bf16-mixed")

# A process that ends is noticed at once, because its connections close. This is for one that no longer answers, and it
# must be longer than rank zero may keep the others waiting: for a download, a checkpoint or diagnostics.
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Engine:
    """What a run computes on and in which precision, and which of its processes this is.

    Attributes:
        device: of the model and the batches.
        precision: one of `PRECISIONS`.
        ranks: which of how many processes this is.
    """

    device: torch.device
    precision: str
    ranks: Ranks

    @property
    def world_size(self) -> int:
        """The number of processes, over all machines."""
        return self.ranks.world

    @property
    def global_rank(self) -> int:
        """The number of this process among all, from 0."""
        return self.ranks.rank

    @property
    def local_rank(self) -> int:
        """The number of this process among those on its machine, from 0."""
        return self.ranks.local_rank

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for forward passes and losses: autocast to bfloat16, or none in float32."""
        if self.precision == "bf16-mixed":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    @overload
    def to_device(self, tensors: Tensor) -> Tensor: ...

    @overload
    def to_device(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]: ...

    def to_device(self, tensors: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """Move one or several tensors to the device; a GPU is not waited for."""
        # From a GPU to the CPU it must wait: the values could be read before they are there.
        non_blocking = self.device.type != "cpu"
        if isinstance(tensors, Tensor):
            return tensors.to(self.device, non_blocking=non_blocking)
        return tuple(tensor.to(self.device, non_blocking=non_blocking) for tensor in tensors)


def launch(*, device: str = "auto", precision: str = "32-true", seed: int | None) -> Engine:
    """Choose the device, set the precision, seed everything and connect the processes, where several were started.

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
        seed: seeds torch, numpy and random; 0 to 2³² − 1. None leaves their numbers alone, where none are drawn.

    Returns:
        The engine: its device, its autocast, its transfers, and which of how many processes this is.

    Raises:
        OptionError: the device or precision is unknown, the seed is out of range, or there is no such device.
        TrainingError: the other processes cannot be reached.
    """
    if precision not in PRECISIONS:
        raise OptionError(f"unknown precision {precision!r}{nearest(precision, PRECISIONS)}")
    if seed is not None and not 0 <= seed < 2**32:
        raise OptionError(f"the seed is {seed}, expected a whole number from 0 to {2**32 - 1}")
    ranks = find_ranks()
    engine = Engine(_device(device, ranks), precision, ranks)
    if engine.device.type == "cpu":
        keep_freed_memory()
    else:
        torch.cuda.set_device(engine.device)
    if ranks.world > 1:
        _divide_cores(ranks)
        if not dist.is_initialized():
            _connect(engine)
    if seed is not None:
        _seed(seed)
    return engine


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # of every GPU too


def _divide_cores(ranks: Ranks) -> None:
    """Give each process of this machine as many threads, unless the user or torchrun has said how many."""
    if "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, usable_cores() // ranks.local_world)
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for the processes that this one starts


def _connect(engine: Engine) -> None:
    """Connect the processes; each calls this, and it returns when all have."""
    cpu = engine.device.type == "cpu"
    # In the environment, where whoever looks for the others later finds them.
    os.environ["MASTER_ADDR"] = _root_address()
    os.environ["MASTER_PORT"] = str(_root_port())
    try:
        dist.init_process_group(
            # Objects that are pickled do not go through the GPU.
            "gloo" if cpu else "cpu:gloo,cuda:nccl",
            rank=engine.global_rank,
            world_size=engine.world_size,
            timeout=TIMEOUT,
            device_id=None if cpu else engine.device,
        )
    except RuntimeError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainingError(
            f"the {engine.world_size} processes cannot reach each other by way of {address} ({error}); "
            "see docs/scale.md"
        ) from error


def _root_address() -> str:
    """Return the name of rank zero's machine; Slurm lists all of a step's, such as ``gpu[03-05,9],login``."""
    given = os.environ.get("MASTER_ADDR")
    if given:
        return given
    machines = os.environ.get("SLURM_STEP_NODELIST", "localhost")
    first_of_ranges = re.sub(r"\[(.*?)[,-].*\]", r"\1", machines)
    return re.sub(r"\[(.*?)\]", r"\1", first_of_ranges).split(" ")[0].split(",")[0]


def _root_port() -> int:
    """Return the port of rank zero; Slurm assigns none, so one is taken that other jobs on the machine hardly use."""
    job, step = (int(os.environ.get(name, 0)) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return int(os.environ.get("MASTER_PORT") or 15000 + (7 * job + step) % 10000)


def _device(device: str, ranks: Ranks) -> torch.device:
    """Return the device of this process."""
    kind, _, number = device.partition(":")
    if kind not in DEVICES or (number and not (kind == "cuda" and number.isdigit())):
        raise OptionError(f"unknown device {device!r}{nearest(device, DEVICES)}")
    available = torch.cuda.device_count()
    if ranks.world > 1:
        return _device_of_its_own(kind, number, ranks, available)
    if kind == "cpu" or (kind == "auto" and not available):
        return torch.device("cpu")
    index = int(number or 0)
    if index >= available:
        raise OptionError(f"device {device!r} is not there ({available} CUDA devices visible); use device=cpu")
    return torch.device("cuda", index)


def _device_of_its_own(kind: str, number: str, ranks: Ranks, available: int) -> torch.device:
    """Give each of the processes of a machine a GPU of its own."""
    if number:
        raise OptionError(
            f"device 'cuda:{number}' names one GPU, but {ranks.world} processes take one each; use device=cuda"
        )
    if kind == "cpu" or (kind == "auto" and not available):
        return torch.device("cpu")
    if ranks.local_world > available:
        raise OptionError(
            f"{ranks.local_world} processes on this machine see {available} CUDA devices; start one for each, let "
            "every process see them all, or use device=cpu"
        )
    return torch.device("cuda", ranks.local_rank)
