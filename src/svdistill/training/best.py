"""The weights of the best epoch so far, kept beside those that go on learning."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class BestWeights:
    """What a model had learnt by its best epoch.

    Args:
        model: whose state is kept.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._state: dict[str, Any] = {}

    def keep(self) -> None:
        """Keep the model's state as it is now, on the CPU, in place of what was kept before."""
        self._state = {
            name: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
            for name, value in self._model.state_dict().items()
        }

    def hand_over(self) -> None:
        """Give the model the state that was kept; nothing where none was."""
        if self._state:
            self._model.load_state_dict(self._state)

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept, for a checkpoint; {} before the first time."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint.

        Raises:
            ValueError: it is of another model.
        """
        if state and _shapes(state) != _shapes(self._model.state_dict()):
            raise ValueError("its best weights are of another model")
        self._state = dict(state)


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.shape if isinstance(value, Tensor) else None for name, value in state.items()}
