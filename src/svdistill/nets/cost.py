"""What a network costs: parameters and floating point operations."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from svdistill.nets.modes import eval_mode


class Cost(NamedTuple):
    """Parameters of a network and the FLOPs of one image through it.

    Attributes:
        parameters: number of scalars in all parameters, frozen ones too; each shared parameter once.
        flops: 2 × multiply-adds of the convolutions and matrix products, those of attention among them, for one image.
    """

    parameters: int
    flops: int


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Count the FLOPs of what runs in the block; attention runs as the products that it consists of.

    The counter does not know all of the single operations that torch has for it, and would count nothing of them.

    Yields:
        The counter.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def count(model: nn.Module, input_shape: Sequence[int]) -> Cost:
    """Count the parameters of a network and the FLOPs of one image, in eval mode and without gradient.

    The train or eval mode of each submodule is put back afterwards.

    Args:
        model: a network that takes (1, *input_shape).
        input_shape: (C, H, W) of an image.

    Returns:
        The cost. FLOPs are what ``torch.utils.flop_counter`` counts: 2 × multiply-adds of convolutions and matrix
        products; pooling, normalization and activations count nothing.
    """
    parameters = list(model.parameters())
    like = parameters[0] if parameters else torch.empty(0)
    image = torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)
    with eval_mode(model), torch.no_grad(), counting() as counter:
        model(image)
    return Cost(sum(p.numel() for p in parameters), counter.get_total_flops())
