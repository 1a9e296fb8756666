"""Feature maps of any module, by the dotted names of its submodules."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from warnings import warn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from svdistill.errors import OptionError, ShapeError, SvdistillWarning, nearest


class Taps:
    """Records the outputs of named submodules while a model runs.

    It works through forward hooks, so the model needs no change; they are removed by `close`, or at the end of a
    ``with`` block however that ends. A map is kept as it is, with its graph, so gradients flow through it. Where a
    submodule runs more than once before `collect`, its last output counts.

    Example:
        >>> with Taps(model, ["block1", "block2"]) as taps:
        ...     logits = model(images)
        ...     front, back = taps.collect()

    Args:
        model: any module.
        names: dotted names as in ``model.named_modules()``, in the order in which `collect` returns the maps.
        drop_tokens: how many tokens at the front of a (B, N, D) output are left out: 1 for a class token, which is not
            a position in the image. Outputs of other shapes stay as they are.

    Raises:
        OptionError: there are no names, the model has no submodule of a name, or drop_tokens is below 0.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], *, drop_tokens: int = 0) -> None:
        self._names = tap_names(model, names)
        if drop_tokens < 0:
            raise OptionError(f"drop_tokens is {drop_tokens}, expected 0 or more (1 for a class token)")
        self._drop_tokens = drop_tokens
        # A string stands for an output that is not a tensor; `collect` reports it.
        self._outputs: dict[str, Tensor | str] = {}
        self._handles = [self._attach(model, name) for name in dict.fromkeys(self._names)]
        self._closed = False

    @property
    def names(self) -> tuple[str, ...]:
        """The dotted names, in order."""
        return self._names

    def collect(self) -> list[Tensor]:
        """Return the outputs since the last call, in the order of the names, and forget them.

        Returns:
            One tensor a name, of whatever shape the submodule gives.

        Raises:
            ShapeError: a submodule did not run since the last call, gave something that is not a tensor, or has no
                tokens beyond those to be dropped.
        """
        outputs, self._outputs = self._outputs, {}
        maps: list[Tensor] = []
        for name in self._names:
            if name not in outputs:
                reason = "these taps are closed" if self._closed else "it did not run since the last collect"
                raise ShapeError(f"no output of tap {name!r}: {reason}; run the model once before each collect")
            output = outputs[name]
            if isinstance(output, str):
                raise ShapeError(f"tap {name!r} gave {output}, expected a tensor; tap a submodule of it instead")
            if output.ndim == 3 and self._drop_tokens:
                if output.shape[1] <= self._drop_tokens:
                    raise ShapeError(
                        f"tap {name!r} has {output.shape[1]} tokens, {self._drop_tokens} of which are to be dropped; "
                        "lower drop_tokens, so that at least one is left"
                    )
                output = output[:, self._drop_tokens :]
            maps.append(output)
        return maps

    def close(self) -> None:
        """Remove the hooks and forget what was recorded; a second call does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._outputs = {}
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _attach(self, model: nn.Module, name: str) -> RemovableHandle:
        def record(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._outputs[name] = output if isinstance(output, Tensor) else _describe(output)

        return model.get_submodule(name).register_forward_hook(record)


def run_tapped(
    model: nn.Module, names: Sequence[str], images: Tensor, *, drop_tokens: int = 0
) -> tuple[Tensor, list[Tensor]]:
    """Run a model once and return its logits and its maps; no hook is left behind.

    Args:
        model: any module.
        names: its taps, as for `Taps`; () for the logits alone.
        images: (B, C, H, W).
        drop_tokens: as for `Taps`.

    Raises:
        OptionError: the model has no submodule of a name.
        ShapeError: a submodule did not run or did not give a tensor.
    """
    if not names:
        return model(images), []
    with Taps(model, names, drop_tokens=drop_tokens) as taps:
        return model(images), taps.collect()


def warn_of_logits(names: Sequence[str], maps: Sequence[Tensor], logits: Tensor, *, who: str) -> None:
    """Warn of taps that give the network's own output, as one pass shows: student and teacher agree there too early.

    Args:
        names: the taps.
        maps: what they gave.
        logits: what the network gave for the same images.
        who: whose taps these are, for the message.
    """
    for name, one in zip(names, maps, strict=True):
        if one.shape == logits.shape and one.dtype == logits.dtype and torch.equal(one, logits):
            warn(
                SvdistillWarning(
                    f"tap {name!r} of the {who} gives the logits, which wreck training as a tap; take the last hidden "
                    "features, what the output layer reads, after their activation"
                ),
                stacklevel=1,  # the same place whoever calls, so that the same tap is warned of once
            )


def tap_names(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a model's taps, checked.

    Args:
        model: any module.
        names: dotted names as in ``model.named_modules()``.

    Raises:
        OptionError: there are no names, or the model has no submodule of a name.
    """
    known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    if isinstance(names, str):
        raise OptionError(f"taps are a list of names, but the single string {names!r} came; write [{names!r}]")
    if not names:
        raise OptionError("no taps are named; name at least one submodule, as in model.named_modules()")
    for name in names:
        if name not in known:
            raise OptionError(f"{type(model).__name__} has no submodule {name!r}{nearest(str(name), known)}")
    return tuple(names)


def _describe(output: object) -> str:
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}"
    return f"a {type(output).__name__}"
