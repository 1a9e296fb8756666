"""What a network's file says beside its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svdistill.errors import CheckpointError
from svdistill.plain import parse_json

# What a file says as lists, and of what.
_LISTS: Mapping[str, type] = {
    **dict.fromkeys(("classes", "turned", "taps"), str),
    **dict.fromkeys(("mean", "std"), float),
    "input_size": int,
}


def told(path: Path, spec: Mapping[str, Any], key: str) -> Any:
    """Read what a network's file says beside its weights, of the keys that hold JSON.

    Args:
        path: the file, for the message.
        spec: what ``nets.spec`` returned.
        key: one of those that `metadata` writes as JSON.

    Returns:
        A tuple of texts (``classes``, ``turned``, ``taps``) or of numbers (``mean``, ``std``, ``input_size``), or a
        number (``image_size``, ``drop_tokens``, ``held_out``); None where nothing is said.

    Raises:
        CheckpointError: something else stands there.
    """
    try:
        value = parse_json(spec.get(key, "null"))
    except ValueError as error:
        raise CheckpointError(f"{path} has a damaged description ({key}: {error}); save the network again") from error
    if value is None:
        return None
    kind = _LISTS.get(key)
    if kind is not None and isinstance(value, list) and all(_is(one, kind) for one in value):
        return tuple(value)
    if kind is None and _is(value, float):
        return value
    raise CheckpointError(f"{path} has a damaged description ({key}); save the network again")


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
