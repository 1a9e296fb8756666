"""Damage that a file can take: a few edits, told apart from each other so that a failing input can be made small."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

Kind = Literal["flip", "write", "insert", "delete", "cut", "repeat", "move", "number", "nest", "word"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MOST = 1 << 20  # bytes that an input may grow to
NUMBERS = (b"0", b"-1", b"1", b"255", b"65536", b"2147483648", b"9" * 23, b"9" * 400, b"9" * 5000, b"1e308", b"1e999")
NUMBERS += (b"-0.0", b"NaN", b".nan", b"0.5", b"1e-320", b"true", b"null", b'"x"', b"[]", b"{}", b"[[]]")
NESTS = (b"[", b"{", b'{"a":', b"- ", b"[[a],", b")\x85", b"]a", b"(")
WORDS = (b"\0", b"\n", b"\xff", b"\x80", b"null", b'"', b"'", b":", b"&a [*a]", b"!!python/name:os.system", b"!!int x")
WORDS += (
    b"\\ud800",
    b"../..",
    b"${x}",
    b"\x80\x04",
    b".",
    b"<<: *a",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0" * 8,
)


@dataclass(frozen=True)
class Edit:
    """One edit.

    Attributes:
        kind: what is done.
        at: where, as a fraction of the length.
        size: of what is done, 1 to 4096: bytes, or how often.
        value: which byte, number or word.
    """

    kind: Kind
    at: float
    size: int
    value: int


def draw(random: Random) -> list[Edit]:
    """Draw a few edits, mostly one or two, mostly small."""
    number = random.choice((1, 1, 1, 2, 2, 3, 5))
    sizes = (1, 1, 2, 4, 8, 64, 512, 4096)
    return [
        Edit(random.choice(KINDS), random.random(), random.randint(1, random.choice(sizes)), random.getrandbits(16))
        for _ in range(number)
    ]


def damaged(content: bytes, edits: Sequence[Edit]) -> bytes:
    """Return a content with some edits done, one after the other."""
    for edit in edits:
        content = _done(content, edit)[:MOST]
    return content


def _done(content: bytes, edit: Edit) -> bytes:
    at = int(edit.at * (len(content) + 1))
    before, after = content[:at], content[at:]
    match edit.kind:
        case "flip":
            return before + bytes([after[0] ^ (edit.value % 255 + 1)]) + after[1:] if after else content
        case "write":
            return before + edit.value.to_bytes(2)[-min(edit.size, 2) :] + after[min(edit.size, 2) :]
        case "insert":
            return before + bytes([edit.value % 256]) * edit.size + after
        case "delete":
            return before + after[edit.size :]
        case "cut":
            return before
        case "repeat":
            return before + after[: 1 + edit.value % 64] * edit.size + after[1 + edit.value % 64 :]
        case "move":
            other = edit.value % (len(content) + 1)
            return before + content[other : other + edit.size] + after[edit.size :]
        case "number":
            found = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?").search(content, at)
            number = NUMBERS[edit.value % len(NUMBERS)]
            return content[: found.start()] + number + content[found.end() :] if found else content
        case "nest":
            return before + NESTS[edit.value % len(NESTS)] * edit.size + after
        case "word":
            return before + WORDS[edit.value % len(WORDS)] + after
