"""JSON and YAML from disk as plain values, within bounds: no text makes reading it long, large or deep.

Each function raises ValueError with a short reason; who calls it knows the file and says what to do.
"""

import errno
import json
import os
import re
import stat
from typing import Any, NamedTuple

import yaml

try:
    from yaml import CSafeLoader as FastLoader  # ten times as fast, where PyYAML has it
except ImportError:
    from yaml import SafeLoader as FastLoader  # type: ignore[assignment]

# Each is far beyond what a run or a recipe holds, and far below what harms a process.
MAX_DEPTH = 32
MAX_JSON = 32 << 20  # characters
MAX_YAML = 1 << 18
MAX_SCALAR = 10_000  # characters of one YAML value: a long whole number is quadratic work
MAX_VALUES = 100_000  # of one YAML text, each alias counted as often as what it stands for
_MAX_DIGITS = 18

# A text that does not end is passed over to the end: else each of its quotes would be tried as a beginning.
_NESTING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a file of at most `MAX_JSON` bytes of UTF-8.

    Raises:
        OSError: it cannot be read, or is no file: a pipe would be waited for.
        ValueError: it is too long, or not UTF-8.
    """
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "not a file")
    if about.st_size > MAX_JSON:
        raise ValueError(f"longer than {MAX_JSON:,} bytes")
    with open(path, "rb") as file:
        return file.read(MAX_JSON + 1).decode()


def parse_json(text: str | bytes) -> Any:
    """Read a JSON text.

    Args:
        text: at most ``MAX_JSON`` long; bytes are UTF-8.

    Returns:
        Dictionaries, lists, texts, numbers of at most 18 digits, booleans, None.

    Raises:
        ValueError: it is not JSON, or too long, nested too deeply, or of numbers or texts that JSON should not hold.
    """
    if len(text) > MAX_JSON:
        raise ValueError(f"longer than {MAX_JSON:,} characters")
    text = text.decode() if isinstance(text, bytes) else text
    _check_depth(text)
    value = _DECODER.decode(text)
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # half a character cannot be written again
    return value


def parse_yaml(text: str, loader: type[yaml.SafeLoader | yaml.CSafeLoader] = FastLoader) -> Any:
    """Read a YAML text.

    Args:
        text: at most ``MAX_YAML`` characters.
        loader: which makes values of it; one that is safe.

    Raises:
        ValueError: it is not YAML, names a value that cannot be made, or is too long, too deep or too large.
    """
    if len(text) > MAX_YAML:
        raise ValueError(f"longer than {MAX_YAML:,} characters")
    try:
        _check_events(text)
        return yaml.load(text, loader)
    # PyYAML's own makers of numbers, dates and the like let the errors of what they call through.
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for found in _NESTING.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS + 1:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


_DECODER = json.JSONDecoder(parse_int=_integer, parse_constant=_constant)


class _Collection(NamedTuple):
    """A list or mapping of a YAML text: what it holds once its aliases are filled in, itself included."""

    values: int
    height: int


def _check_events(text: str) -> None:
    """Count what a text would become before any of it is made; PyYAML's parser itself keeps no stack of calls."""
    known: dict[str, _Collection] = {}
    begun: list[str | None] = []  # the anchors of the collections that are open, the outermost first
    counts = [_Collection(0, 0)]  # what the text, and each open collection, holds so far
    for event in yaml.parse(text, FastLoader):
        one = _Collection(1, 0)
        if isinstance(event, yaml.CollectionStartEvent):
            begun.append(event.anchor)
            counts.append(_Collection(0, 0))
            one = _Collection(0, 0)
        elif isinstance(event, yaml.CollectionEndEvent):
            inside, anchor = counts.pop(), begun.pop()
            one = _Collection(inside.values + 1, inside.height + 1)
            if anchor is not None:
                known[anchor] = one
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in begun:
                raise ValueError(f"*{event.anchor} stands inside what it stands for")
            one = known.get(str(event.anchor), one)
        elif isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_SCALAR:
            raise ValueError(f"a value of {len(event.value):,} characters")
        counts[-1] = _Collection(counts[-1].values + one.values, max(counts[-1].height, one.height))
        if len(begun) + counts[-1].height > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        if counts[-1].values > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values")
