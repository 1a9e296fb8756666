"""Sums over the processes of a run: of gradients and figures in each step, of counts, of running statistics."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from svdistill.errors import TrainingError
from svdistill.gradients import is_sharded
from svdistill.training.processes import Processes, connection_errors

Gradients = tuple[Tensor | None, ...]
Group = dist.ProcessGroup


def all_reduce(value: Tensor) -> None:
    """Replace a tensor, on every rank, by its sum over the ranks.

    Args:
        value: of the same shape and dtype on each.

    Raises:
        TrainingError: a process has ended.
    """
    with connection_errors():
        dist.all_reduce(value)


def sum_flat(tensors: Sequence[Tensor], reduce: Callable[[Tensor], None] = all_reduce) -> list[Tensor]:
    """Sum tensors over the ranks, all of them in one flat all-reduce.

    Args:
        tensors: on one device, the same shapes on each rank.
        reduce: replaces a tensor by its sum over the ranks.

    Returns:
        The sums, each in shape and dtype of its own.
    """
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    reduce(flat)
    pieces = flat.split([tensor.numel() for tensor in tensors])
    return [piece.view_as(tensor).to(tensor.dtype) for piece, tensor in zip(pieces, tensors, strict=True)]


def average_gradients(
    gradients: Sequence[Gradients], parameters: Sequence[Tensor], *, group: Group | None = None
) -> list[Gradients]:
    """Average gradients over the ranks, in a loop that has connected them itself; where it has not, there is one.

    Where a loss does not reach a parameter on some ranks, its gradient is zero there. Those of sharded parameters come
    averaged already.

    Args:
        gradients: any number of groups of gradients; None where a loss does not reach a parameter.
        parameters: that the gradients of each group are of, the same on each rank.
        group: of the processes; None = all.

    Returns:
        The averages; None where the loss does not reach the parameter on any rank. The same on every rank.
    """
    world = dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1
    whole = [not is_sharded(parameter) for parameter in parameters]
    if world == 1 or not any(whole):
        return list(gradients)
    slots = [(i, j) for i in range(len(gradients)) for j, one in enumerate(whole) if one]
    own = [gradients[i][j] for i, j in slots]
    there = torch.tensor([float(g is not None) for g in own], device=parameters[whole.index(True)].device)
    # Zeros are sent, too: so the sizes agree, whatever the losses reach on a rank.
    sent = [torch.zeros_like(parameters[j]) if g is None else g for g, (_, j) in zip(own, slots, strict=True)]
    *sums, ranks = sum_flat([*sent, there], lambda flat: dist.all_reduce(flat, group=group))
    averaged = [list(some) for some in gradients]
    for (i, j), total, reached in zip(slots, sums, ranks.tolist(), strict=True):
        averaged[i][j] = total / world if reached else None
    return [tuple(some) for some in averaged]


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
    for buffer, mean in zip(buffers, sum_flat([b / processes.world for b in buffers]), strict=True):
        buffer.copy_(mean)


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
        numbers = torch.stack(list(figures.values())).float()
        *sums, numbers = sum_flat([*(g for g in flat if g is not None), numbers])
        summed = iter(sums)
        done = [next(summed) if g is not None else None for g in flat]
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
