"""Sums over an epoch, kept on the device so that no step waits for them."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor


def sums(
    *, main: Tensor, transfer: Tensor | None, health: Mapping[str, Tensor], logits: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Bring the figures of a step, or of a part of one, into a form that only has to be summed.

    Args:
        main: the main loss, 0-dim; of a part, what it contributes to the step's.
        transfer: the transfer loss, 0-dim, or None; of a part, what it contributes to the step's.
        health: the transfer loss's figures, 0-dim; ``set_aside`` is a number of samples, others are means over the
            samples that were not set aside.
        logits: (B, classes).
        labels: (B,); below 0 for images without a label.

    Returns:
        0-dim tensors without gradient: ``loss``, ``transfer``, ``train_accuracy`` (how many are right), ``labelled``
        (of how many) and ``set_aside``; each other figure of health multiplied by its number of samples, which is
        there as ``<name> weight``.
    """
    figures = {"loss": main.detach()}
    figures["train_accuracy"] = (logits.detach().argmax(dim=1) == labels).sum()
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
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = device
        self.reset()

    def reset(self) -> None:
        """Begin a new epoch."""
        self.steps = 0
        self.images = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, figures: Mapping[str, Tensor], *, images: int) -> None:
        """Add one step.

        Args:
            figures: from :func:`sums`; summed over the parts of the step, where it has several.
            images: how many images the step had.
        """
        self.steps += 1
        self.images += images
        for name, value in figures.items():
            self._add(name, value)

    def begin(self) -> "Reading":
        """Begin to read the epoch's figures so far; on a GPU the sums are still on their way when this returns."""
        values, event = (torch.zeros(0), None) if not self._sums else _to_host(torch.stack(list(self._sums.values())))
        return Reading(tuple(self._sums), values, event, steps=self.steps, images=self.images)

    def read(self) -> dict[str, float]:
        """Wait for the device and return the epoch's figures so far; see :meth:`Reading.figures`."""
        return self.begin().figures()

    def state_dict(self) -> dict[str, Any]:
        """Return everything, for a checkpoint."""
        return {
            "steps": self.steps,
            "images": self.images,
            "sums": {name: value.cpu() for name, value in self._sums.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint."""
        self.steps = int(state["steps"])
        self.images = int(state["images"])
        self._sums = {name: value.to(self._device) for name, value in state["sums"].items()}

    def _add(self, name: str, value: Tensor) -> None:
        addend = value.detach().double()
        self._sums[name] = self._sums[name] + addend if name in self._sums else addend


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
        values: the sums, (n,), on the CPU, where they may be yet to arrive.
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

    def figures(self) -> dict[str, float]:
        """Wait for the sums and return the figures; {} before the first step of an epoch.

        Returns:
            ``loss`` and ``transfer`` (means over the steps), ``train_accuracy`` (0 to 1, of the network as it was in
            each step), ``set_aside`` (a count) and the other figures of health (means over the samples). A loss that
            was not finite in any step makes its mean not finite.
        """
        if self._event is not None:
            self._event.synchronize()
        sums = dict(zip(self._names, self._values.tolist(), strict=True))
        figures: dict[str, float] = {}
        for name, value in sums.items():
            if name in ("loss", "transfer"):
                figures[name] = value / self.steps
            elif name == "train_accuracy":
                figures[name] = value / max(1, sums["labelled"])
            elif name == "set_aside":
                figures[name] = int(value)
            elif name != "labelled" and not name.endswith(" weight"):
                weight = sums[f"{name} weight"]
                figures[name] = value / weight if weight else float("nan")
        return figures


def _to_host(values: Tensor) -> tuple[Tensor, Event | None]:
    """Return values on the CPU; from a GPU they are copied behind what it still has to do, and nobody waits for it."""
    if values.device.type != "cuda":
        return values.cpu(), None
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event
