"""Tests of pickles that are read without running them."""

import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svdistill import unpickle
from svdistill.data.pickles import read_pickle
from svdistill.errors import DataError


class Evil:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(5))
def test_dictionary_of_arrays(protocol: int) -> None:
    """What NumPy and Python wrote comes back, in every protocol."""
    whole = {b"data": np.arange(24, dtype=np.uint8).reshape(2, 12), b"labels": [3, 4], "title": "a", b"names": [b"x"]}
    found = read_pickle(pickle.dumps(whole, protocol=protocol), "file")
    assert np.array_equal(found[b"data"], whole[b"data"])
    assert {key: found[key] for key in found if key != b"data"} == {key: whole[key] for key in whole if key != b"data"}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.mkdir, "mkdir"), (eval, "eval"), (exec, "exec"), (getattr, "getattr"), (np.load, "numpy.*load")],
)
def test_calls_are_refused(protocol: int, function: Any, name: str, tmp_path: Path) -> None:
    """A pickle that wants a function called is refused by the function's name, and nothing is run."""
    trap = str(tmp_path / "trap")
    argument = trap if function is os.mkdir else f"__import__('os').mkdir({trap!r})"
    content = pickle.dumps({b"data": Evil(function, argument)}, protocol=protocol)
    with pytest.raises(DataError, match=f"file names .*{name}.* nothing was run"):
        read_pickle(content, "file")
    assert not Path(trap).exists()
    if function is not np.load and function is not getattr:
        pickle.loads(content)
        assert Path(trap).exists()  # the trap is one: pickle itself walks into it


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # GLOBAL, REDUCE
        b"(S'true'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'true'\no.",  # OBJ
        b"\x80\x04\x8c\x05numpy\x8c\x11dtype.__class__.x\x93.",  # a dotted name of a known module
        b"\x80\x02\x82\x01.",  # an extension's code
        b"P1\n.",  # PERSID
    ],
)
def test_handwritten_attacks(content: bytes) -> None:
    """Every other way to a function, too, ends before a call."""
    with pytest.raises(DataError):
        read_pickle(content, "file")


def test_stand_ins_are_inert() -> None:
    """The names that are allowed do not lead to NumPy's own objects, nor to any codec."""
    encode = pickle.dumps({b"data": 1}, protocol=2).replace(
        b"K\x01", b"c_codecs\nencode\n(X\x03\x00\x00\x00abcX\x03\x00\x00\x00hextR"
    )
    assert read_pickle(encode, "file") == {b"data": b"abc"}
    arrays = [operation.name for operation, _, _ in pickletools.genops(pickle.dumps(np.zeros(3, np.uint8), protocol=2))]
    assert "REDUCE" in arrays


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((2, 3), dtype=np.float32), "array of 'f4', expected unsigned bytes"),
        (np.zeros(2, dtype=object), "array of 'O8'"),
        (np.asfortranarray(np.zeros((2, 3), dtype=np.uint8)), "row order"),
    ],
)
def test_other_arrays(value: Any, message: str) -> None:
    """Only unsigned bytes in row order are read; objects are not."""
    with pytest.raises(DataError, match=message):
        read_pickle(pickle.dumps({"data": value}, protocol=2), "file")


def test_shape_that_lies() -> None:
    """A shape that the bytes do not fill is refused."""
    content = pickle.dumps({"data": np.zeros((2, 3), dtype=np.uint8)}, protocol=2)
    assert content.count(b"K\x02K\x03\x86") == 1
    with pytest.raises(DataError, match=r"shape \(2, 4\) with 6 bytes"):
        read_pickle(content.replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86"), "file")


def test_damaged() -> None:
    """Cut off anywhere, or overwritten, a pickle is one line that names the file."""
    content = pickle.dumps({"data": np.arange(9, dtype=np.uint8), "labels": [1, 2]}, protocol=2)
    for length in range(len(content)):
        with pytest.raises(DataError, match=r"^file "):
            read_pickle(content[:length], "file")
    for place in range(len(content)):
        changed = content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]
        try:
            read_pickle(changed, "file")
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017 - a change may also be harmless


def test_no_dictionary() -> None:
    """Something else than a dictionary is named."""
    with pytest.raises(DataError, match="holds a pickled list, expected a dictionary"):
        read_pickle(pickle.dumps([1]), "file")


def test_deep_and_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values nested millions deep, or standing for endlessly many, are refused or stay what they are: a few objects."""
    with pytest.raises(DataError, match="a tuple as a key"):
        read_pickle(b"\x80\x02}(" + b")" + b"\x85" * 200_000 + b"K\x01u.", "file")
    laughs: list[Any] = [1]
    for _ in range(40):
        laughs = [laughs, laughs]
    found = read_pickle(pickle.dumps({"names": laughs}, protocol=2), "file")["names"]
    assert found[0] is found[1]
    monkeypatch.setattr(unpickle, "_MOST_INSTRUCTIONS", 1000)
    with pytest.raises(DataError, match="more than 1,000 instructions"):
        read_pickle(b"\x80\x02" + b"N0" * 501 + b"}.", "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02}q\x00(K\x01u.", "a key without a value"),
        (b"\x80\x02}K\x01a.", "a dict in place of a list"),
        (b"\x80\x02]K\x01K\x01s.", "a list in place of a dictionary"),
        (b"\x80\x02(.", "a mark in place of a value"),
        (b"\x80\x02K\x010.", "too few values"),
        (b"\x80\x02}h\x05.", "KeyError"),
        (b"\x80\x02cnumpy\ndtype\n}R.", "a call of what cannot be called"),
        (b"\x80\x02}X\x01\x00\x00\x00acnumpy\ndtype\n)Rs.", "an object that is not an array"),
        (b"\x80\x02}K\x01b.", "a state for a dict"),
    ],
)
def test_instructions_that_do_not_fit(content: bytes, message: str) -> None:
    """What an instruction needs and does not find is named."""
    with pytest.raises(DataError, match=message):
        read_pickle(content, "file")
