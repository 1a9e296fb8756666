"""An exponential moving average of what learns, kept beside it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """The average of a model's weights over the steps: w̄ ← decay · w̄ + (1 − decay) · w after each.

    It is of all parameters and of the floating buffers, such as batch norm's running statistics; counters stay the
    model's own. It begins with the weights after the first step, and nothing in it waits for the device. (Torch's
    `AveragedModel` would copy the model, hooks and all, and a number to the device in each step.)

    Args:
        model: whose parameters stay where they are from now on; a forward pass may put others in its buffers' places.
        decay: 0 < decay < 1; about 1 / (1 − decay) steps are averaged.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        state = model.state_dict(keep_vars=True)
        # A tensor that has several names is one: exchanged twice, it would not come back.
        own = {id(value): name for name, value in reversed(state.items())}
        self._places = {
            name: (place, key)
            for prefix, module in model.named_modules(remove_duplicate=False)
            for place in (module._parameters, module._buffers)
            for key, value in place.items()
            if (name := f"{prefix}.{key}".lstrip(".")) in state
            and value is not None
            and value.is_floating_point()
            and own[id(value)] == name
        }
        self._values = {name: value.detach().clone() for name, value in self._live.items()}
        self._update = get_ema_multi_avg_fn(decay)
        self._begun = False

    @property
    def _live(self) -> dict[str, Tensor]:
        """What is in the model's places now."""
        return {name: value for name, (place, key) in self._places.items() if (value := place[key]) is not None}

    def restart(self) -> None:
        """Begin again with the next step."""
        self._begun = False

    @torch.no_grad()
    def follow(self) -> None:
        """Take in the weights after a step."""
        values, live = list(self._values.values()), list(self._live.values())
        if self._begun:
            self._update(values, live, 0)
        else:
            for value, weight in zip(values, live, strict=True):
                value.copy_(weight)
        self._begun = True

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the average for a while; afterwards it has its own weights again, to the bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, weight in self._live.items():
            kept = weight.clone()
            weight.copy_(self._values[name])
            self._values[name].copy_(kept)

    @torch.no_grad()
    def hand_over(self) -> None:
        """Give the model the average for good."""
        for name, weight in self._live.items():
            weight.copy_(self._values[name])

    def state_dict(self) -> dict[str, Any]:
        """Return everything, for a checkpoint."""
        return {"begun": self._begun, "values": dict(self._values)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint.

        Raises:
            ValueError: it is of another model.
        """
        values = state["values"]
        if {name: value.shape for name, value in values.items()} != {n: v.shape for n, v in self._live.items()}:
            raise ValueError("its average is of another model")
        for name, value in values.items():
            self._values[name].copy_(value)
        self._begun = bool(state["begun"])
