"""The pages of the Python reference: which names they have."""

import re
from importlib import import_module

import svdistill

_MARKER = re.compile(r"^<!-- names of (svdistill\.\w+) -->$", re.MULTILINE)


def names(module: str) -> list[str]:
    """Return what a subpackage promises beside what ``import svdistill`` reaches by a shorter name."""
    return [f"{module}.{name}" for name in import_module(module).__all__ if name not in svdistill.__all__]


def fill(text: str) -> str:
    """Return a page in which each marker ``names of PACKAGE`` has become the docstrings of these names."""

    def replace(marker: re.Match[str]) -> str:
        return "\n\n".join(f"::: {name}" for name in names(marker[1]))

    return _MARKER.sub(replace, text)
