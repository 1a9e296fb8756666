"""Follow a pickle's instructions without doing what they ask for.

A pickle is a program: it can name any function of any module and have it called, nest its values so deeply that
Python's own reader crashes, or let a few of them stand for endlessly many. Here its instructions are followed one by
one, and what they ask for is noted: nothing that it names is imported, and nothing is called.
"""

import os
import pickletools
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

# CIFAR-100's largest file has some 300,000 instructions, the checkpoint of a large network some 100,000.
_MOST_INSTRUCTIONS = 2_000_000

# Modules whose names a file of torch may hold: tensors, and the containers that they lie in.
TENSORS = frozenset({"torch", "torch._utils", "collections", "_codecs"})
_LONGEST_NAME = 100

# What instructions that do not belong together may raise, besides `ForbiddenNameError`.
WRONG = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class ForbiddenNameError(Exception):
    """A pickle that names something it should not."""


class Name(NamedTuple):
    """A name in a module."""

    module: str
    name: str


class Call:
    """What a pickle wants called, with what, and what it wants to give to the result: a state, keys and values.

    Attributes:
        function: what is to be called; None for what the archive around the pickle holds.
        arguments: of the call.
        state: None where there is none.
        entries: keys and values.
    """

    def __init__(self, function: Name | None, arguments: tuple[Any, ...]) -> None:
        self.function, self.arguments = function, arguments
        self.state: Any = None
        self.entries: dict[Any, Any] = {}


_ENCODE = Name("_codecs", "encode")  # by which Python 3 writes bytes into old kinds of pickles
_MARK = object()

_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # of Python 2: bytes
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def follow(content: bytes, *, allows: Callable[[Name], bool], outside: bool = False) -> Any:
    """Follow a pickle's instructions and return what they leave.

    Args:
        content: the pickle.
        allows: whether it may name this.
        outside: whether it may ask for what the archive around it holds.

    Returns:
        Numbers, texts, bytes, lists, tuples, dictionaries with texts, bytes or whole numbers as keys, and a `Call` for
        all that would have had to be made by a call.

    Raises:
        ForbiddenNameError: it names something else, or asks for something else than values and calls.
        ArithmeticError, AttributeError, LookupError, TypeError, ValueError: it is damaged; see `WRONG`.
    """
    return _Machine(allows, outside=outside).run(content)


def follow_archive(path: str | os.PathLike[str], *, allows: Callable[[Name], bool]) -> Any:
    """Follow the pickle in an archive of the form that torch writes.

    torch's own reader of weights runs no code either, but takes minutes over the message on a name that is long, or on
    a value that stands for endlessly many others, and believes what is packed.

    Args:
        path: the file.
        allows: whether it may name this; a name that is long is never allowed.

    Returns:
        As ``follow``.

    Raises:
        ForbiddenNameError: see ``follow``.
        zipfile.BadZipFile, OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError: it is damaged,
            or of another form.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [one.filename for one in members]
        if len(set(names)) < len(names) or any(one.compress_type != zipfile.ZIP_STORED for one in members):
            raise ValueError("an archive of another form")
        (pickled,) = (one for one in members if one.filename.endswith("/data.pkl"))
        content = archive.read(pickled)
    return follow(content, allows=lambda name: len(name.name) <= _LONGEST_NAME and allows(name), outside=True)


class _Machine:
    """A pickle's stack and memory."""

    def __init__(self, allows: Callable[[Name], bool], *, outside: bool) -> None:
        self._allows = allows
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
            **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda _: self._call(*self._take(2))),
            "BUILD": lambda _: self._build(*self._take(1)),
            "MEMOIZE": lambda _: self._put(len(self._memory)),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self._get),
            **dict.fromkeys(("PROTO", "FRAME"), lambda _: None),
        }
        if outside:
            self._actions["BINPERSID"] = lambda _: self._stack.append(Call(None, tuple(self._take(1))))

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
                raise ForbiddenNameError(f"what the instruction {name} asks for")
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
        target = target.entries if isinstance(target, Call) else target
        if type(target) is not dict:
            raise TypeError(f"a {type(target).__name__} in place of a dictionary")
        _entered(target, values)

    def _name(self, module: Any, name: Any) -> None:
        found = Name(module, name)
        if not (isinstance(module, str) and isinstance(name, str) and self._allows(found)):
            raise ForbiddenNameError(
                f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "nothing"
            )
        self._stack.append(found)

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Name) or type(arguments) is not tuple:
            raise TypeError("a call of what cannot be called")
        if function != _ENCODE:
            self._stack.append(Call(function, arguments))
            return
        text = arguments[0] if arguments else None
        if not isinstance(text, str):
            raise TypeError(f"a {type(text).__name__} in place of a text")
        self._stack.append(text.encode("latin-1"))

    def _build(self, state: Any) -> None:
        target = self._top()
        if not isinstance(target, Call):
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
