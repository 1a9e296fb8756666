"""Two gradients in, one out: how those of the main task and the transfer task are combined (docs/method.md, step 7)."""

import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from svdistill.choices import BOUND, CLIPS, Clip, is_number
from svdistill.errors import OptionError, ShapeError, nearest

# How many steps there is room for where nobody has said how many come.
_LEAST_ROWS = 64
_COLUMNS = 4

# The figures that compare the two gradients, which mean nothing where there is no main one.
COMPARED = frozenset({"ratio", "clipped", "passed"})


class TransferHealth:
    """What became of the transfer gradient, step by step, kept on the device until it is asked for.

    One row a step: the ratio ‖g_t‖ / ‖g_m‖ (one norm over all variables that the transfer loss reaches with finite
    values; 0/0 counts as 0), the fraction of those variables whose g_t was scaled down, the number of variables whose
    g_t was dropped because it was not finite, and how much of ‖g_t‖ the rule let through. The rows, and how many there
    are, lie on the device, so a step that a GPU has captured writes a further one at each replay. Nothing here
    synchronizes with the device except :meth:`summary`, :meth:`state_dict` and `len`.
    """

    def __init__(self) -> None:
        self._count: Tensor | None = None  # (1,), int64, on the device
        self._rows: Tensor | None = None
        self._least = _LEAST_ROWS
        self._calls = 0  # the host's own count, which does not see replays

    def __len__(self) -> int:
        return 0 if self._count is None else int(self._count)

    def reset(self) -> None:
        """Forget all steps, and keep their memory."""
        self._calls = 0
        if self._count is not None:
            self._count.zero_()

    def untouched(self) -> Callable[[], None]:
        """Note how many steps there are, and return what forgets all further ones."""
        calls, count = self._calls, None if self._count is None else self._count.clone()

        def put_back() -> None:
            self._calls = calls
            if self._count is not None:
                self._count.zero_() if count is None else self._count.copy_(count)

        return put_back

    def reserve(self, steps: int) -> None:
        """Make room for steps, where replays write rows that the host does not see; call it before the first.

        Args:
            steps: how many there will be at most until the next :meth:`reset`.
        """
        self._least = max(self._least, steps)

    def update(self, main_norms: Tensor, transfer_norms: Tensor, factors: Tensor, sound: Tensor) -> None:
        """Add one step.

        Args:
            main_norms: ‖g_m‖ of each variable that the transfer loss reaches, shape (n,).
            transfer_norms: ‖g_t‖ of the same, 0 where g_t is not finite, shape (n,).
            factors: what g_t is multiplied by, shape (n,).
            sound: whether g_t is finite, bool, shape (n,).
        """
        main = torch.linalg.vector_norm(torch.where(sound, main_norms, 0.0)[None], dim=1)
        transfer = torch.linalg.vector_norm(transfer_norms[None], dim=1)
        ratio = torch.where(transfer > 0, transfer / main, torch.zeros_like(main))
        ratio = torch.where(main.isfinite(), ratio, torch.nan)  # of a step that is not applied
        scaled_down = (factors < 1) & sound & (transfer_norms > 0)
        clipped = scaled_down.sum() / sound.sum().clamp(min=1)
        through = torch.linalg.vector_norm((factors * transfer_norms)[None], dim=1)
        # Where there is no gradient, or none is finite, nothing is held back or let through.
        passed = torch.where(transfer > 0, through / transfer, torch.nan)
        row = torch.stack([ratio[0], clipped.to(ratio), (~sound).sum().to(ratio), passed[0]])
        rows, count = self._room(row)
        rows.index_copy_(0, count, row[None])
        count += 1
        self._calls += 1

    def summary(self) -> dict[str, float]:
        """Return ``ratio`` and ``passed`` (medians over steps), ``clipped`` (mean), ``dropped`` (total); {} at first.

        ``passed`` tells whether the rule holds the transfer task back (near 0) or lets it through (1).
        """
        rows = self._done()
        rows = rows[~rows[:, 0].isnan()]
        if not len(rows):
            return {}
        ratios, clipped, dropped, passed = rows.unbind(dim=1)
        return {
            "ratio": statistics.median(ratios.tolist()),
            "clipped": float(clipped.mean()),
            "dropped": int(dropped.sum()),
        } | ({"passed": statistics.median(known)} if (known := passed[~passed.isnan()].tolist()) else {})

    def state_dict(self) -> dict[str, Any]:
        """Return the steps so far, for a checkpoint."""
        return {"rows": self._done()}

    def load_state_dict(self, state: Mapping[str, Any], *, device: torch.device | str = "cpu") -> None:
        """Take over the steps of a checkpoint; further steps must come from ``device``."""
        rows = state["rows"].to(device)
        # A checkpoint of an earlier version does not say how much was let through.
        rows = torch.nn.functional.pad(rows, (0, _COLUMNS - rows.shape[1]), value=torch.nan)
        self._rows, self._calls = rows, len(rows)
        self._count = torch.full((1,), len(rows), device=device)

    def _done(self) -> Tensor:
        """Wait for the device and return the rows so far, on the CPU."""
        rows = torch.zeros(0, _COLUMNS, dtype=torch.float64) if self._rows is None else self._rows.cpu()
        return rows[: len(self)].clone()

    def _room(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows, of which at least one is free, and their count."""
        if self._rows is None or self._count is None:
            self._rows, self._count = like.new_zeros(self._least, _COLUMNS), like.new_zeros(1, dtype=torch.int64)
        there = len(self._rows)
        if self._calls >= there or there < self._least:
            more = max(self._least, 2 * self._calls) - there
            self._rows = torch.cat([self._rows, self._rows.new_zeros(max(more, 1), _COLUMNS)])
        return self._rows, self._count


@torch.no_grad()
def combine(
    main: Sequence[Tensor | None],
    transfer: Sequence[Tensor | None],
    *,
    epoch: float | Tensor,
    clip: Clip = "per_variable",
    bound: float = BOUND,
    health: TransferHealth | None = None,
) -> tuple[Tensor | None, ...]:
    """Make one gradient of two, so that the transfer task helps the main task and cannot overrule it.

    With s(p) = 1 / (1 + exp(−p)), p the epoch, for every variable on its own unless said otherwise:

    - ``per_variable``: g = g_m + g_t · min(1, s(p) ‖g_m‖ / ‖g_t‖), the published code.
    - ``global``: the same with one ‖g_m‖ and one ‖g_t‖ over all variables together.
    - ``poster``: g = g_m + g_t / (1 + exp(−τ + p)), τ = ‖g_m‖ / ‖g_t‖, as the poster prints it. Our reading: it holds
      for each variable and without condition, so g_t is always scaled down; the epoch has the other sign than in s(p),
      so the transfer task fades out during training instead of coming in. Offered for comparison only.
    - ``own_norm``: g = g_m + g_t · min(1, c / ‖g_t‖) with one ‖g_t‖ over all variables together and a constant c, the
      bound. Ours. The others hold g_t to what g_m is at the moment, which vanishes as soon as a few labels are fitted,
      and with it whatever the student may still learn from its teacher; this one knows nothing of g_m.
    - ``none``: g = g_m + g_t. Whoever wants a weighted sum weighs the losses.

    A variable that the transfer loss does not reach (None) keeps g_m, also where that is None. A variable that only the
    transfer loss reaches has ‖g_m‖ = 0: per_variable lets nothing of g_t through and gives zeros, poster takes τ = 0,
    the others treat g_t as they do elsewhere; so variables that are to learn from the transfer loss alone do not
    belong here. A g_t with NaN or infinity is dropped: this variable gets g_m alone, and its g_t counts in no norm.
    A g_m that is not finite is passed on, not hidden.

    Norms are taken in float64, so nothing that float32 can hold overflows or underflows; nothing synchronizes with the
    device.

    Args:
        main: ∂(main loss + weight decay)/∂θ for each variable, any shape and floating dtype; left as it is.
        transfer: ∂(transfer loss)/∂θ in the same order, of the same shapes.
        epoch: p ≥ 0, the first epoch is 0; a 0-dim float64 tensor on the gradients' device is not looked at.
        clip: the rule, one of ``per_variable``, ``global``, ``poster``, ``own_norm``, ``none``.
        bound: c > 0, which ``own_norm`` holds ‖g_t‖ at or below.
        health: where to add this step's ratio, fraction of clipped variables and count of dropped gradients.

    Returns:
        One gradient for each variable, in dtype and shape of the variable's own; None where both were None.

    Raises:
        OptionError: the rule is unknown, the bound is not above 0, or the epoch is negative.
        ShapeError: the sequences differ in length, or a pair differs in shape.

    Source: Lee, Kim, Song, ECCV 2018, section 3.4, with the author's published code and poster.
    """
    _check(main, transfer, epoch=epoch, clip=clip, bound=bound)
    combined = list(main)
    reached = [i for i, g in enumerate(transfer) if g is not None]
    if not reached:
        return tuple(combined)
    g_t = [g for g in transfer if g is not None]
    g_m = [torch.zeros_like(t) if (m := main[i]) is None else m for i, t in zip(reached, g_t, strict=True)]
    main_norms, transfer_norms = _norms(g_m), _norms(g_t)
    sound = transfer_norms.isfinite()
    transfer_norms = torch.where(sound, transfer_norms, 0.0)
    elsewhere = (
        [m for m, t in zip(main, transfer, strict=True) if t is None and m is not None] if clip == "global" else []
    )
    factors = _factors(main_norms, transfer_norms, elsewhere, epoch=epoch, clip=clip, bound=bound)
    if health is not None:
        health.update(main_norms, transfer_norms, factors, sound)
    add = _add_on_cpu if factors.device.type == "cpu" else _add_unseen
    for i, gradient in zip(reached, add(g_m, g_t, factors, sound), strict=True):
        combined[i] = gradient
    return tuple(combined)


@torch.no_grad()
def combine_all(
    main: Sequence[Tensor | None],
    transfer: Sequence[Tensor | None],
    *,
    beside: Sequence[bool],
    epoch: float | Tensor,
    clip: Clip,
    bound: float = BOUND,
    health: TransferHealth | None = None,
) -> tuple[Tensor | None, ...]:
    """Combine the student's gradients as :func:`combine` does, and bound those of what learns beside it by them.

    What learns beside the student (adapters, a loss's own regressor) is reached by transfer losses alone, so that no
    main gradient can bound its own. Where the student's transfer gradient is bounded, its norm, over all of it
    together, is instead kept at or below that of the student's combined gradient. One that is not finite is dropped.

    Args:
        main: as in :func:`combine`, for all that learns.
        transfer: in the same order.
        beside: which of them learn beside the student.
        epoch: from 0.
        clip: the rule.
        bound: of ``own_norm``.
        health: where to add what became of the student's transfer gradient.

    Returns:
        One gradient for each variable; None where both were None.

    Raises:
        OptionError: see :func:`combine`.
        ShapeError: see :func:`combine`.
    """

    def part(of: Sequence[Tensor | None], chosen: bool) -> list[Tensor | None]:
        return [g for g, one in zip(of, beside, strict=True) if one is chosen]

    rule: dict[str, Any] = {"epoch": epoch, "clip": clip, "bound": bound, "health": health}
    combined = combine(part(main, False), part(transfer, False), **rule)
    if not any(beside):
        return combined
    sums = [added(m, t) for m, t in zip(part(main, True), part(transfer, True), strict=True)]
    theirs, ours = iter(combined), iter(_bounded(sums, by=None if clip == "none" else combined))
    return tuple(next(ours) if one else next(theirs) for one in beside)


def differentiate(loss: Tensor, parameters: Sequence[Tensor], *, keep_graph: bool = False) -> tuple[Tensor | None, ...]:
    """Return the gradient of a loss for each parameter, and leave ``.grad`` as it is.

    Args:
        loss: 0-dim.
        parameters: for which.
        keep_graph: whether another loss is still to be differentiated in the same graph.

    Returns:
        One gradient for each parameter, dense also where torch's is sparse; None where the loss does not reach it.
    """
    if not loss.requires_grad:  # the loss reaches nothing, for instance because every sample was set aside
        return (None,) * len(parameters)
    found = torch.autograd.grad(loss, parameters, retain_graph=keep_graph, allow_unused=True)
    return tuple(g.to_dense() if g is not None and g.is_sparse else g for g in found)


def added(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Return the sum of two gradients, either of which may be None."""
    return second if first is None else first if second is None else first + second


def _bounded(gradients: Sequence[Tensor | None], *, by: Sequence[Tensor | None] | None) -> list[Tensor | None]:
    """Drop gradients that are not finite, and scale the others down together to the norm of those that bound them."""
    there = [g for g in gradients if g is not None]
    if not there:
        return list(gradients)
    norms = _norms(there)
    sound = norms.isfinite()
    factor = torch.ones_like(norms[0])
    if by is not None:
        whole = torch.linalg.vector_norm(torch.where(sound, norms, 0.0))
        limits = [g for g in by if g is not None]
        limit = torch.linalg.vector_norm(_norms(limits)) if limits else torch.zeros_like(whole)
        factor = torch.where(whole > limit, limit / whole, factor)
    scaled = iter([torch.where(ok, g * factor, 0.0).to(g.dtype) for g, ok in zip(there, sound, strict=True)])
    return [None if g is None else next(scaled) for g in gradients]


def is_sharded(tensor: Tensor) -> bool:
    """Tell whether a tensor is spread over several processes, as `fully_shard` leaves a parameter and its gradient."""
    # To import it takes seconds; where nobody has, there is none.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def _add_on_cpu(main: Sequence[Tensor], transfer: Sequence[Tensor], factors: Tensor, sound: Tensor) -> list[Tensor]:
    """Return g_m + factor · g_t of each variable, g_m alone where g_t is not sound, in one pass each."""
    # The factor may be below float32 (1e-30 / 1e+25) though the product is not: its root, applied twice, stays inside.
    roots = factors.sqrt()
    return [
        torch.addcmul(m, t, root, value=number).to(m.dtype) if ok else m
        for m, t, root, number, ok in zip(main, transfer, roots, roots.tolist(), sound.tolist(), strict=True)
    ]


def _add_unseen(main: Sequence[Tensor], transfer: Sequence[Tensor], factors: Tensor, sound: Tensor) -> list[Tensor]:
    """Return the same as `_add_on_cpu` without looking at the factors, which would mean waiting for the device."""
    return [
        torch.addcmul(m, torch.where(ok, t * root, 0.0), root).to(m.dtype)
        for m, t, root, ok in zip(main, transfer, factors.sqrt(), sound, strict=True)
    ]


def check_clip(clip: str, bound: float = BOUND) -> None:
    """Raise `OptionError` unless there is a rule of this name, and the bound is a finite number above 0."""
    if clip not in CLIPS:
        raise OptionError(f"unknown clipping rule {clip!r}{nearest(str(clip), CLIPS)}")
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not (bound > 0 and math.isfinite(bound)):
        raise OptionError(f"the bound on the transfer gradient is {bound!r}, expected a finite number above 0, e.g. 1")


def _check(
    main: Sequence[Tensor | None], transfer: Sequence[Tensor | None], *, epoch: float | Tensor, clip: str, bound: float
) -> None:
    check_clip(clip, bound)
    if not isinstance(epoch, Tensor) and not (is_number(epoch) and epoch >= 0):
        raise OptionError(f"epoch is {epoch!r}; it is a number and counts from 0")
    if len(main) != len(transfer):
        raise ShapeError(
            f"{len(main)} main and {len(transfer)} transfer gradients; give one of each, or None, for every variable"
        )
    for i, (m, t) in enumerate(zip(main, transfer, strict=True)):
        if m is not None and t is not None and m.shape != t.shape:
            raise ShapeError(
                f"gradients of variable {i} have shapes {tuple(m.shape)} and {tuple(t.shape)}; both must have that of "
                "the variable"
            )


def _norms(gradients: Sequence[Tensor]) -> Tensor:
    """Return the 2-norm of each gradient in float64, shape (n,); of one that is sharded that of the whole."""
    if any(map(is_sharded, gradients)):
        norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients]
        return torch.stack([n.full_tensor() if is_sharded(n) else n for n in norms])
    if gradients[0].device.type == "cpu":  # five times faster here than the batched call, which has no fast way there
        return torch.stack([torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients])
    return torch.stack(torch._foreach_norm(list(gradients), 2, torch.float64))


def _within(bound: float, transfer: Tensor) -> Tensor:
    """Return what brings the norm of all g_t together to the bound, where it is above it, for each g_t, shape (n,)."""
    whole = torch.linalg.vector_norm(transfer)
    return torch.where(whole > bound, bound / whole, torch.ones_like(whole)).expand_as(transfer)


def _factors(
    main: Tensor, transfer: Tensor, elsewhere: Sequence[Tensor], *, epoch: float | Tensor, clip: Clip, bound: float
) -> Tensor:
    """Return what each g_t is multiplied by, shape (n,); where ‖g_t‖ = 0 it is finite and has no effect."""
    if clip == "none":
        return torch.ones_like(transfer)
    if clip == "own_norm":
        return _within(bound, transfer)
    if clip == "global":
        everywhere = torch.cat([main, _norms(elsewhere)]) if elsewhere else main
        main = torch.linalg.vector_norm(everywhere).expand_as(transfer)
        transfer = torch.linalg.vector_norm(transfer).expand_as(transfer)
    tau = torch.where(transfer > 0, main / transfer, torch.inf)
    if clip == "poster":
        return torch.sigmoid(tau - epoch)
    return (tau / (1 + (torch.exp(-epoch) if isinstance(epoch, Tensor) else math.exp(-epoch)))).clamp(max=1)
