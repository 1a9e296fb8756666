"""The runs that a comparison names."""

import os
from pathlib import Path
from typing import NamedTuple

from svdistill.errors import DataError
from svdistill.plain import parse_json

_MOST = 32 << 20  # bytes of a comparison.json


class Named(NamedTuple):
    """A run that a comparison names.

    Attributes:
        folder: where it is, or will be.
        state: as the comparison's record has it; ``finished``, ``failed``, and others.
        error: what went wrong, where it failed.
    """

    folder: Path
    state: str | None
    error: str | None


def named_in(file: Path) -> list[Named]:
    """Read which runs a comparison names.

    Args:
        file: a ``comparison.json``; the folders in it are relative to its own.

    Raises:
        DataError: it is none.
    """
    try:
        with file.open("rb") as content:
            runs = parse_json(content.read(_MOST + 1))["runs"]
        found = [(file.parent / run["folder"], run.get("state"), run.get("error")) for run in runs]
        return [Named(Path(os.path.relpath(folder)), state, error) for folder, state, error in found]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} is not a comparison; give the comparison.json that 'svdistill compare' writes"
        ) from error
