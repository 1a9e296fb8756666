"""Feature maps of any module, by the dotted names of its submodules."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self
from warnings import warn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from svdistill.errors import OptionError, ShapeError, SvdistillWarning, nearest
from svdistill.nets.compiling import is_compiled


class TapMemory:
    """What earlier passes have shown of a network's taps, so that nothing is copied that need not be.

    Attributes:
        overwritten: those whose output a later operation changes in place, by name.
        seen: those whose output has been watched, with whether the submodule was in train mode.
    """

    def __init__(self) -> None:
        self.overwritten: set[str] = set()
        self.seen: set[tuple[str, bool]] = set()


class _Output(NamedTuple):
    """What a submodule gave.

    Attributes:
        tensor: as it was given, or a copy.
        version: of the tensor at that moment; None where it has none that could tell.
        copy: made beside it, where it is not known whether the tensor will be changed in place.
        seen: the tap, and whether the submodule was in train mode.
    """

    tensor: Tensor
    version: int | None
    copy: Tensor | None
    seen: tuple[str, bool]


class Taps:
    """Records the outputs of named submodules while a model runs.

    It works through forward hooks, so the model needs no change; they are removed by `close`, or at the end of a
    ``with`` block however that ends. A map is kept as it is, with its graph, so gradients flow through it. Where a
    submodule runs more than once before `collect`, its last output counts.

    What a later operation changes in place, an activation with ``inplace=True`` for instance, is given as the submodule
    gave it: in its first pass in train mode, and in eval mode, each output is copied, and from then on only those
    that had been changed when they were collected.

    Example:
        >>> with Taps(model, ["block1", "block2"]) as taps:
        ...     logits = model(images)
        ...     front, back = taps.collect()

    Args:
        model: any module.
        names: dotted names as in ``model.named_modules()``, in the order in which `collect` returns the maps.
        drop_tokens: how many tokens at the front of a (B, N, D) output are left out: 1 for a class token, which is not
            a position in the image. Outputs of other shapes stay as they are.
        memory: what earlier taps of the same model and names have noted; None = nothing.

    Raises:
        OptionError: names are missing, unknown or two of one submodule, or drop_tokens is below 0.
    """

    def __init__(
        self, model: nn.Module, names: Sequence[str], *, drop_tokens: int = 0, memory: TapMemory | None = None
    ) -> None:
        self._names = tap_names(model, names)
        self._model = model
        self._drop_tokens = check_drop_tokens(drop_tokens)
        self._memory = memory or TapMemory()
        # A string stands for an output that is not a tensor; `collect` reports it.
        self._outputs: dict[str, _Output | str] = {}
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
            ShapeError: a submodule did not run since the last call, gave something that is not a tensor, has no tokens
                beyond those to be dropped, or gave a tensor that was changed in place, which no pass before had shown.
        """
        outputs, self._outputs = self._outputs, {}
        return [drop_first(self._map(name, outputs.get(name)), self._drop_tokens, name=name) for name in self._names]

    def _map(self, name: str, output: _Output | str | None) -> Tensor:
        """Return what a submodule gave, as it gave it."""
        if output is None:
            raise ShapeError(f"no output of tap {name!r}: {self._why_none()}")
        if isinstance(output, str):
            raise ShapeError(f"tap {name!r} gave {output}, expected a tensor; tap a submodule of it instead")
        if output.version is not None:
            self._memory.seen.add(output.seen)
        if output.version is None or output.tensor._version == output.version:
            return output.tensor
        self._memory.overwritten.add(name)
        if output.copy is None:
            raise ShapeError(
                f"what tap {name!r} gave was changed in place by a later operation, which no pass before had shown; "
                "run the model again, which copies it from now on, or leave out inplace=True there"
            )
        return output.copy

    def _why_none(self) -> str:
        if self._closed:
            return "these taps are closed; run the model once before each collect"
        if is_compiled(self._model):
            return (
                "the model is compiled and had run before it was tapped, which it does not notice; tap it before its "
                "first pass, or call torch.compiler.reset() before the next"
            )
        return "it did not run since the last collect; run the model once before each collect"

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
        memory = self._memory

        def record(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            tensor = only_tensor(output)
            if tensor is None:
                self._outputs[name] = describe(output)
                return
            seen = (name, module.training)
            if name in memory.overwritten:
                tensor = tensor.clone()
            # What is compiled is not to change from pass to pass: there what `prepare` has seen in eval mode counts.
            wary = not torch.compiler.is_compiling() and seen not in memory.seen
            if torch.is_inference_mode_enabled():  # its tensors have no version
                self._outputs[name] = _Output(tensor.clone(), None, None, seen)
            else:
                self._outputs[name] = _Output(tensor, tensor._version, tensor.clone() if wary else None, seen)

        return model.get_submodule(name).register_forward_hook(record)


def drop_first(feature: Tensor, tokens: int, *, name: str) -> Tensor:
    """Return a (B, N, D) map without its first tokens, and any other as it is.

    Args:
        feature: the map.
        tokens: how many to leave out.
        name: of its tap, for the message.

    Raises:
        ShapeError: no token is left.
    """
    if feature.ndim != 3 or not tokens:
        return feature
    if feature.shape[1] <= tokens:
        raise ShapeError(
            f"tap {name!r} has {feature.shape[1]} tokens, {tokens} of which are to be dropped; "
            "lower drop_tokens, so that at least one is left"
        )
    return feature[:, tokens:]


def check_drop_tokens(drop_tokens: int) -> int:
    """Return how many tokens are left out, checked.

    Raises:
        OptionError: it is below 0.
    """
    if drop_tokens < 0:
        raise OptionError(f"drop_tokens is {drop_tokens}, expected 0 or more (1 for a class token)")
    return drop_tokens


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
        OptionError: there are no names, the model has no submodule of a name, or two are of one submodule.
    """
    known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    if isinstance(names, str):
        raise OptionError(f"taps are a list of names, but the single string {names!r} came; write [{names!r}]")
    if not names:
        raise OptionError("no taps are named; name at least one submodule, as in model.named_modules()")
    for name in names:
        if name not in known:
            raise OptionError(f"{type(model).__name__} has no submodule {name!r}{nearest(str(name), known)}")
    first: dict[nn.Module, str] = {}
    for name in names:
        if (other := first.setdefault(model.get_submodule(name), name)) != name:
            raise OptionError(
                f"taps {other!r} and {name!r} are one submodule of {type(model).__name__}, of which only the last "
                "output counts; name one of them, or make them modules of their own"
            )
    return tuple(names)


def only_tensor(output: object) -> Tensor | None:
    """Return the tensor that a submodule gave, alone or as all there is in a tuple, numbers aside; None if in doubt."""
    if not isinstance(output, tuple | list):
        return output if isinstance(output, Tensor) else None
    parts = [part for part in torch.utils._pytree.tree_leaves(output) if not isinstance(part, int | float | None)]
    return parts[0] if len(parts) == 1 and isinstance(parts[0], Tensor) else None


def describe(output: object) -> str:
    """Say in a word what a submodule gave that is not a tensor."""
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}"
    return f"a {type(output).__name__}"
