"""Which GPU a run goes to, and how much of its memory is taken."""

import os
import time
from typing import NamedTuple, Protocol

from svdistill.recipes import Recipe
from svdistill.sweep.admission import Memory


class Place(NamedTuple):
    """Where a run may go.

    Attributes:
        card: the GPU; None = the CPU.
        visible: what its process is to see of the machine's GPUs, as ``CUDA_VISIBLE_DEVICES`` says it; None = all.
    """

    card: str | None = None
    visible: str | None = None


class Meter(Protocol):
    """Knows the GPUs of this machine: the parent asks it for places, and sends it to the workers, which read."""

    def places(self, recipe: Recipe) -> tuple[Place, ...]:
        """Return the GPUs that a run may go to; none where it is trained on the CPU."""

    def read(self, recipe: Recipe) -> Memory:
        """Return what this process, which trains a run, sees of the memory of its GPU."""


class CudaMeter(Meter):
    """Reads what CUDA and torch's allocator say."""

    def places(self, recipe: Recipe) -> tuple[Place, ...]:
        """Return the GPU that the recipe numbers, or all of them where it numbers none."""
        import torch

        device = recipe.train.device
        count = torch.cuda.device_count()  # makes no context, so this process takes no memory of a GPU
        if device == "cpu" or not count:
            return ()
        names = visible_devices(count)
        _, _, number = device.partition(":")
        if number or count == 1:
            index = int(number or 0)
            return (Place(names[index]),) if index < count else ()
        # A run without a number takes the first GPU that it sees.
        return tuple(Place(name, visible=name) for name in names)

    def read(self, recipe: Recipe) -> Memory:
        """Return what CUDA says of the GPU, and torch's allocator of this process; the GPU is not waited for."""
        import torch

        index = int(recipe.train.device.partition(":")[2] or 0)
        free, total = torch.cuda.mem_get_info(index)
        reserved, peak = torch.cuda.memory_reserved(index), torch.cuda.max_memory_reserved(index)
        return Memory(time.monotonic(), total, free, reserved, peak)


def visible_devices(count: int) -> list[str]:
    """Return how ``CUDA_VISIBLE_DEVICES`` names each GPU that this process sees.

    Args:
        count: the number of them.
    """
    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return given[:count] if len(given) >= count else [str(index) for index in range(count)]
