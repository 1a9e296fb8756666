"""Optimizers by name, and how their learning rate is set."""

from collections.abc import Iterable, Sequence
from typing import Any
from warnings import warn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from svdistill.distiller import Distiller
from svdistill.errors import OptionError, SvdistillWarning, nearest

OPTIMIZERS = ("sgd", "adamw")
# Devices that torch has fused forms for; of them only the CPU's were run here. Elsewhere the plain ones serve.
_FUSED_ON = ("cpu", "cuda")
# Those whose gradients have been given their ``main_decay`` since the last step: which parameters, and what tells the
# ``.grad`` that holds it.
_decayed: WeakKeyDictionary[torch.optim.Optimizer, dict[int, tuple[int, int] | None]] = WeakKeyDictionary()


def make_optimizer(
    name: str,
    parameters: nn.Module | Iterable[nn.Parameter],
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Make an optimizer; weight decay is for weights only, tensors of two dimensions or more.

    With ``sgd`` the weight decay belongs to the main gradient g_m, whose norm limits the transfer gradient
    (docs/method.md, step 7). Torch's own decay would come after that, so it stays 0; the group says ``main_decay``
    instead, which :func:`svdistill.training.step` and :func:`svdistill.backward` add to g_m; a step without either has
    no decay, and warns of it. With ``adamw`` the decay is torch's own,
    decoupled from all gradients.

    On a CPU and on CUDA torch's fused form is taken: one pass over each parameter instead of one for each operation.

    Args:
        name: ``sgd`` (Nesterov where there is momentum) or ``adamw``.
        parameters: a module or its parameters; those that need no gradient are left out.
        lr: learning rate, > 0.
        momentum: of SGD, 0 ≤ momentum < 1; β₁ of AdamW.
        weight_decay: ≥ 0.

    Returns:
        The optimizer, with one group for weights and one for the rest.

    Raises:
        OptionError: the name is unknown, a number is out of range, or there is nothing to train.
    """
    if name not in OPTIMIZERS:
        raise OptionError(f"unknown optimizer {name!r}{nearest(name, OPTIMIZERS)}")
    if not (lr > 0 and 0 <= momentum < 1 and weight_decay >= 0):
        came = f"lr {lr}, momentum {momentum}, weight_decay {weight_decay}"
        raise OptionError(f"{came}: expected lr > 0, 0 <= momentum < 1, weight_decay >= 0")
    given = parameters.parameters() if isinstance(parameters, nn.Module) else parameters
    chosen = [p for p in given if p.requires_grad]
    if not chosen:
        raise OptionError("there are no parameters that need a gradient; nothing to train")
    weights, others = [p for p in chosen if p.ndim >= 2], [p for p in chosen if p.ndim < 2]
    key = "weight_decay" if name == "adamw" else "main_decay"
    groups = [{"params": weights, key: weight_decay}, {"params": others, key: 0.0}]
    groups = [group for group in groups if group["params"]]
    fused = all(p.device.type in _FUSED_ON and p.is_floating_point() for p in chosen)
    made: torch.optim.Optimizer
    if name == "adamw":
        made = torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999), fused=fused)
    else:
        made = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
        made.register_step_pre_hook(_warn_of_no_decay)
        if momentum and fused:
            made.register_step_pre_hook(_begin_at_zero)
    made.register_step_pre_hook(_lay_alike)
    return made


def _warn_of_no_decay(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Warn of a step whose gradients lack the ``main_decay``, as after a plain ``loss.backward()``."""
    if any(group.get("main_decay") for group in optimizer.param_groups) and _inner(optimizer) not in _decayed:
        warn(
            "the weight decay of this optimizer is part of the main gradient, to which svdistill.backward and "
            "training.step add it, and after loss.backward() there is none; take torch.optim.SGD in such a loop",
            SvdistillWarning,
            stacklevel=2,
        )
    _decayed.pop(_inner(optimizer), None)


def _begin_at_zero(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Give a parameter that gets its first gradient a momentum of zero: its first step is the same to the bit.

    The fused form takes either none of the parameters for new or all, and leaves the momentum of new ones to chance
    where it is told not to step.
    """
    for p in trained(optimizer):
        if p.grad is not None and optimizer.state.get(p, {}).get("momentum_buffer") is None:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


def step_where(optimizer: torch.optim.Optimizer, applied: Tensor) -> None:
    """Let an optimizer do its step, or leave weights and its own state as they are.

    Fused forms decide that on the device, and nothing waits; others are asked only if the host has found that they are
    to step.

    Args:
        optimizer: with the gradients in place.
        applied: whether to step, 0-dim bool, on the parameters' device.
    """
    # The first step with dampening is without it, which a momentum of zero would not tell.
    if not all(group.get("fused") and not group.get("dampening") for group in optimizer.param_groups):
        if applied:
            optimizer.step()
        return
    if isinstance(optimizer, torch.optim.SGD) and any(group["momentum"] for group in optimizer.param_groups):
        _begin_at_zero(optimizer)
    optimizer.found_inf = (~applied).float()  # type: ignore[attr-defined]  # as torch's own gradient scaler does
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]


def _lay_alike(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Lay gradients and what the optimizer keeps of each parameter in memory as the parameter itself lies.

    The fused form on a CPU reads them as if they did, and is silently wrong where they do not: where a gradient came
    contiguous for a channels-last weight, or a checkpoint was written with weights that lay otherwise.
    """
    for p in trained(optimizer):
        if p.grad is not None and p.grad.stride() != p.stride():
            p.grad = torch.empty_like(p).copy_(p.grad)
        kept = optimizer.state.get(p, {})
        for key, value in kept.items():
            if isinstance(value, Tensor) and value.shape == p.shape and value.stride() != p.stride():
                kept[key] = torch.empty_like(p, dtype=value.dtype).copy_(value)


def add_main_decay(
    optimizer: torch.optim.Optimizer,
    gradients: Sequence[Tensor | None],
    *,
    besides: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor | None, ...]:
    """Add λ θ, the gradient of ½ λ ‖θ‖², to the main gradient of each parameter θ whose group has ``main_decay`` λ.

    Decay alone is no reason to change a parameter that no loss reaches, as in a stage without the main task. Where
    ``.grad`` holds it from an earlier pass of the same step, see :func:`note_decay`, no more is added.

    Args:
        optimizer: from :func:`make_optimizer`; one without ``main_decay`` changes nothing.
        gradients: in the order of :func:`trained`; left as they are.
        besides: those of the other losses in the same order; None = there are no others.

    Returns:
        The gradients with the decay; where None came, and another loss reaches the parameter, the decay alone.
    """
    noted = _decayed.get(_inner(optimizer), {})
    learning = trained(optimizer)
    held = {id(p) for p in learning if p.grad is not None and noted.get(id(p)) == _tell(p.grad)}
    decays = [group.get("main_decay", 0.0) for group in optimizer.param_groups for p in _trained(group)]
    others = [None] * len(gradients) if besides is None else besides
    given: set[int] = set()

    def one(g: Tensor | None, other: Tensor | None, p: Tensor, decay: float) -> Tensor | None:
        if not decay or id(p) in held or (g is None and other is None):
            return g
        given.add(id(p))
        return decay * p if g is None else torch.add(g, p, alpha=decay)

    with torch.no_grad():
        decayed = tuple(map(one, gradients, others, learning, decays))
    _decayed[_inner(optimizer)] = dict.fromkeys(held | given)
    return decayed


def note_decay(optimizer: torch.optim.Optimizer) -> None:
    """Remember that what :func:`add_main_decay` gave is in ``.grad`` now, so that a later pass adds no more."""
    decayed = _decayed.get(_inner(optimizer), {})
    decayed.update({id(p): _tell(p.grad) for p in trained(optimizer) if id(p) in decayed})


def _tell(gradient: Tensor | None) -> tuple[int, int] | None:
    """Return what changes as soon as a gradient is set to zero, replaced or left out."""
    return None if gradient is None else (id(gradient), gradient._version)


def _inner(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return the optimizer that one of Accelerate or Lightning wraps."""
    within = getattr(optimizer, "optimizer", None)
    return _inner(within) if isinstance(within, torch.optim.Optimizer) else optimizer


def trained(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return the parameters that an optimizer changes, in the order of its groups."""
    return [p for group in optimizer.param_groups for p in _trained(group)]


def _trained(group: dict[str, Any]) -> list[nn.Parameter]:
    return [p for p in group["params"] if p.requires_grad]


def check_reached(optimizer: torch.optim.Optimizer, distiller: Distiller) -> None:
    """Make sure that an optimizer holds what learns beside the student, which `Distiller.prepare` has made.

    Args:
        optimizer: of the distiller's parameters; of the student's it may hold a part.
        distiller: with all that learns.

    Raises:
        OptionError: adapters, or parameters of a loss, are missing.
    """
    reached = {id(p) for p in (*trained(optimizer), *distiller.student.parameters())}
    if not all(id(p) in reached for p in distiller.parameters() if p.requires_grad):
        raise OptionError(
            "the optimizer lacks the adapters or the parameters of a loss; call distiller.prepare first, then make "
            "it from distiller"
        )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set every group to its first learning rate times a factor.

    Returns:
        The learning rate of the first group.
    """
    for group in optimizer.param_groups:
        rate = group.setdefault("initial_lr", group["lr"]) * factor
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    return float(optimizer.param_groups[0]["initial_lr"] * factor)


def hold_on_device(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer read its rate from a tensor on its device at each step: a number would be captured as it is.

    Args:
        optimizer: from :func:`make_optimizer`, fused; its state, where it has any, stays.
    """
    _lay_alike(optimizer)  # a checkpoint of another layout would otherwise be replaced in the first step
    for group in optimizer.param_groups:
        device = group["params"][0].device
        group.setdefault("initial_lr", group["lr"])
        # CUDA's fused forms read float32, the CPU's any type.
        exact = torch.float64 if device.type == "cpu" else torch.float32
        group["lr"] = torch.full((), group["initial_lr"], dtype=exact, device=device)
        if "capturable" in group:
            group["capturable"] = device.type == "cuda"


def plain_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's state for a checkpoint, the same whether its rate lies on a device or not."""
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])
        if "capturable" in group:
            group["capturable"] = False
    return state
