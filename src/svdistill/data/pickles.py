"""Pickled dictionaries of arrays, read without running anything that a file names."""

import io
import pickle
from math import prod
from typing import Any, NoReturn

import numpy as np

from svdistill.errors import DataError


def read_pickle(content: bytes, source: str) -> dict[bytes | str, Any]:
    """Read a pickled dictionary of numbers, texts, lists and uint8 arrays.

    A pickle is a program: it can name any function of any module and have it called. Here it can name just what stands
    in pickled NumPy arrays, and what it gets under these names are inert stand-ins of this file, not NumPy's. Any other
    name ends the reading before anything is called.

    Args:
        content: the bytes of the file.
        source: the file's name, for messages.

    Returns:
        The dictionary; byte strings of Python 2 are bytes, arrays are uint8 `numpy.ndarray`.

    Raises:
        DataError: the content is damaged, names something else, or is not a dictionary.
    """
    try:
        result = _Reader(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(result, dict):
            raise DataError(f"{source} holds a pickled {type(result).__name__}, expected a dictionary; get it again")
        return {key: _array(value) if isinstance(value, _Array) else value for key, value in result.items()}
    except _ForbiddenError as error:
        raise DataError(f"{source} names {error}, which has no place in it; nothing was run; get it again") from error
    # A damaged pickle can fail in any of these ways, by its own instructions.
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        ImportError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
    ) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{source} is not a readable pickle ({type(error).__name__}: {error}); get it again") from error


class _ForbiddenError(Exception):
    """A pickle that names something it should not."""


class _Dtype:
    """Stands in for ``numpy.dtype``: notes the kind and ignores the rest, which single bytes do not need."""

    def __init__(self, kind: Any = None, *_: Any) -> None:
        self.kind = kind

    def __setstate__(self, _: Any) -> None:
        pass


class _Array:
    """Stands in for ``numpy.ndarray``: notes what it is told."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, *_: Any) -> bytes:
    """Stand in for ``codecs.encode``, by which Python 3 writes bytes into old kinds of pickles."""
    if not isinstance(text, str):
        raise TypeError(f"a {type(text).__name__} in place of a text")
    return text.encode("latin-1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise _ForbiddenError(f"{module}.{name}") from None

    def persistent_load(self, _: Any) -> NoReturn:
        raise _ForbiddenError("an object outside the file")


def _array(stand_in: _Array) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Make a real array of what a stand-in was told: (version, shape, dtype, column order, bytes)."""
    _, shape, dtype, fortran, content = stand_in.state
    kind = dtype.kind.decode() if isinstance(dtype.kind, bytes) else dtype.kind
    if kind != "u1" or fortran or not isinstance(content, bytes):
        raise ValueError(f"an array of {kind!r}, expected unsigned bytes in row order")
    if not all(isinstance(size, int) and size >= 0 for size in shape) or prod(shape) != len(content):
        raise ValueError(f"an array of shape {shape} with {len(content)} bytes")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
