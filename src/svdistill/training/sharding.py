"""A frozen teacher whose parameters are sharded over the processes, for one that does not fit into a GPU's memory."""

import torch
from torch import Tensor, nn

from svdistill.training.engine import Engine

# A block is the largest module with at most this fraction of the parameters: what is gathered at a time.
_LARGEST_FRACTION = 0.125


def shard_parameters(engine: Engine, teacher: nn.Module, images: Tensor) -> bool:
    """Leave each process its part of a frozen network's parameters, in place; one process keeps them all.

    A block's parameters are gathered just before it runs and released right after it (fully sharded data parallel),
    so that a process holds its part of all and one block more. The outputs, taps and hooks stay what they were. The
    network arrives on the device block by block and is never there as a whole. From here on all processes must run it
    together. Buffers, such as batch norm's running statistics, are in every process.

    Args:
        engine: device and processes.
        teacher: on the CPU, contiguous, the same in every process.
        images: (B, C, H, W), one or more on the CPU, which it is run on once to see which of its modules run.

    Returns:
        Whether it was sharded: whether there are several processes.
    """
    if engine.world_size == 1:
        return False
    # Late: it takes a second, and only a sharded teacher needs it.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(engine.device.type, (engine.world_size,))
    teacher.requires_grad_(False)
    for block in blocks(teacher, images):
        fully_shard(block, mesh=mesh)
    fully_shard(teacher, mesh=mesh)
    return True


def blocks(network: nn.Module, images: Tensor, *, largest: float = _LARGEST_FRACTION) -> list[nn.Module]:
    """Return the modules whose parameters are gathered one after the other.

    Args:
        network: any.
        images: to run it on.
        largest: a module with more than this fraction of all parameters is divided into its children, where it has any.

    Returns:
        Modules that have parameters and do not overlap, each called as a module. A container is not, nor is one whose
        parent takes its weights and does the rest itself; what is in none of the blocks belongs to the network.
    """
    called = _called(network, images)
    limit = largest * _size(network)
    found: list[nn.Module] = []

    def divide(module: nn.Module) -> None:
        for child in module.children():
            parts = [part for part in child.modules() if part is not child and part in called and _size(part)]
            if child not in called or (_size(child) > limit and parts):
                divide(child)
            elif _size(child):
                found.append(child)

    divide(network)
    return found


def held(network: nn.Module) -> int:
    """Return how many bytes of a network's parameters this process holds."""
    from torch.distributed.tensor import DTensor

    local = (one.to_local() if isinstance(one, DTensor) else one for one in network.parameters())
    return sum(tensor.numel() * tensor.element_size() for tensor in local)


@torch.no_grad()
def _called(network: nn.Module, images: Tensor) -> set[nn.Module]:
    """Return the modules that are called when the network runs, in eval mode."""
    called: set[nn.Module] = set()
    hooks = [m.register_forward_pre_hook(lambda module, _: called.add(module)) for m in network.modules()]
    try:
        network.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
    return called


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
