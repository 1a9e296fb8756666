"""The logits in what a network returns, which need not be a tensor."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from torch import Tensor

from svdistill.errors import ShapeError, nearest


def find_logits(output: Any, name: str | int | None = None, *, who: str = "network") -> Tensor:
    """Return the logits of a network's output.

    A tensor is taken as it is: some networks return more than that in train mode only. Of a dict, a named tuple, a
    dataclass or any other object it is what is called ``logits``; else, of a dict, a tuple or a list, the only tensor
    (B, classes) in it, or what is called ``pooler_output``: of a network without a classifier, the features.

    Args:
        output: what the network returned.
        name: which part of it the logits are: a key, an attribute, or a position, from 0, or from the end below 0.
            None = see above.
        who: whose output it is, for the message.

    Returns:
        The logits, (B, classes).

    Raises:
        ShapeError: there is no such part, or it is not a tensor; or no name is given and there is no telling.
    """
    if isinstance(output, Tensor):
        return output
    if name is not None:
        return _part(output, name, who)
    match output:
        case {"logits": _} | object(logits=_):
            return _part(output, "logits", who)
        case {"pooler_output": Tensor() as pooled}:  # (B, D), or as a map of one position
            return pooled.flatten(1)
    parts = _parts(output)
    # A list of one class each, and maps beside the logits, have other shapes.
    found = [part for part in parts.values() if isinstance(part, Tensor) and part.ndim == 2]
    if len(found) == 1 and found[0].is_floating_point():
        return found[0]
    many = f", {len(found)} of them (B, classes) by their shape" if found else ""
    raise ShapeError(
        f"the {who} gives {_described(output, parts)}{many}; say which part the logits are: "
        f"{who}_output={next(iter(parts), 'logits')!r}, for instance"
    )


def _parts(output: object) -> Mapping[str | int, object]:
    if isinstance(output, Mapping):
        return output
    return dict(enumerate(output)) if isinstance(output, tuple | list) else {}


def _part(output: object, name: str | int, who: str) -> Tensor:
    try:
        part = output[name] if isinstance(name, int) or isinstance(output, Mapping) else attrgetter(name)(output)  # type: ignore[index]
    except (LookupError, AttributeError, TypeError) as error:
        known = [str(key) for key in _parts(output)]
        raise ShapeError(
            f"{who}_output is {name!r}, but the {who} gives {_described(output, _parts(output))}"
            f"{nearest(str(name), known)}"
        ) from error
    if not isinstance(part, Tensor):
        raise ShapeError(f"{who}_output {name!r} is a {type(part).__name__}, expected a tensor (B, classes)")
    return part


def _described(output: object, parts: Mapping[str | int, object]) -> str:
    if not parts:
        return f"a {type(output).__name__}"
    shown = ", ".join(f"{key!r}: {_kind(part)}" for key, part in list(parts.items())[:6])
    return f"a {type(output).__name__} ({shown}{', …' if len(parts) > 6 else ''})"


def _kind(part: object) -> str:
    return str(tuple(part.shape)) if isinstance(part, Tensor) else type(part).__name__
