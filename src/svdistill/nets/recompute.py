"""Activations that are computed twice instead of being kept: less memory for more time."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from svdistill.errors import RecipeError

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@contextmanager
def recompute_activations(model: nn.Module) -> Iterator[tuple[str, ...]]:
    """Keep only what goes in and out of each block of a model; its inside is computed again in the backward pass.

    Results are those without it: batch norm counts each batch once, dropout draws the same numbers the second time, and
    the precision is that of the first time. Names and ``state_dict()`` stay as they are, and feature maps at taps may
    be used as ever, in several backward passes too; each pass computes the blocks once more. In eval mode, and where no
    gradient is asked for, the model runs as it always does.

    A block is what a model is a chain of: a residual block, a layer of a transformer, a group of convolutions.

    Example:
        >>> with recompute_activations(student):
        ...     fit(engine, distiller, ...)

    Args:
        model: any module. What its blocks change as they run, batch norm's statistics aside, changes twice; a compiled
            one is refused.

    Yields:
        The dotted names of the blocks. Afterwards the model is as it was.

    Raises:
        RecipeError: the model is compiled, or has no blocks.
    """
    if getattr(model, "_compiled_call_impl", None) is not None:
        raise RecipeError("a compiled model decides by itself what it computes again; leave out compile or recompute")
    blocks = dict(_blocks(model))
    if not blocks:
        raise RecipeError(
            f"{type(model).__name__} has no blocks whose activations could be computed again; leave it out"
        )
    for block in blocks.values():
        block.forward = MethodType(_forward, block)
    try:
        yield tuple(blocks)
    finally:
        for block in blocks.values():
            del block.forward


def _forward(block: nn.Module, *args: Any, **options: Any) -> Any:
    """Stand in for a block's own forward."""
    own = partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return own(*args, **options)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _Uncounted(block)

    return checkpoint(own, *args, use_reentrant=False, context_fn=contexts, **options)


class _Uncounted:
    """Within it batch norm sees a batch without taking it into its running statistics; entered once a backward pass.

    They must be handed to it all the same, since the second run has to save what the first has saved; so they are
    changed by nothing, and another tensor does the counting.
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
    """Go down to the blocks: modules that hold others, but no chain of blocks."""
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
