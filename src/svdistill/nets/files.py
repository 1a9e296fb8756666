"""A network's weights on disk, with what is needed to build it again."""

import hashlib
import json
import mmap
import os
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from svdistill import checksums
from svdistill.atomic import replacing
from svdistill.errors import CheckpointError, OptionError, one_line
from svdistill.nets import foreign
from svdistill.nets.zoo import create
from svdistill.plain import parse_json

_FORMAT_KEY = "svdistill_format"
_FORMAT = "1"
# Of the rest of the header, as `_text` writes it, and of the tensors; files of an earlier version have none.
_CHECKSUM_KEY = "svdistill_sha256"
# What `create` needs, and how each is read back from a string.
_SPEC = {"name": str, "num_classes": int, "in_channels": int, "width": float}
# The rest of it, as JSON; only where there are any.
_ARGUMENTS_KEY = "arguments"


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    name: str,
    num_classes: int,
    in_channels: int,
    width: float,
    arguments: Mapping[str, Any] | None = None,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write a network as one safetensors file that `load` rebuilds.

    The file appears whole or not at all: it is written under another name and then renamed. The same network with the
    same settings gives the same bytes. One of its strings is a checksum of all the rest, which is compared when it is
    read.

    Args:
        model: the network, as `create` made it from the same four settings.
        path: the file to write; one that exists is replaced.
        name: as in `create`; for a class of your own ``package.module:callable``, which is called here.
        num_classes: as in `create`.
        in_channels: as in `create`.
        width: as in `create`.
        arguments: as in `create`; what JSON can hold.
        extra: further strings to keep beside the weights, for instance class names as JSON.

    Raises:
        CheckpointError: the model is not what the settings build, or a key of `extra` is taken.
        OptionError: the settings do not build a network.
    """
    tensors, settings = packed(
        model, name=name, num_classes=num_classes, in_channels=in_channels, width=width, arguments=arguments
    )
    extra = dict(extra or {})
    taken = sorted(extra.keys() & {*_SPEC, _ARGUMENTS_KEY, _FORMAT_KEY, _CHECKSUM_KEY})
    if taken:
        raise CheckpointError(f"extra must not have the keys {taken}, which describe the model; rename them")
    described = {key: value if isinstance(value, str) else str(value) for key, value in settings.items()}
    if _ARGUMENTS_KEY in settings:
        described[_ARGUMENTS_KEY] = json.dumps(settings[_ARGUMENTS_KEY], sort_keys=True)
    metadata = {_FORMAT_KEY: _FORMAT, **described, **extra}
    content = memoryview(safetensors.torch.save(tensors, metadata))
    header, rest = _split(content)
    header["__metadata__"][_CHECKSUM_KEY] = _checksum(header, rest)
    text = _text(header)
    text += b" " * (-len(text) % 8)  # the format wants the tensors to begin at a multiple of 8
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(rest)


def packed(
    model: nn.Module,
    *,
    name: str,
    num_classes: int,
    in_channels: int,
    width: float,
    arguments: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a network's tensors, and the settings that describe it, as `save` writes them.

    Args:
        model: as for `save`.
        name: as for `save`.
        num_classes: as for `save`.
        in_channels: as for `save`.
        width: as for `save`.
        arguments: as for `save`.

    Raises:
        CheckpointError: the model is not what the settings build, or holds what a file cannot.
        OptionError: the settings do not build a network.
    """
    name, arguments = foreign.portable(
        name, model, num_classes=num_classes, in_channels=in_channels, arguments=arguments or {}
    )
    settings: dict[str, Any] = {"name": name, "num_classes": num_classes, "in_channels": in_channels, "width": width}
    if arguments:
        settings[_ARGUMENTS_KEY] = _plain(arguments)
    state = model.state_dict()
    odd = next((key for key, value in state.items() if not isinstance(value, Tensor)), None)
    if odd is not None:
        raise CheckpointError(
            f"{name!r} keeps a {type(state[odd]).__name__} in its state, {odd}; only tensors are saved"
        )
    # Whoever saves a class of his own has run its code.
    skeleton = _skeleton(settings, allow_code=True)
    if lazy := next((key for key, one in skeleton.named_parameters() if is_lazy(one)), None):
        raise CheckpointError(f"{name!r} has no shape for {lazy} before it runs; run it once where it is made")
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    if wrong := _difference(skeleton, tensors):
        raise CheckpointError(
            f"the model to be saved is not a {name!r} of these settings: {wrong}; nothing was written"
        )
    return _apart(tensors), settings


def drawn(model: nn.Module, settings: Mapping[str, Any]) -> str | None:
    """Return a tensor that a network keeps out of its state, and that is another one each time it is built.

    Args:
        model: a network that has not been trained.
        settings: that it is built of, as `packed` returns them.

    Returns:
        Its dotted name; None where there is none.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + 1)
        again = dict(_unsaved(_skeleton(settings, allow_code=True)))
    # What a pass has left behind, an attention map for instance, is not there in one that has just been built.
    both = ((name, value.cpu(), again[name]) for name, value in _unsaved(model) if name in again)
    return next(
        (name for name, value, other in both if value.shape == other.shape and not torch.equal(value, other)), None
    )


def _unsaved(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what a network holds beside its state: buffers that are not saved, and tensors that are attributes."""
    for prefix, module in model.named_modules():
        buffers = {key: module._buffers[key] for key in module._non_persistent_buffers_set}
        for key, value in {**buffers, **vars(module)}.items():
            if isinstance(value, Tensor):
                yield f"{prefix}.{key}" if prefix else key, value


def load(path: str | os.PathLike[str], *, allow_code: bool = False) -> nn.Module:
    """Build the network that `save` wrote and load its weights; no code from the file runs.

    Args:
        path: the file.
        allow_code: whether the code that the file names, a class of somebody's own, may be imported and run.

    Returns:
        The network in eval mode, on the CPU. The global random numbers are left as they were.

    Raises:
        CheckpointError: the file is missing, damaged, or was not written by `save`.
        OptionError: the file names code, which may not run.
    """
    metadata, tensors = _read(path, with_tensors=True)
    if foreign.is_code(metadata["name"]) and not allow_code:
        raise OptionError(
            f"{path} is of {metadata['name']!r}, code which runs only where you allow it: --allow-code on the command "
            "line, allow_code=True in Python"
        )
    try:
        model = _skeleton(metadata, allow_code=allow_code)
    except (OptionError, TypeError, RuntimeError, OverflowError) as error:  # the last three: numbers beyond any tensor
        raise CheckpointError(
            f"{path} describes a network that this version cannot build: {one_line(error)}"
        ) from error
    wrong = _difference(model, tensors)
    if wrong:
        raise CheckpointError(f"{path} does not fit the {metadata['name']!r} that it describes: {wrong}; save it again")
    # Taken as they are, they would no longer be one where the network uses one of them twice.
    own = [*model.parameters(), *model.buffers()]
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    model.load_state_dict(tensors, assign=len(own) == len(named))
    return model.eval()


def spec(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what a file of `save` says about its network, without its weights.

    Args:
        path: the file.

    Returns:
        ``name`` (str), ``num_classes`` (int), ``in_channels`` (int), ``width`` (float), ``arguments`` (dict) where
        there are any, and the strings of ``extra`` under their own keys.

    Raises:
        CheckpointError: the file is missing, damaged, or was not written by `save`.
    """
    return _read(path, with_tensors=False)[0]


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is one that `save` wrote; a damaged one may not be told."""
    return _described_by_save(path) is True


def is_of_others(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file holds weights as torch or safetensors write them, without what `save` adds."""
    return zipfile.is_zipfile(path) or _described_by_save(path) is False


def _described_by_save(path: str | os.PathLike[str]) -> bool | None:
    """Whether the header of a safetensors file has a format of ours; None where it is none, or is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return _FORMAT_KEY in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return None


def tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, whoever wrote it; of one of `save` the checksum is compared.

    Args:
        path: the file.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    return _open(path, with_tensors=True)[1]


def _plain(arguments: Mapping[str, Any]) -> Any:
    """Return arguments as they will be read back."""
    try:
        return parse_json(json.dumps(arguments))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"arguments cannot be written as JSON ({one_line(error)}); give numbers, texts, lists; nothing was written"
        ) from error


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of which no two share memory, as the format wants them."""
    seen: set[int] = set()
    found = {}
    for key, value in tensors.items():
        where = value.untyped_storage().data_ptr()
        found[key] = value.clone() if where in seen else value
        seen.add(where)
    return found


def _split(content: memoryview) -> tuple[dict[str, Any], memoryview]:
    """Return the header of a safetensors file, read, and the bytes of its tensors."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(bytes(content[8 : 8 + length]))
    return header, content[8 + length :]


def _text(header: Mapping[str, Any]) -> bytes:
    """Return a header in one order: the library gives its strings in any."""
    ordered = {**header, "__metadata__": dict(sorted(header["__metadata__"].items()))}
    return json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()


def _checksum(header: Mapping[str, Any], tensors: memoryview) -> str:
    strings = {key: value for key, value in header["__metadata__"].items() if key != _CHECKSUM_KEY}
    digest = hashlib.sha256(_text({**header, "__metadata__": strings}))
    digest.update(tensors)
    return digest.hexdigest()


def _verify(path: str | os.PathLike[str], known: str) -> None:
    """Compare a file, in which the library has found nothing wrong, with its checksum."""
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        header, tensors = _split(memoryview(mapped))
        found = _checksum(header, tensors)
        tensors.release()  # or the file could not be closed
    if found != known:
        raise CheckpointError(
            f"{path} has changed since it was written, so its weights are not to be trusted; restore it, or call the "
            "training of its run again"
        )


def _skeleton(settings: Mapping[str, Any], *, allow_code: bool) -> nn.Module:
    build = partial(
        create,
        settings["name"],
        num_classes=settings["num_classes"],
        in_channels=settings["in_channels"],
        width=settings["width"],
        arguments=settings.get(_ARGUMENTS_KEY),
        allow_code=allow_code,
    )
    if foreign.is_foreign(settings["name"]):
        # These may hold tensors that are in no state_dict, which must be real.
        with torch.random.fork_rng(devices=[]):
            return build()
    # On the meta device nothing is allocated and no random numbers are drawn.
    with torch.device("meta"):
        return build()


def _difference(model: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """Say in a few words where tensors do not fit a model; empty where they do."""
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    for key in expected.keys() - tensors.keys():
        return f"{key} is missing"
    for key in tensors.keys() - expected.keys():
        return f"{key} is unknown to it"
    for key, shape in expected.items():
        if tuple(tensors[key].shape) != shape:
            return f"{key} has shape {tuple(tensors[key].shape)}, expected {shape}"
    return ""


def _read(path: str | os.PathLike[str], *, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    metadata, tensors, sealed = _open(path, with_tensors=with_tensors)
    version = metadata.pop(_FORMAT_KEY, None)
    if version != _FORMAT or not metadata.keys() >= _SPEC.keys():
        raise CheckpointError(
            f"{path} lacks the description of format {_FORMAT} that svdistill writes (format {version}); "
            "name a file written by svdistill.nets.save"
        )
    if not sealed:
        checksums.note_unsealed()
    try:
        described = {key: read(metadata[key]) for key, read in _SPEC.items()}
        if _ARGUMENTS_KEY in metadata:
            described[_ARGUMENTS_KEY] = parse_json(metadata[_ARGUMENTS_KEY])
            if not isinstance(described[_ARGUMENTS_KEY], dict):
                raise ValueError("its arguments have no names")
        return metadata | described, tensors
    except ValueError as error:
        raise CheckpointError(f"{path} has a damaged description ({error}); save the network again") from error


def _open(path: str | os.PathLike[str], *, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor], bool]:
    """Return the strings of a safetensors file, its tensors where they are wanted, and whether a checksum agreed."""
    if not Path(path).is_file():
        raise CheckpointError(f"no saved network at {path}; train one, or name the safetensors file of a run")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = dict(file.metadata() or {})
            known = metadata.pop(_CHECKSUM_KEY, None)
            if known is not None:
                _verify(path, known)
            found = {key: file.get_tensor(key) for key in file.keys()} if with_tensors else {}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file ({error}); name a run or its student.safetensors, or "
            "save the network again"
        ) from error
    return metadata, found, known is not None
