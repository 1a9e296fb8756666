"""svdistill trains a small image model with the help of a large one, by KD-SVD."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svdistill.distiller import Distiller, DistillOutput
    from svdistill.knowledge import KnowledgeCache
    from svdistill.nets import load

__version__ = "0.1.0"
__all__ = ["DistillOutput", "Distiller", "KnowledgeCache", "__version__", "load"]

_HOMES = {
    "Distiller": "svdistill.distiller",
    "DistillOutput": "svdistill.distiller",
    "KnowledgeCache": "svdistill.knowledge",
    "load": "svdistill.nets",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the command line starts without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'svdistill' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
