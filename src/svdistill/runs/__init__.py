"""The runs in a folder: what they are, where they differ, what of them can go. Reads records alone, without torch."""

from svdistill.runs.cleaning import KINDS, Removal, removals, remove
from svdistill.runs.listing import SORTS, STATES, Filter, RunInfo, find, look, only_run, select
from svdistill.runs.settings import (
    OF_STAGES,
    changed,
    differing,
    epochs_of,
    flat,
    losses_of,
    method_of,
    own_vectors_first,
    rules_of,
)

__all__ = [
    "Filter",
    "KINDS",
    "OF_STAGES",
    "Removal",
    "RunInfo",
    "SORTS",
    "STATES",
    "changed",
    "differing",
    "epochs_of",
    "find",
    "flat",
    "look",
    "losses_of",
    "method_of",
    "only_run",
    "own_vectors_first",
    "removals",
    "remove",
    "rules_of",
    "select",
]
