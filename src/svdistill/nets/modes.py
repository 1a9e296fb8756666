"""Train and eval mode, put back as they were."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode until the block is left, then every submodule back into the mode that it was in.

    So a part that somebody has frozen, batch norm for instance, stays so in a network that trains.

    Args:
        model: any.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
