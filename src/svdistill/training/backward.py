"""Both gradients of a step in a loop of one's own: one call in place of ``loss.backward()``."""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any
from warnings import warn

import torch
from torch import Tensor, nn

from svdistill.choices import Clip
from svdistill.errors import OptionError, ShapeError, SvdistillWarning, nearest
from svdistill.gradients import TransferHealth, added, check_clip, combine_all, differentiate, is_sharded
from svdistill.training.optimizers import add_main_decay, note_decay, trained
from svdistill.training.reduce import Gradients, Group, average_gradients

Transfer = Tensor | Mapping[str, Tensor]

# Those rules that look at the epoch.
_BY_EPOCH = frozenset({"per_variable", "global", "poster"})


def backward(
    main: Tensor | None,
    transfer: Transfer,
    parameters: torch.optim.Optimizer | Iterable[nn.Parameter],
    *,
    epoch: float | None = None,
    weights: Mapping[str, float] | None = None,
    clip: Clip = "own_norm",
    bound: float = 0.3,
    scaler: torch.amp.GradScaler | None = None,
    health: TransferHealth | None = None,
) -> None:
    """Make one gradient of two losses and add it to ``.grad``; stands where a loop has ``loss.backward()``.

    It does what :func:`svdistill.training.step` does between the forward pass and the optimizer:

    - Both losses are differentiated in one graph, each parameter's two gradients are combined
      (:func:`svdistill.gradients.combine`), and the result is added to ``.grad``. Frozen parameters are left alone.
    - What the main loss does not reach learns beside the student (adapters, a loss's own regressor): it gets its
      transfer gradient, whose norm is kept at or below that of the student's combined gradient. Where the main loss
      reaches nothing, or there is none, nothing tells them apart, and the rule holds for all together.
    - Where torch.distributed connects several processes, both gradients are averaged over them before they are
      combined; a ``DistributedDataParallel`` around the network does not do that here, and is not needed for it. The
      gradients of parameters that `fully_shard` has sharded come averaged. As always, a loss that is a sum over the
      batch counts 1 / world of what it does in one process; a mean counts the same.

    Each call is combined by itself. To combine a batch that is worked on in several passes as a whole, as the bound
    is meant, take :class:`Backward`.

    Args:
        main: the student's own loss, any, 0-dim; None where the transfer task learns alone.
        transfer: the transfer loss, 0-dim, with its weight; or several by name, such as ``DistillOutput.terms``, which
            are summed.
        parameters: the optimizer, of which those that need a gradient learn, or the parameters. With sharded
            parameters, the optimizer, or a list of them from before the forward pass. An optimizer of
            :func:`svdistill.training.make_optimizer` gets its weight decay here, as part of the main gradient.
        epoch: from 0; ``per_variable``, ``global`` and ``poster`` ask for it.
        weights: what each of several transfer losses is multiplied by, by name; None = 1.
        clip: the rule; see :func:`svdistill.gradients.combine`. The default, with its bound, is what we recommend.
        bound: what ``own_norm`` holds the norm of the transfer gradient at or below.
        scaler: of a loop in float16; give the losses as they are: they are scaled here, and the bound is that of the
            gradient without the scale. A gradient that overflows, also of the transfer loss, then reaches ``.grad`` as
            NaN or infinity, so that the scaler leaves the step out and lowers its scale.
        health: where to add what became of the transfer gradient.

    Raises:
        OptionError: there is no transfer loss, a loss has no gradient or reaches none of the parameters, it reaches an
            adapter that is not among them, weights and losses have other names, or the rule, its bound or the epoch
            does not fit.
        ShapeError: a loss is not 0-dim.
    """
    both = Backward(parameters, weights=weights, clip=clip, bound=bound, scaler=scaler, health=health)
    both(main, transfer, epoch=epoch)


def joint_loss(
    main: Tensor | None,
    transfer: Transfer,
    parameters: torch.optim.Optimizer | Iterable[nn.Parameter],
    *,
    epoch: float | None = None,
    weights: Mapping[str, float] | None = None,
    clip: Clip = "own_norm",
    bound: float = 0.3,
    health: TransferHealth | None = None,
) -> Tensor:
    """Return a loss whose gradient is what :func:`backward` adds, for a loop that calls ``loss.backward()`` itself.

    Both gradients are taken and combined at once; what is returned only hands them on, so that its own
    ``backward()`` costs nothing. It may be divided or scaled: where a loop divides the loss by the passes that it
    accumulates, the bound holds for their sum. Not for float16 with a gradient scaler, which comes too late.

    Args:
        main: the student's own loss, any, 0-dim; None where the transfer task learns alone.
        transfer: see :func:`backward`.
        parameters: see :func:`backward`.
        epoch: see :func:`backward`.
        weights: see :func:`backward`.
        clip: see :func:`backward`.
        bound: see :func:`backward`.
        health: see :func:`backward`.

    Returns:
        0-dim, of the value of ``main``, or of the transfer loss where there is none.

    Raises:
        OptionError: see :func:`backward`.
        ShapeError: a loss is not 0-dim.
    """
    both = Backward(parameters, weights=weights, clip=clip, bound=bound, health=health)
    learning, gradients = both.gradients(main, transfer, epoch=epoch)
    reached = [(p, g) for p, g in zip(learning, gradients, strict=True) if g is not None]
    value = _weighted(transfer, weights) if main is None else main
    handed: Tensor = _HandOn.apply(value.detach(), [g for _, g in reached], *(p for p, _ in reached))
    return handed


class Backward:
    """The same as :func:`backward` for a batch that is worked on in several passes: called once in each.

    The gradients of both losses are kept apart and summed until the last pass, then averaged over the processes,
    combined and added to ``.grad``: so the bound is on the transfer gradient of the whole batch, and there is one
    exchange between processes. A loss that is a mean has to be divided by the number of passes, as always.

    Args:
        parameters: see :func:`backward`.
        weights: of several transfer losses.
        clip: the rule.
        bound: of ``own_norm``.
        scaler: of a loop in float16.
        health: where to add what became of the transfer gradient.
        group: of the processes over which gradients are averaged; None = all.

    Raises:
        OptionError: nothing learns, or the rule or its bound does not fit.
    """

    def __init__(
        self,
        parameters: torch.optim.Optimizer | Iterable[nn.Parameter],
        *,
        weights: Mapping[str, float] | None = None,
        clip: Clip = "own_norm",
        bound: float = 0.3,
        scaler: torch.amp.GradScaler | None = None,
        health: TransferHealth | None = None,
        group: Group | None = None,
    ) -> None:
        check_clip(clip, bound)
        self._optimizer = parameters if isinstance(parameters, torch.optim.Optimizer) else None
        self._given = [] if isinstance(parameters, torch.optim.Optimizer) else _checked(parameters)
        self._weights = weights
        self._clip, self._bound, self._health = clip, bound, health
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self._group = group
        # By parameter, since others may learn from the next pass on.
        self._held: dict[nn.Parameter, tuple[Tensor | None, Tensor | None]] = {}
        if not self._parameters():
            raise OptionError("there are no parameters that need a gradient; nothing to train")

    def __call__(
        self, main: Tensor | None, transfer: Transfer, *, epoch: float | None = None, last: bool = True
    ) -> None:
        """Work on one pass; in the last one of a step add the combined gradient to ``.grad``.

        Args:
            main: the student's own loss of this pass; None where the transfer task learns alone.
            transfer: the transfer loss of this pass, or several by name.
            epoch: from 0; ``per_variable``, ``global`` and ``poster`` ask for it.
            last: whether it is the last pass before the optimizer's step.

        Raises:
            OptionError: see :func:`backward`.
            ShapeError: a loss is not 0-dim.
        """
        own = self._work(main, transfer, epoch=epoch)
        if last:
            _add_to_grad(self._parameters(), self._finish(own, main, epoch=epoch))
            if self._optimizer is not None:
                note_decay(self._optimizer)

    def gradients(
        self, main: Tensor | None, transfer: Transfer, *, epoch: float | None = None
    ) -> tuple[list[nn.Parameter], Gradients]:
        """Do what a last pass does, but return what learns and its combined gradients in place of adding them."""
        own = self._work(main, transfer, epoch=epoch)
        return self._parameters(), self._finish(own, main, epoch=epoch)

    def _work(self, main: Tensor | None, transfer: Transfer, *, epoch: float | None) -> tuple[Gradients, Gradients]:
        """Return the gradients of both losses in this and all earlier passes of the step, and hold them."""
        if epoch is None and self._clip in _BY_EPOCH:
            raise OptionError(f"clip={self._clip!r} needs the epoch, from 0; give epoch=")
        goal = _weighted(transfer, self._weights)
        if main is not None:
            _check_loss(main, "main")
        parameters = self._parameters()
        g_main, g_transfer = self._differentiate(main, goal, parameters)
        before = [self._held.get(parameter, (None, None)) for parameter in parameters]
        g_main = tuple(added(held, g) for (held, _), g in zip(before, g_main, strict=True))
        g_transfer = tuple(added(held, g) for (_, held), g in zip(before, g_transfer, strict=True))
        self._held = dict(zip(parameters, zip(g_main, g_transfer, strict=True), strict=True))
        return g_main, g_transfer

    def _parameters(self) -> list[nn.Parameter]:
        if self._optimizer is not None:
            return trained(self._optimizer)
        return [parameter for parameter in self._given if parameter.requires_grad]

    def _differentiate(
        self, main: Tensor | None, transfer: Tensor, parameters: Sequence[nn.Parameter]
    ) -> tuple[Gradients, Gradients]:
        if self._scaler is not None:
            transfer = self._scaler.scale(transfer)
            main = None if main is None else self._scaler.scale(main)
        sharded = any(map(is_sharded, parameters))
        if not sharded:  # the graph knows other tensors than those that are sharded
            _check_beside(main, transfer, parameters)
        take = _through_hooks if sharded else _in_one_graph
        with torch.autocast(parameters[0].device.type, enabled=False):  # which is for the forward pass alone
            both = take(main, transfer, parameters)
        for name, loss, gradients in zip(("main", "transfer"), (main, transfer), both, strict=True):
            if loss is not None and loss.requires_grad and all(g is None for g in gradients):
                raise OptionError(
                    f"the {name} loss reaches none of the parameters; give those of the networks that have just run, "
                    "for instance the optimizer of distiller.parameters()"
                )
        return both

    @torch.no_grad()
    def _finish(self, both: tuple[Gradients, Gradients], main: Tensor | None, *, epoch: float | None) -> Gradients:
        """Average over the processes, combine, and hold nothing any more."""
        self._held = {}
        parameters = self._parameters()
        g_main, g_transfer = average_gradients(both, parameters, group=self._group)
        by_main = [g is not None for g in g_main]
        scale = None
        if self._scaler is not None:
            scale = self._scaler.scale(torch.ones((), device=parameters[0].device))
            g_main, g_transfer = (
                tuple(None if g is None else g / scale for g in some) for some in (g_main, g_transfer)
            )
        decayed = g_main if self._optimizer is None else add_main_decay(self._optimizer, g_main, besides=g_transfer)
        held_back = main is not None or any(by_main) or self._clip == "own_norm"
        combined = combine_all(
            decayed,
            g_transfer,
            beside=[any(by_main) and not reached for reached in by_main],
            epoch=0.0 if epoch is None else epoch,
            # Without a main gradient only a bound of its own can hold the transfer gradient.
            clip=self._clip if held_back else "none",
            bound=self._bound,
            health=self._health,
        )
        if scale is not None:
            # Nought times infinity is NaN: what was dropped for not being finite is for the scaler to see.
            pairs = zip(combined, g_transfer, strict=True)
            combined = tuple(None if g is None else scale * (g if t is None else g + 0 * t) for g, t in pairs)
        return combined


class _HandOn(torch.autograd.Function):
    """A value whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(factor.to(g.dtype) * g for g in ctx.gradients)


def _checked(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return parameters, each once; OptionError where something else came."""
    if isinstance(parameters, nn.Module | Tensor):
        raise OptionError(
            f"an object of type {type(parameters).__name__} came in place of parameters; give the optimizer, or "
            "distiller.parameters()"
        )
    given = list(parameters)
    if wrong := [one for one in given if not isinstance(one, Tensor)]:
        raise OptionError(
            f"an object of type {type(wrong[0]).__name__} is among the parameters; give one optimizer, or, also where "
            "several share them, distiller.parameters()"
        )
    return list(dict.fromkeys(given))


def _weighted(transfer: Transfer, weights: Mapping[str, float] | None) -> Tensor:
    """Return the transfer loss: the one that is given, or the sum of several with their weights."""
    terms = transfer if isinstance(transfer, Mapping) else {"transfer": transfer}
    if transfer is None or not terms:
        raise OptionError(
            "there is no transfer loss: the distiller is in eval mode or has no teacher; call distiller.train() before "
            "the epoch, or main.backward() where the student learns alone"
        )
    factors: Mapping[str, Any] = dict.fromkeys(terms, 1.0) if weights is None else weights
    if unknown := [name for name in factors if name not in terms]:
        raise OptionError(f"weights has {unknown[0]!r}, no transfer loss here{nearest(unknown[0], terms)}")
    if missing := [name for name in terms if name not in factors]:
        raise OptionError(f"the transfer loss {missing[0]!r} has no weight; give it one, 0 to leave it out")
    for name, term in terms.items():
        _check_loss(term, name)
        factor = factors[name]
        if not isinstance(factor, Tensor) and not (isinstance(factor, Real) and math.isfinite(factor)):
            raise OptionError(f"the weight of {name!r} is {factor!r}, expected a finite number")
    # One of weight 0 is left out, also where it is not finite.
    chosen = [name for name in terms if isinstance(factors[name], Tensor) or factors[name] != 0] or list(terms)
    weighted = [terms[name] * factors[name] for name in chosen]
    return weighted[0] if len(weighted) == 1 else torch.stack(weighted).sum()


def _check_loss(loss: Tensor, name: str) -> None:
    if not isinstance(loss, Tensor):
        raise OptionError(
            f"the {name} loss is of type {type(loss).__name__}, expected a tensor; give output.transfer or "
            "output.terms, and main=None where the transfer task learns alone"
        )
    if loss.dim():
        raise ShapeError(f"the {name} loss has shape {tuple(loss.shape)}, expected a single number; take its mean")
    if not loss.requires_grad and loss != 0:
        raise OptionError(
            f"the {name} loss has no gradient and is not zero, so nothing would learn from it; is what it compares "
            "frozen, detached or computed under no_grad()?"
        )


def _check_beside(main: Tensor | None, transfer: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Make sure that what only the transfer loss reaches, such as adapters, is among the parameters."""
    given = {id(parameter) for parameter in parameters}
    reached = _leaves(transfer)
    missing = reached.keys() - given
    if not missing:
        return
    remedy = "make the optimizer of distiller.parameters() after distiller.prepare, or freeze them"
    if main is None:  # which nothing tells from parts of the student that are to stay as they are
        if given & reached.keys():
            warn(
                "the transfer loss reaches parameters that are not among those given, and they do not learn from it "
                f"({len(missing)} in all): adapters, or parts of the student that are to stay; {remedy}",
                SvdistillWarning,
                stacklevel=2,
            )
    elif main.requires_grad and (alone := missing - _leaves(main).keys()):
        raise OptionError(
            f"{len(alone)} parameters that the transfer loss alone reaches are not among those given, and would never "
            f"learn: adapters, or a teacher that is not frozen; {remedy}"
        )


def _leaves(loss: Tensor) -> dict[int, Tensor]:
    """Return what a loss is computed of and needs a gradient, by identity."""
    waiting, seen, found = [loss.grad_fn], set(), {}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::AccumulateGrad":
            found[id(node.variable)] = node.variable  # type: ignore[attr-defined]
        waiting += [following for following, _ in node.next_functions]
    return found


def _in_one_graph(
    main: Tensor | None, transfer: Tensor, parameters: Sequence[nn.Parameter]
) -> tuple[Gradients, Gradients]:
    none: Gradients = (None,) * len(parameters)
    g_main = none if main is None else differentiate(main, parameters, keep_graph=transfer.requires_grad)
    return g_main, differentiate(transfer, parameters)


def _through_hooks(
    main: Tensor | None, transfer: Tensor, parameters: Sequence[nn.Parameter]
) -> tuple[Gradients, Gradients]:
    """Take both gradients by way of ``.grad``, into which `fully_shard` averages and shards them."""
    if main is None or not main.requires_grad:
        raise OptionError(
            "sharded parameters are gathered where the network's own output is differentiated, and there is no main "
            "loss; give main=0 * logits.sum()"
        )
    before = [parameter.grad for parameter in parameters]

    def take(loss: Tensor, *, keep_graph: bool) -> Gradients:
        for parameter in parameters:
            parameter.grad = None
        loss.backward(retain_graph=keep_graph)
        return tuple(parameter.grad for parameter in parameters)

    try:
        # The transfer loss may begin inside of a block, which nothing would gather; nought times main begins before it.
        return take(main, keep_graph=True), take(transfer + 0 * main, keep_graph=False)
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


def _add_to_grad(parameters: Sequence[nn.Parameter], gradients: Gradients) -> None:
    """Add to ``.grad``; a new one lies in memory as its parameter does, and in none that another may share."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        else:
            parameter.grad.add_(gradient)
