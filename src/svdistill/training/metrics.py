"""Sums over an epoch, kept on the device so that no step waits for them."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from svdistill.training.skips import Skips


def sums(
    *,
    main: Tensor,
    transfer: Tensor | None,
    health: Mapping[str, Tensor],
    logits: Tensor,
    labels: Tensor,
    others: Tensor | None = None,
    share: Tensor | None = None,
) -> dict[str, Tensor]:
    """Bring the figures of a step, or of a part of one, into a form that only has to be summed.

    Args:
        main: the main loss, 0-dim; of a part, what it contributes to the step's.
        transfer: the transfer loss, 0-dim, or None; of a part, what it contributes to the step's.
        health: the transfer loss's figures, 0-dim; ``set_aside`` is a number of samples, others are means over the
            samples that were not set aside.
        logits: (B, classes).
        labels: (B,); below 0 for images without a label.
        others: (B,), the label of the image that each is mixed with; None where none is.
        share: (B,), the part that the own label keeps, with ``others``.

    Returns:
        0-dim tensors without gradient: ``loss``, ``transfer``, ``train_accuracy`` (how many are right; of a mixed image
        the share of the label that was found), ``labelled`` (of how many) and ``set_aside``; each other figure of
        health multiplied by its number of samples, which is there as ``<name> weight``.
    """
    figures = {"loss": main.detach()}
    found = logits.detach().argmax(dim=1)
    right = found == labels
    if others is not None and share is not None:
        figures["train_accuracy"] = (
            torch.where(right, share, 0).sum() + torch.where(found == others, 1 - share, 0).sum()
        )
    else:
        figures["train_accuracy"] = right.sum()
    figures["labelled"] = (labels >= 0).sum()
    if transfer is not None:
        figures["transfer"] = transfer.detach()
    aside = health.get("set_aside", torch.zeros((), device=logits.device))
    kept = len(labels) - aside
    for name, value in health.items():
        if name == "set_aside":
            figures[name] = value.detach()
        else:  # a mean over no samples may be NaN; it has no weight
            figures[name] = torch.where(kept > 0, value.detach() * kept, 0.0)
            figures[f"{name} weight"] = kept
    return figures


class Metrics:
    """What happened in an epoch so far.

    Args:
        device: where the figures of :meth:`add` come from.

    Attributes:
        steps: how many there were.
        images: how many they had.
        skips: which of them were not applied; their figures are left out.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = device
        self.steps = 0
        self.images = 0
        self.skips = Skips(device)
        self._names: tuple[str, ...] = ()
        self._sums = torch.zeros(0, dtype=torch.float64, device=device)

    def reset(self) -> None:
        """Begin a new epoch, whose sums lie where the last one's did."""
        self.steps = 0
        self.images = 0
        self._sums.zero_()
        self.skips.reset()

    def add(self, figures: Mapping[str, Tensor], *, images: int, applied: Tensor | None = None) -> None:
        """Add one step.

        Args:
            figures: from :func:`sums`; summed over the parts of the step, where it has several.
            images: how many images the step had.
            applied: whether the step was applied, 0-dim bool; None: it was.
        """
        self.accumulate(figures, applied=applied)
        self.count(images)

    def accumulate(self, figures: Mapping[str, Tensor], *, applied: Tensor | None = None) -> None:
        """Add the figures of one step on the device, in place, so that a GPU can capture it.

        Args:
            figures: see :meth:`add`.
            applied: see :meth:`add`.
        """
        known = set(self._names)
        if not figures.keys() <= known or (not self.steps and figures.keys() != known):
            self._rename({**dict.fromkeys(self._names if self.steps else ()), **figures})
        zero = self._sums.new_zeros(())
        values = torch.stack([figures.get(name, zero).detach().double() for name in self._names])
        self._sums += values if applied is None else torch.where(applied, values, zero)

    def count(self, images: int) -> None:
        """Note on the host that one step of this many images was done."""
        self.steps += 1
        self.images += images

    def untouched(self) -> Callable[[], None]:
        """Note the sums, and return what puts them back in place; those that are new by then become 0."""
        known = dict(zip(self._names, self._sums.clone().unbind(), strict=True))
        skips = self.skips.untouched()

        def put_back() -> None:
            skips()
            for name, value in zip(self._names, self._sums.unbind(), strict=True):
                value.copy_(known[name]) if name in known else value.zero_()

        return put_back

    def begin(self) -> "Reading":
        """Begin to read the epoch's figures so far; on a GPU the sums are still on their way when this returns."""
        names = self._names if self.steps else ()
        sums = self._sums if self.steps else self._sums[:0]
        values, event = _to_host(torch.cat([sums, self.skips.counts.to(sums.dtype)]))
        return Reading(names, values, event, steps=self.steps, images=self.images)

    def read(self) -> dict[str, float]:
        """Wait for the device and return the epoch's figures so far; see :meth:`Reading.figures`."""
        return self.begin().figures()

    def state_dict(self) -> dict[str, Any]:
        """Return everything, for a checkpoint."""
        values = zip(self._names, self._sums.cpu().clone().unbind(), strict=True)
        sums = dict(values) if self.steps else {}
        return {"steps": self.steps, "images": self.images, "sums": sums, "skips": self.skips.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint."""
        self.steps = int(state["steps"])
        self.images = int(state["images"])
        self._names = tuple(state["sums"])
        self._sums = torch.zeros(len(self._names), dtype=torch.float64, device=self._device)
        if self._names:
            self._sums += torch.stack([value.double() for value in state["sums"].values()]).to(self._device)
        if "skips" in state:  # a checkpoint of an earlier version has none
            self.skips.load_state_dict(state["skips"])

    def _rename(self, names: Mapping[str, Any]) -> None:
        """Keep sums of these names, with the values of those that are there."""
        known = dict(zip(self._names, self._sums.unbind(), strict=True)) if self.steps else {}
        zero = torch.zeros((), dtype=torch.float64, device=self._device)
        self._names = tuple(names)
        self._sums = torch.stack([known.get(name, zero) for name in self._names])


class Event(Protocol):
    """What tells whether a copy from a device has arrived; `torch.cuda.Event` is one."""

    def query(self) -> bool:
        """Whether it has."""

    def synchronize(self) -> None:
        """Wait until it has."""


class Reading:
    """The sums of an epoch as they were at one moment.

    Args:
        names: of the sums.
        values: the sums, and the counts of :class:`svdistill.training.skips.Skips`, (n + 3,), on the CPU, where they
            may be yet to arrive.
        event: tells when they have; None: they are there.
        steps: at that moment.
        images: at that moment.
    """

    def __init__(self, names: tuple[str, ...], values: Tensor, event: Event | None, *, steps: int, images: int) -> None:
        self.steps = steps
        self.images = images
        self._names = names
        self._values = values
        self._event = event

    @property
    def ready(self) -> bool:
        """Whether :meth:`figures` would return at once."""
        return self._event is None or self._event.query()

    @property
    def in_a_row(self) -> int:
        """How many of the latest steps were not applied; waits for the device."""
        return self._wait()[1][1]

    @property
    def skipped(self) -> int:
        """How many of the epoch's steps were not applied; waits for the device."""
        return self._wait()[1][2]

    def figures(self) -> dict[str, float]:
        """Wait for the sums and return the figures; {} before the first step of an epoch.

        Returns:
            ``loss`` and ``transfer`` (means over the steps), ``train_accuracy`` (0 to 1, of the network as it was in
            each step), ``set_aside`` (a count) and the other figures of health (means over the samples), all over the
            steps that were applied; ``skipped``, how many were not, where there are any. A loss that was not finite in
            a step that was applied makes its mean not finite.
        """
        sums, (_, _, skipped) = self._wait()
        figures: dict[str, float] = {}
        for name, value in sums.items():
            if name in ("loss", "transfer"):
                figures[name] = value / (self.steps - skipped) if self.steps > skipped else math.nan
            elif name == "train_accuracy":
                figures[name] = value / max(1, sums["labelled"])
            elif name == "set_aside":
                figures[name] = int(value)
            elif name != "labelled" and not name.endswith(" weight"):
                weight = sums[f"{name} weight"]
                figures[name] = value / weight if weight else math.nan
        return {**figures, "skipped": skipped} if skipped else figures

    def _wait(self) -> tuple[dict[str, float], tuple[int, int, int]]:
        """Wait for the values, and return the sums by name, and the counts of steps, in a row and skipped."""
        if self._event is not None:
            self._event.synchronize()
        *sums, step, row, skipped = self._values.tolist()
        return dict(zip(self._names, sums, strict=True)), (int(step), int(row), int(skipped))


def _to_host(values: Tensor) -> tuple[Tensor, Event | None]:
    """Return values on the CPU; from a GPU they are copied behind what it still has to do, and nobody waits for it."""
    if values.device.type != "cuda":
        return values.to("cpu", copy=True), None
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event
