"""Train and eval mode, put back as they were."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode for a ``with`` block, then every submodule back into the mode that it was in.

    So a frozen part, batch norm for instance, stays frozen in a network that trains.

    Args:
        model: any module.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def learning_alone(model: nn.Module, name: str) -> Iterator[None]:
    """Let one submodule of a network learn for a ``with`` block: all else keeps its weights and statistics.

    The network is put in train mode, all of its submodules but that one in eval mode, and the parameters outside of it
    get no gradient. Afterwards modes and parameters are as they were.

    Args:
        model: any module.
        name: dotted name of the submodule.
    """
    one = model.get_submodule(name)
    learning, own = {model, *one.modules()}, set(one.parameters())
    modes = [(module, module.training) for module in model.modules()]
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in own]
    for module, _ in modes:
        module.training = module in learning
    for parameter in frozen:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in frozen:
            parameter.requires_grad = True
