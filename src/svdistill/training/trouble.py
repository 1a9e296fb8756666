"""Where a network goes wrong: the first layer whose output, or the first parameter whose gradient, is broken."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from svdistill.training.objective import Objective
from svdistill.training.optimizers import trained
from svdistill.training.step import Examples, Learner, forward_backward


def not_finite(output: Tensor) -> bool:
    """Whether any value is NaN or infinite."""
    return not bool(output.isfinite().all())


def all_zero(output: Tensor) -> bool:
    """Whether all values are zero."""
    return not bool(output.any())


def all_alike(output: Tensor) -> bool:
    """Whether all images of a batch of several give the same, but for rounding."""
    values = output.detach().float()
    if len(values) < 2 or not values.isfinite().all():
        return False
    largest = values.abs().amax(dim=0)
    return bool(((values - values[:1]).abs() <= 1e-5 * largest).all())


@contextmanager
def first_layer(
    model: nn.Module, broken: Callable[[Tensor], bool], *, only: Collection[str] | None = None
) -> Iterator[list[str]]:
    """Watch a network while it runs.

    Args:
        model: the network.
        broken: what is looked for in the output of a module.
        only: the names of the modules to watch; None = all.

    Yields:
        A list that gets the first module, in the order in which they finish, whose output is broken, in words.
    """
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            leaves = torch.utils._pytree.tree_leaves(output)
            # Detached: what a look keeps for a backward pass would be missed where activations are recomputed.
            tensors = [
                leaf.detach() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim
            ]
            if not found and any(map(broken, tensors)):
                found.append(f"{name or 'the whole network'} ({type(module).__name__})")

        return hook

    watched = [(name, module) for name, module in model.named_modules() if only is None or name in only]
    handles = [module.register_forward_hook(look(name)) for name, module in watched]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def broke_first(learner: Learner, examples: Examples, objective: Objective, *, epoch: float | Tensor) -> str | None:
    """Do a step's forward and backward pass once more, and say in words what was the first that was not finite.

    Args:
        learner: as in the step; running statistics and random numbers change.
        examples: of the step.
        objective: of the step.
        epoch: of the step.

    Returns:
        The layer or parameter, or None where nothing is found now, for instance because dropout drew otherwise.
    """
    if not examples.images.isfinite().all():
        return "the images themselves, before any layer"
    names = {id(p): name for name, p in learner.distiller.named_parameters()}
    order: list[str] = []

    def note(name: str) -> Callable[[Tensor], None]:
        return lambda gradient: order.append(name) if not_finite(gradient) else None

    handles = [p.register_hook(note(names[id(p)])) for p in trained(learner.optimizer)]
    try:
        with torch.compiler.set_stance("force_eager"), first_layer(learner.distiller.student, not_finite) as layers:
            for start in range(learner.accumulate):
                some = examples.every(learner.accumulate, start=start)
                part = forward_backward(learner, some, objective, epoch=epoch)
                if layers:
                    return f"the output of layer {layers[0]}"
                mains = zip(trained(learner.optimizer), part.main, strict=True)
                broken = {names[id(p)] for p, g in mains if g is not None and not_finite(g)}
                if name := next((name for name in order if name in broken), None):
                    return f"the gradient of {name}"
                if not_finite(part.figures["loss"]):
                    return "the main loss, whose logits are finite"
    except torch.OutOfMemoryError:  # a captured step keeps its memory
        return None
    finally:
        for handle in handles:
            handle.remove()
    return None
