"""JSON of a run as it lies in its folder: a mapping with a checksum of its own, read and written whole."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svdistill import checksums
from svdistill.errors import DataError
from svdistill.plain import parse_json, read_text

AGAIN = "call the same training again, which restores it from the run's checkpoint, or train afresh (--fresh)"
_RESTORE = "restore it, or remove the run's folder and train again"


def sealed(content: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """Return a mapping as JSON with its checksum; numbers that are not finite are null, as JSON has none."""
    text = json.dumps(finite(content), indent=indent, ensure_ascii=False, allow_nan=False)
    plain = text.encode(errors="backslashreplace")  # a name's byte that is not text, in the way that JSON writes it
    return checksums.seal(plain.decode()).encode()


def finite(value: Any) -> Any:
    """Return plain values as JSON can hold them: None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in a file; DataError where it is missing or damaged. One without a checksum is noted."""
    content, has_seal = parse(text_of(path), path)
    if not has_seal:
        checksums.note_unsealed()
    return content


def parse(text: str, path: Path, *, line: int | None = None) -> tuple[dict[str, Any], bool]:
    """Return a mapping, and whether it carried a checksum, which is compared then; DataError where it is damaged."""
    where = "" if line is None else f", line {line},"
    try:
        content = parse_json(text)
    except ValueError as error:
        raise DataError(f"{path}{where} is damaged (not JSON: {error}); {_RESTORE}") from error
    content = mapping(content, path, where)
    try:
        return content, checksums.unseal(text, content)
    except ValueError as error:
        raise DataError(f"{path}{where} is damaged ({error}); {AGAIN}") from error


def text_of(path: Path) -> str:
    """Return the text of a file; DataError where it is missing or cannot be read."""
    try:
        return read_text(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; is {path.parent} the folder of a run that got that far?") from error
    except (OSError, ValueError) as error:
        raise DataError(unreadable(path, error)) from error


def unreadable(path: Path, error: Exception) -> str:
    """Say of a file that it cannot be read, and what to do."""
    return f"{path} cannot be read ({error}); {_RESTORE}"


def mapping(content: Any, path: Path, where: str = "") -> dict[str, Any]:
    """Return what was read where it is a mapping; DataError otherwise, with the place in the file."""
    if not isinstance(content, dict):
        raise DataError(f"{path}{where} is damaged (not a mapping); {_RESTORE}")
    return content
