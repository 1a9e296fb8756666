"""Pickled dictionaries of arrays, read without running anything that a file names."""

from math import prod
from typing import Any

import numpy as np

from svdistill.errors import DataError, one_line
from svdistill.unpickle import WRONG, Call, ForbiddenNameError, Name, follow

_DTYPE = Name("numpy", "dtype")
_MAKERS = (Name("numpy.core.multiarray", "_reconstruct"), Name("numpy._core.multiarray", "_reconstruct"))
_KNOWN = {Name("_codecs", "encode"), _DTYPE, Name("numpy", "ndarray"), *_MAKERS}

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def read_pickle(content: bytes, source: str) -> dict[bytes | str, Any]:
    """Read a pickled dictionary of numbers, texts, lists and uint8 arrays.

    Its instructions are followed, see :func:`svdistill.unpickle.follow`, and it can name just what stands in pickled
    NumPy arrays, which are made at the end, from what was noted. Any other name ends the reading.

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
        result = follow(content, allows=_KNOWN.__contains__)
        if not isinstance(result, dict):
            raise DataError(f"{source} holds a pickled {type(result).__name__}, expected a dictionary; get it again")
        return {key: _array(value) if isinstance(value, Call) else value for key, value in result.items()}
    except ForbiddenNameError as error:
        raise DataError(
            f"{source} names {_short(error)}, which has no place in it; nothing was run; get it again"
        ) from error
    # A damaged pickle can fail in any of these ways, by its own instructions.
    except WRONG as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{source} is not a readable pickle ({type(error).__name__}: {_short(error)}); get it again"
        ) from error


def _short(error: Exception) -> str:
    return one_line(error)[:200]


def _array(call: Call) -> Pixels:
    """Make a real array of what was noted: (version, shape, dtype, column order, bytes)."""
    if call.function not in _MAKERS or type(call.state) is not tuple or len(call.state) != 5 or call.entries:
        raise ValueError("an object that is not an array")
    _, shape, dtype, fortran, content = call.state
    kind = dtype.arguments[0] if isinstance(dtype, Call) and dtype.function == _DTYPE and dtype.arguments else None
    kind = kind.decode("latin-1") if isinstance(kind, bytes) else kind
    if kind != "u1" or fortran or not isinstance(content, bytes):
        named = kind if isinstance(kind, str) else type(kind).__name__
        raise ValueError(f"an array of {named[:20]!r}, expected unsigned bytes in row order")
    sizes = type(shape) is tuple and len(shape) <= 8 and all(type(size) is int and size >= 0 for size in shape)
    if not sizes or prod(shape) != len(content):
        shown = shape if sizes else type(shape).__name__
        raise ValueError(f"an array of shape {shown} with {len(content)} bytes")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
