"""Checksums inside JSON: what is written carries one as its last member, which is compared when it is read."""

import hashlib
from collections.abc import MutableMapping
from typing import Any
from warnings import warn

from svdistill.errors import SvdistillWarning

KEY = "checksum"
_DIGITS = 16
_BEGIN = f'"{KEY}": "'


def seal(text: str) -> str:
    """Add a checksum to a JSON mapping: it stays one, and says itself whether it has changed since.

    Args:
        text: the mapping, as ``json.dumps`` writes it, on one line or several.

    Returns:
        The same text with a last member ``checksum``: the first digits of the SHA-256 of all that stands before it.
    """
    body = text[: text.rindex("}")].rstrip()
    comma = "" if body.endswith("{") else ","
    before, after = ("\n  ", "\n") if "\n" in text else (" " * len(comma), "")
    return f'{body}{comma}{before}{_BEGIN}{_digest(body)}"{after}}}'


def unseal(text: str, content: MutableMapping[str, Any]) -> bool:
    """Compare a JSON mapping with its checksum, and take that out of it.

    Args:
        text: what was read, of which not a space may have changed.
        content: what it says, which loses its checksum.

    Returns:
        Whether it carried one: versions before 0.2 wrote none; see :func:`note_unsealed`.

    Raises:
        ValueError: the two do not agree.
    """
    if KEY not in content:
        return False
    body, _, seal = text.rpartition(_BEGIN)
    body = body.rstrip().removesuffix(",")
    if "".join(seal.split()) != f'{_digest(body)}"}}':
        raise ValueError("it does not agree with its checksum")
    del content[KEY]
    return True


def note_unsealed() -> None:
    """Say that files without checksums are read; once, as warnings of the same words are shown once."""
    warn(
        "files of an earlier version are read, which carry no checksums: damage to them would not be noticed",
        SvdistillWarning,
        stacklevel=1,
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
