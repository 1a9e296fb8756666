"""Sums over the processes of a run: of gradients and figures in each step, of counts, of running statistics."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from svdistill.errors import TrainingError
from svdistill.training.processes import Processes, connection_errors

Gradients = tuple[Tensor | None, ...]


def all_reduce(value: Tensor) -> None:
    """Replace a tensor, on every rank, by its sum over the ranks.

    Args:
        value: of the same shape and dtype on each.

    Raises:
        TrainingError: a process has ended.
    """
    with connection_errors():
        dist.all_reduce(value)


def average_buffers(model: nn.Module, processes: Processes) -> None:
    """Replace every floating buffer, such as batch norm's running statistics, by its mean over the ranks.

    Args:
        model: the same on each rank.
        processes: between which.

    Raises:
        TrainingError: a process has ended.
    """
    buffers = [b for b in model.buffers() if b.is_floating_point()]
    if processes.world == 1 or not buffers:
        return
    flat = torch.cat([b.reshape(-1) for b in buffers]) / processes.world
    all_reduce(flat)
    for buffer, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))


class Reducer:
    """Sums gradients and figures of a step over the ranks, in one flat all-reduce.

    Which gradients there are is agreed upon in the first step and remembered, so a new one is needed for a step with
    other losses.

    Args:
        processes: between which.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._agreed: tuple[bool, ...] | None = None

    def __call__(
        self, gradients: Sequence[Gradients], figures: Mapping[str, Tensor]
    ) -> tuple[list[Gradients], dict[str, Tensor]]:
        """Sum over the ranks.

        Args:
            gradients: any number of groups of gradients, the same on each rank; None where a loss does not reach a
                parameter.
            figures: 0-dim tensors on the same device, the same names on each rank.

        Returns:
            Both, summed; the same bit for bit on every rank.

        Raises:
            TrainingError: a gradient or figure is there on some ranks and not on others, or a process has ended.
        """
        if self._processes.world == 1:
            return list(gradients), dict(figures)
        flat = [g for group in gradients for g in group]
        self._agree(tuple(g is not None for g in flat), tuple(figures))
        pieces = [g.reshape(-1) for g in flat if g is not None]
        numbers = torch.stack(list(figures.values())).float()
        buffer = torch.cat([*pieces, numbers])
        all_reduce(buffer)
        *parts, numbers = buffer.split([*(len(piece) for piece in pieces), len(numbers)])
        summed = iter(parts)
        done = [next(summed).view_as(g).to(g.dtype) if g is not None else None for g in flat]
        sizes = [len(group) for group in gradients]
        groups = [tuple(done[sum(sizes[:i]) : sum(sizes[: i + 1])]) for i in range(len(sizes))]
        return groups, dict(zip(figures, numbers.unbind(), strict=True))

    def _agree(self, there: tuple[bool, ...], names: tuple[str, ...]) -> None:
        if self._agreed is None:
            everybody: list[Any] = [None] * self._processes.world
            with connection_errors():
                dist.all_gather_object(everybody, (there, names))
            if any(other != (there, names) for other in everybody):
                raise TrainingError("the processes have gradients or figures of different losses; start them alike")
            self._agreed = there
        if there != self._agreed:
            raise TrainingError(
                f"process {self._processes.rank} has gradients of other parameters than before; with several processes "
                "a loss must reach the same ones in every step"
            )
