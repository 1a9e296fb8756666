"""Activations that are computed twice instead of being kept: less memory, more time."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from svdistill.errors import OptionError

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@contextmanager
def recompute_activations(model: nn.Module) -> Iterator[tuple[str, ...]]:
    """Keep only what goes in and out of each block of a model; its inside is computed again in the backward pass.

    Results are those without it: batch norm counts each batch once, dropout draws the same numbers the second time, and
    the precision is that of the first time. Names and ``state_dict()`` stay as they are, and feature maps at taps may
    be used as usual, in several backward passes too; each pass computes the blocks once more. In eval mode, and where
    no gradient is asked for, the model runs as it always does.

    A block is what a model is a chain of: a residual block, a layer of a transformer, a group of convolutions.

    Example:
        >>> with recompute_activations(student):
        ...     fit(engine, plan, record)

    Args:
        model: any module. What its blocks change as they run, batch norm's statistics aside, changes twice; a compiled
            one is refused.

    Yields:
        The dotted names of the blocks. Afterwards the model is as it was.

    Raises:
        OptionError: the model is compiled, or has no blocks.
    """
    if model._compiled_call_impl is not None:  # torch has no public way to ask whether `model.compile()` was called
        raise OptionError("a compiled model decides for itself what it recomputes; leave out compile or recompute")
    blocks = dict(_blocks(model))
    if not blocks:
        raise OptionError(
            f"{type(model).__name__} has no blocks whose activations could be recomputed; leave out recompute"
        )
    for block in blocks.values():
        block.forward = MethodType(_forward, block)
    try:
        yield tuple(blocks)
    finally:
        for block in blocks.values():
            del block.forward


def recomputes_activations(model: nn.Module) -> bool:
    """Whether a model is inside :func:`recompute_activations`."""
    forwards = (module.__dict__.get("forward") for module in model.modules())
    return any(isinstance(one, MethodType) and one.__func__ is _forward for one in forwards)


def _forward(block: nn.Module, *args: Any, **options: Any) -> Any:
    """Stand in for a block's own forward."""
    own = partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return own(*args, **options)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _Uncounted(block)

    return checkpoint(own, *args, use_reentrant=False, context_fn=contexts, **options)


class _Uncounted:
    """Within it batch norm sees a batch without adding it to its running statistics; entered once in a backward pass.

    It must still be given the statistics, since the second run has to save what the first has saved; so its momentum is
    set to 0, which leaves them as they are, and a spare tensor takes the count.
    """

    def __init__(self, block: nn.Module) -> None:
        self._block = block
        self._before: list[tuple[_NormBase, float | None, Tensor]] = []

    def __enter__(self) -> None:
        for norm in self._block.modules():
            if isinstance(norm, _NormBase) and norm.num_batches_tracked is not None:
                self._before.append((norm, norm.momentum, norm.num_batches_tracked))
                norm.momentum, norm.num_batches_tracked = 0.0, torch.zeros_like(norm.num_batches_tracked)

    def __exit__(self, *_: object) -> None:
        while self._before:
            norm, momentum, count = self._before.pop()
            norm.momentum, norm.num_batches_tracked = momentum, count


def _blocks(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the blocks by name: modules that hold others but are not a chain of blocks, however deep they lie."""
    for name, child in model.named_children():
        if not _holds_others(child):
            continue
        if isinstance(child, nn.ModuleList | nn.ModuleDict) or any(map(_is_chain, child.modules())):
            yield from _blocks(child, f"{prefix}{name}.")
        elif "forward" not in vars(child):
            yield f"{prefix}{name}", child


def _is_chain(module: nn.Module) -> bool:
    """Whether this is a container of blocks, not the inside of one, such as two convolutions with their norms."""
    parts = [child for child in module.children() if _holds_others(child)]
    whole = [part for part in parts if not isinstance(part, nn.Sequential) or any(map(_holds_others, part.children()))]
    return isinstance(module, _CONTAINERS) and (bool(whole) or len(parts) > 2)


def _holds_others(module: nn.Module) -> bool:
    return next(module.children(), None) is not None
