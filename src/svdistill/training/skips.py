"""Steps that are not applied because a loss or a gradient is not finite: decided, counted and noted on the device."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# So many in a row end a run: one alone may be the accident of a batch, but what fails again and again stays broken.
LIMIT = 5
# Of an epoch's steps that were not applied, so many are noted with their images.
_ROOM = 16
_LEAST_STEPS = 64
_STEP, _ROW, _TOTAL = range(3)
_EMPTY = -1.0  # where no step, or no image, is noted


class Skip(NamedTuple):
    """A step that was not applied.

    Attributes:
        step: of its epoch, from 1.
        loss: the main loss.
        transfer: the transfer loss; NaN where there is none.
        images: the numbers of this process's images of the batch, in the training set.
    """

    step: int
    loss: float
    transfer: float
    images: list[int]


class Skips:
    """The steps of an epoch that were not applied, and the main loss of all that were.

    After `LIMIT` skipped steps in a row none is applied any more: the weights stay what they were before the first of
    them, until the host has seen it. All is written in place, so a step that a GPU has captured writes it too; nothing
    waits for the device but what reads.

    Args:
        device: where the steps are done.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._counts = torch.zeros(3, dtype=torch.int64, device=device)
        self._losses = torch.full((_LEAST_STEPS,), math.nan, device=device)
        self._rows: Tensor | None = None  # (_ROOM + 1, 3 + B), float64; the last takes what need not be noted

    @property
    def counts(self) -> Tensor:
        """(3,), int64: steps of the epoch, how many of the latest were skipped in a row, how many of the epoch were."""
        return self._counts

    @property
    def in_a_row(self) -> int:
        """How many of the latest steps were skipped; waits for the device."""
        return int(self._counts[_ROW])

    def reserve(self, steps: int) -> None:
        """Make room for the losses of an epoch; those of further steps take the last place.

        Args:
            steps: of the epoch.
        """
        if steps > len(self._losses):
            more = self._losses.new_full((steps - len(self._losses),), math.nan)
            self._losses = torch.cat([self._losses, more])

    def reset(self) -> None:
        """Begin a new epoch; a row of skipped steps may continue in it."""
        self._counts[_STEP].zero_()
        self._counts[_TOTAL].zero_()
        self._losses.fill_(math.nan)
        if self._rows is not None:
            self._rows.fill_(_EMPTY)

    @torch.no_grad()
    def note(self, sound: Tensor, *, loss: Tensor, transfer: Tensor | None, indices: Tensor | None) -> Tensor:
        """Take note of a step before it is applied.

        Args:
            sound: 0-dim bool, whether its main loss and its gradient are finite.
            loss: the main loss, 0-dim.
            transfer: the transfer loss, 0-dim, or None.
            indices: (B,), its images' numbers, or None.

        Returns:
            Whether to apply it, 0-dim bool.
        """
        step, row, total = self._counts.unbind()
        applied = sound & (row < LIMIT)
        images = loss.new_zeros(0) if indices is None else indices.to(loss.device, non_blocking=True)
        figures = torch.stack([step + 1, loss, loss * math.nan if transfer is None else transfer]).double()
        rows = self._room(len(images), like=figures)
        place = torch.where(sound, _ROOM, total.clamp(max=_ROOM))
        rows.index_copy_(0, place[None], torch.cat([figures, images.double()])[None])
        own = torch.where(applied, loss, math.nan).to(self._losses.dtype)
        self._losses.index_copy_(0, step.clamp(max=len(self._losses) - 1)[None], own[None])
        self._counts.copy_(torch.stack([step + 1, (row + 1) * ~applied, total + ~applied]))
        return applied

    def noted(self) -> list[Skip]:
        """Wait for the device, and return the first steps of the epoch that were not sound, as far as there is room."""
        total = min(int(self._counts[_TOTAL]), _ROOM)
        if self._rows is None:
            return []
        rows = self._rows[:total].tolist()
        return [
            Skip(int(step), loss, transfer, [int(image) for image in images if image != _EMPTY])
            for step, loss, transfer, *images in rows
            if step != _EMPTY
        ]

    def losses(self) -> list[float]:
        """Wait for the device, and return the main loss of each step of the epoch that was applied."""
        found: list[float] = self._losses[: int(self._counts[_STEP])].tolist()
        return [loss for loss in found if math.isfinite(loss)]

    def untouched(self) -> Callable[[], None]:
        """Note how things are, and return what puts them back in place."""
        counts, losses = self._counts.clone(), self._losses.clone()
        rows = None if self._rows is None else self._rows.clone()

        def put_back() -> None:
            self._counts.copy_(counts)
            self._losses.copy_(losses)
            if self._rows is not None:
                self._rows.fill_(_EMPTY) if rows is None else self._rows.copy_(rows)

        return put_back

    def state_dict(self) -> dict[str, Any]:
        """Return everything, for a checkpoint."""
        step, _, total = self._counts.tolist()
        rows = torch.zeros(0, 3)
        if self._rows is not None and total:
            rows = self._rows[: min(total, _ROOM)].cpu().clone()
        return {"counts": self._counts.cpu().clone(), "losses": self._losses[:step].cpu().clone(), "rows": rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint."""
        self.reserve(len(state["losses"]))
        self._counts.copy_(state["counts"])
        self._losses[: len(state["losses"])] = state["losses"].to(self._losses.device)
        if len(rows := state["rows"]):
            self._room(rows.shape[1] - 3, like=self._losses)[: len(rows)] = rows.to(self._losses.device)

    def _room(self, images: int, *, like: Tensor) -> Tensor:
        """Return rows for steps of this many images; of earlier steps of another batch size the figures stay."""
        before = self._rows
        if before is not None and before.shape[1] == 3 + images:
            return before
        rows = torch.full((_ROOM + 1, 3 + images), _EMPTY, dtype=torch.float64, device=like.device)
        if before is not None:
            kept = min(before.shape[1], 3 + images)
            rows[:, :kept] = before[:, :kept]
        self._rows = rows
        return rows


class Buffers:
    """A module's buffers, such as batch norm's running statistics, as they are before a step.

    Args:
        module: whose forward pass may change them, or put others in their place.
    """

    @torch.no_grad()
    def __init__(self, module: nn.Module) -> None:
        self._places = [
            (owner, name, buffer)
            for owner in module.modules()
            for name, buffer in owner._buffers.items()
            if buffer is not None
        ]
        groups: dict[torch.dtype, list[Tensor]] = {}
        for buffer in {id(buffer): buffer for _, _, buffer in self._places}.values():
            if 0 in buffer.stride() and buffer.numel() > 1:  # expanded: cannot be written to, by a forward pass either
                continue
            groups.setdefault(buffer.dtype, []).append(buffer)
        self._before = [(group, _flat(group)) for group in groups.values()]

    @torch.no_grad()
    def restore_unless(self, applied: Tensor) -> None:
        """Put the buffers back unless the step is applied.

        Args:
            applied: 0-dim bool; the host looks at it only where a buffer's place was taken by another.
        """
        for group, before in self._before:
            kept = torch.where(applied, _flat(group), before).split([b.numel() for b in group])
            torch._foreach_copy_(group, [one.view(b.shape) for one, b in zip(kept, group, strict=True)])
        if any(owner._buffers.get(name) is not own for owner, name, own in self._places) and not applied:
            self.put_in_place()

    def put_in_place(self) -> None:
        """Give each buffer its place again, whatever is in it."""
        for owner, name, own in self._places:
            owner._buffers[name] = own


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@torch.no_grad()
def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Return whether all values are finite, 0-dim bool; nothing waits for the device.

    Args:
        tensors: at least one, all on one device.
    """
    if tensors[0].device.type == "cpu":
        # Ten times faster there than a norm of this order. Where a sum overflows, what it is of is beyond use too,
        # but in half precision, which ends at 65,504.
        return torch.stack([_sum(tensor) for tensor in tensors]).isfinite().all()
    return torch.stack(torch._foreach_norm(list(tensors), math.inf)).isfinite().all()


def _sum(tensor: Tensor) -> Tensor:
    return tensor.sum(dtype=torch.float32 if tensor.dtype.itemsize < 4 else None)
