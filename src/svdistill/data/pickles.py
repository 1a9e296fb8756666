"""Pickled dictionaries of arrays, read without running anything that a file names."""

import pickletools
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from svdistill.errors import DataError, one_line

# CIFAR-100's largest file has some 300,000 instructions.
_MOST_INSTRUCTIONS = 2_000_000

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def read_pickle(content: bytes, source: str) -> dict[bytes | str, Any]:
    """Read a pickled dictionary of numbers, texts, lists and uint8 arrays.

    A pickle is a program: it can name any function of any module and have it called, nest its values so deeply that
    Python's own reader crashes, or let a few of them stand for endlessly many. Here its instructions are followed one
    by one, and what they ask for is noted, not done: it can name just what stands in pickled NumPy arrays, which are
    made at the end, from what was noted. Any other name ends the reading.

    Args:
        content: the bytes of the file.
        source: the file's name, for messages.

    Returns:
        The dictionary; its keys are bytes, texts or numbers, byte strings of Python 2 are bytes, arrays are uint8
        `numpy.ndarray`. What stands in lists is as it came: whoever uses it checks it.

    Raises:
        DataError: the content is damaged, names something else, or is not a dictionary.
    """
    try:
        result = _Machine().run(content)
        if not isinstance(result, dict):
            raise DataError(f"{source} holds a pickled {type(result).__name__}, expected a dictionary; get it again")
        return {key: _array(value) if isinstance(value, _Call) else value for key, value in result.items()}
    except _ForbiddenError as error:
        raise DataError(
            f"{source} names {_short(error)}, which has no place in it; nothing was run; get it again"
        ) from error
    # A damaged pickle can fail in any of these ways, by its own instructions.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{source} is not a readable pickle ({type(error).__name__}: {_short(error)}); get it again"
        ) from error


def _short(error: Exception) -> str:
    return one_line(error)[:200]


class _ForbiddenError(Exception):
    """A pickle that names something it should not."""


class _Global(NamedTuple):
    """A name in a module."""

    module: str
    name: str


class _Call:
    """What a pickle wants called, with what, and the state that it wants to give to the result."""

    def __init__(self, function: _Global, arguments: tuple[Any, ...]) -> None:
        self.function, self.arguments = function, arguments
        self.state: Any = None


_ENCODE = _Global("_codecs", "encode")  # by which Python 3 writes bytes into old kinds of pickles
_DTYPE = _Global("numpy", "dtype")
_ARRAY = _Global("numpy", "ndarray")
_MAKERS = (_Global("numpy.core.multiarray", "_reconstruct"), _Global("numpy._core.multiarray", "_reconstruct"))
_KNOWN = {_ENCODE, _DTYPE, _ARRAY, *_MAKERS}
_MARK = object()

_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # of Python 2: bytes
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """A pickle's stack and memory."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memory: dict[int, Any] = {}
        self._actions: dict[str, Callable[[Any], object]] = {
            "MARK": lambda _: self._stack.append(_MARK),
            "POP": lambda _: self._take(1),
            "POP_MARK": lambda _: self._marked(),
            "DUP": lambda _: self._stack.append(self._top()),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "LIST": lambda _: self._stack.append(self._marked()),
            "APPEND": lambda _: self._extend(self._take(1)),
            "APPENDS": lambda _: self._extend(self._marked()),
            "TUPLE": lambda _: self._stack.append(tuple(self._marked())),
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "DICT": lambda _: self._stack.append(_entered({}, self._marked())),
            "SETITEM": lambda _: self._set(self._take(2)),
            "SETITEMS": lambda _: self._set(self._marked()),
            "GLOBAL": lambda name: self._name(*name.split(" ", 1)),
            "STACK_GLOBAL": lambda _: self._name(*self._take(2)),
            "REDUCE": lambda _: self._call(*self._take(2)),
            "BUILD": lambda _: self._build(*self._take(1)),
            "MEMOIZE": lambda _: self._put(len(self._memory)),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self._get),
            **dict.fromkeys(("PROTO", "FRAME"), lambda _: None),
        }

    def run(self, content: bytes) -> Any:
        """Follow the instructions and return what they leave."""
        for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
            name = operation.name
            if number > _MOST_INSTRUCTIONS:
                raise ValueError(f"more than {_MOST_INSTRUCTIONS:,} instructions")
            if name == "STOP":
                (result,) = self._take(1)
                return result
            if name in _ARGUMENTS:
                self._stack.append(argument)
            elif name in _STRINGS:
                self._stack.append(str(argument).encode("latin-1"))
            elif name in _VALUES:
                self._stack.append(_VALUES[name])
            elif name in _TUPLES:
                self._stack.append(tuple(self._take(_TUPLES[name])))
            elif name in self._actions:
                self._actions[name](argument)
            else:
                raise _ForbiddenError(f"what the instruction {name} asks for")
        raise ValueError("it does not end")

    def _top(self) -> Any:
        return self._stack[-1]

    def _take(self, number: int) -> list[Any]:
        if number > len(self._stack):
            raise IndexError("too few values")
        taken = self._stack[len(self._stack) - number :]
        del self._stack[len(self._stack) - number :]
        if any(value is _MARK for value in taken):
            raise ValueError("a mark in place of a value")
        return taken

    def _marked(self) -> list[Any]:
        """Take all values down to the last mark, and the mark."""
        at = next((i for i in reversed(range(len(self._stack))) if self._stack[i] is _MARK), None)
        if at is None:
            raise IndexError("no mark")
        taken = self._stack[at + 1 :]
        del self._stack[at:]
        return taken

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise TypeError(f"a {type(target).__name__} in place of a list")
        target.extend(values)

    def _set(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not dict:
            raise TypeError(f"a {type(target).__name__} in place of a dictionary")
        _entered(target, values)

    def _name(self, module: Any, name: Any) -> None:
        found = _Global(module, name)
        if not (isinstance(module, str) and isinstance(name, str) and found in _KNOWN):
            raise _ForbiddenError(
                f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "nothing"
            )
        self._stack.append(found)

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, _Global) or type(arguments) is not tuple:
            raise TypeError("a call of what cannot be called")
        if function != _ENCODE:
            self._stack.append(_Call(function, arguments))
            return
        text = arguments[0] if arguments else None
        if not isinstance(text, str):
            raise TypeError(f"a {type(text).__name__} in place of a text")
        self._stack.append(text.encode("latin-1"))

    def _build(self, state: Any) -> None:
        target = self._top()
        if not isinstance(target, _Call):
            raise TypeError(f"a state for a {type(target).__name__}")
        target.state = state

    def _put(self, number: int) -> None:
        self._memory[number] = self._top()

    def _get(self, number: int) -> None:
        self._stack.append(self._memory[number])


def _entered(target: dict[Any, Any], values: list[Any]) -> dict[Any, Any]:
    """Enter keys and values, one after the other, into a dictionary: texts and numbers alone are keys."""
    if len(values) % 2:
        raise ValueError("a key without a value")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, str | bytes | int):
            raise TypeError(f"a {type(key).__name__} as a key")
        target[key] = value
    return target


def _array(call: _Call) -> Pixels:
    """Make a real array of what was noted: (version, shape, dtype, column order, bytes)."""
    if call.function not in _MAKERS or type(call.state) is not tuple or len(call.state) != 5:
        raise ValueError("an object that is not an array")
    _, shape, dtype, fortran, content = call.state
    kind = dtype.arguments[0] if isinstance(dtype, _Call) and dtype.function == _DTYPE and dtype.arguments else None
    kind = kind.decode("latin-1") if isinstance(kind, bytes) else kind
    if kind != "u1" or fortran or not isinstance(content, bytes):
        named = kind if isinstance(kind, str) else type(kind).__name__
        raise ValueError(f"an array of {named[:20]!r}, expected unsigned bytes in row order")
    sizes = type(shape) is tuple and len(shape) <= 8 and all(type(size) is int and size >= 0 for size in shape)
    if not sizes or prod(shape) != len(content):
        shown = shape if sizes else type(shape).__name__
        raise ValueError(f"an array of shape {shown} with {len(content)} bytes")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
