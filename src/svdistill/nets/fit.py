"""Weights by name, fitted to a network whatever wrappers have put before and into their names."""

import re
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from torch import Tensor, nn

from svdistill.errors import CheckpointError, SvdistillWarning

State = dict[str, Tensor]

# What stands as a word in the names of averaged weights, and not as a part of one: not the ema in semantic.
_AVERAGED = re.compile(r"(?<![a-z])(ema|swa|averag[a-z]*)(?![a-z])", re.IGNORECASE)
# What wrappers put into names, wherever it stands.
_INFIXES = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# Of the wrapper itself, not of the network in it.
_OF_WRAPPERS = frozenset({"n_averaged"})
_SHOWN = 2


def fit(model: nn.Module, state: Mapping[str, Tensor], *, what: str, num_classes: int | None = None) -> tuple[str, ...]:
    """Load weights into a network, whatever their names are prefixed with; all must fit, or none is loaded.

    Args:
        model: the network.
        state: the weights.
        what: where they come from, for messages.
        num_classes: the network's; then a last layer of another number of classes is left as it is in the network.

    Returns:
        The names of what was left.

    Raises:
        CheckpointError: something is missing, unknown, of another shape or not a number.
    """
    expected = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    found = _under_prefix(state, expected, what)
    left = () if num_classes is None else _other_classes(found, expected, num_classes)
    kept = {key: value for key, value in found.items() if key not in left}
    # A count that only a batch norm without momentum reads; old files lack it.
    absent = {key for key in expected.keys() - kept.keys() - set(left) if not key.endswith("num_batches_tracked")}
    if wrong := _difference(kept, expected, absent):
        raise CheckpointError(f"{what} does not fit the network: {wrong}")
    if broken := [key for key, value in kept.items() if value.is_floating_point() and value.float().isnan().any()]:
        raise CheckpointError(
            f"{what} holds NaN in {_some(broken)}, as of a training that diverged; give other weights"
        )
    model.load_state_dict(kept, strict=False)
    return left


def _under_prefix(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> State:
    """Return the weights without what wrappers have put before and into their names."""
    plain: State = {}
    for key, value in state.items():
        for infix in _INFIXES:
            key = key.replace(infix, "")
        if key not in _OF_WRAPPERS:
            plain[key] = value
    ranked: dict[tuple[int, bool], list[str]] = {}
    for prefix in sorted({"", *_prefixes(plain, expected)}):
        fitting = sum(prefix + key in plain for key in expected)
        ranked.setdefault((fitting, averaged(prefix)), []).append(prefix)
    most = max(ranked)
    best, *others = ranked[most]
    if others and most[0]:
        raise CheckpointError(
            f"{what} holds several networks of this kind, under {' and '.join((best, *others))}; save one of them alone"
        )
    if most[1] and (raw := ranked.get((most[0], False))):
        beside = f"others under {raw[0]}" if raw[0] else "others"
        warnings.warn(
            f"{what} holds averaged weights under {best} and {beside}; the averaged ones are taken",
            SvdistillWarning,
            stacklevel=2,
        )
    return {key[len(best) :]: value for key, value in plain.items() if key.startswith(best)}


def averaged(name: str) -> bool:
    """Tell whether a name says that the weights under it are an average (EMA, SWA) of those of several steps."""
    return _AVERAGED.search(name) is not None


def _prefixes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> set[str]:
    """Return what stands in front of the network's names in a file."""
    # A long name is a rare one, and one of them is enough.
    for name in sorted(expected, key=len, reverse=True):
        if found := {key.removesuffix(name) for key in state if key.endswith(f".{name}")}:
            return found
    return set()


def _other_classes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], num_classes: int) -> tuple[str, ...]:
    """Return the names of the last layer where it is of another number of classes; () where all fits."""
    wrong = [key for key, value in found.items() if key in expected and value.shape != expected[key].shape]
    if not wrong:
        return ()
    of_classes = [
        key
        for key in wrong
        if expected[key].ndim
        and expected[key].shape[0] == num_classes != found[key].shape[:1].numel()
        and expected[key].shape[1:] == found[key].shape[1:]
    ]
    theirs = {found[key].shape[0] for key in of_classes}
    return tuple(of_classes) if len(of_classes) == len(wrong) and len(theirs) == 1 else ()


def _difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], absent: set[str]) -> str:
    """Say in one line what does not fit, and what was nearest; empty where all does."""
    unknown = [key for key in found if key not in expected]
    shapes = [
        f"{key} is {tuple(found[key].shape)} there and {tuple(value.shape)} here"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    parts = []
    missing = [key for key in expected if key in absent]
    if missing:
        near = get_close_matches(missing[0], unknown, n=1, cutoff=0.5)
        meant = f" (is {near[0]!r} the first of them?)" if near else ""
        parts.append(f"it lacks {_some(missing)} of {len(expected)}{meant}")
    if unknown:
        parts.append(f"it has {_some(unknown)} that the network has not")
    if shapes:
        parts.append("; ".join(shapes[:_SHOWN]) + (f" (and {len(shapes) - _SHOWN} more)" if shapes[_SHOWN:] else ""))
    return "; ".join(parts)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else "")
