"""Optimizers by name, and the steps in which the learning rate falls."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from svdistill.errors import RecipeError, nearest

OPTIMIZERS = ("sgd", "adamw")


def make_optimizer(
    name: str,
    parameters: nn.Module | Iterable[nn.Parameter],
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Make an optimizer; weight decay is for weights only, tensors of two dimensions or more.

    With ``sgd`` the weight decay belongs to the main gradient g_m, whose norm limits the transfer gradient (METHOD,
    section 3). So torch's own decay, which would come after, stays 0 and :func:`svdistill.train.fit` adds it: give it
    the same ``weight_decay``. With ``adamw`` the decay is decoupled from all gradients and is done here alone.

    Args:
        name: ``sgd`` (Nesterov where there is momentum) or ``adamw``.
        parameters: a module or its parameters; those that need no gradient are left out.
        lr: learning rate, > 0.
        momentum: of SGD, 0 ≤ momentum < 1; β₁ of AdamW.
        weight_decay: ≥ 0.

    Returns:
        The optimizer, with one group for weights and one for the rest.

    Raises:
        RecipeError: the name is unknown, a number is out of range, or there is nothing to train.
    """
    if name not in OPTIMIZERS:
        raise RecipeError(f"unknown optimizer {name!r}{nearest(name, OPTIMIZERS)}")
    if not (lr > 0 and 0 <= momentum < 1 and weight_decay >= 0):
        came = f"lr {lr}, momentum {momentum}, weight_decay {weight_decay}"
        raise RecipeError(f"{came}: expected lr > 0, 0 <= momentum < 1, weight_decay >= 0")
    given = parameters.parameters() if isinstance(parameters, nn.Module) else parameters
    trained = [p for p in given if p.requires_grad]
    if not trained:
        raise RecipeError("there are no parameters that need a gradient; nothing to train")
    weights, others = [p for p in trained if decays(p)], [p for p in trained if not decays(p)]
    own_decay = weight_decay if name == "adamw" else 0.0
    groups = [{"params": weights, "weight_decay": own_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999))
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)


def decays(parameter: Tensor) -> bool:
    """Whether weight decay is for this tensor: weights, not biases and not what a norm layer scales with."""
    return parameter.ndim >= 2


def step_decay(epoch: int, *, milestones: Sequence[int], gamma: float) -> float:
    """Return what the learning rate is multiplied by in an epoch: gamma to the number of milestones reached.

    Args:
        epoch: from 0.
        milestones: the epochs from which on the rate is lower.
        gamma: the factor at each.
    """
    return gamma ** sum(epoch >= milestone for milestone in milestones)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set every group to its first learning rate times a factor.

    Returns:
        The learning rate of the first group.
    """
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    return float(optimizer.param_groups[0]["lr"])
