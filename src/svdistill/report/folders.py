"""Which images a run is of: ``image-folder`` is the name of all folders, and a known name may stand for one's own."""

from collections.abc import Iterable, Mapping
from typing import Any

from svdistill.choices import IMAGE_FOLDER

_SECTIONS = ("data", "data.unlabelled")
# Beside the folder, what decides which of its images there are, and in which order.
_CHOSEN_BY = ("data.classes", "data.held_out", "data.task")


def roots(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a recipe's folders that say which images there are, by dotted key.

    Args:
        settings: all of a recipe's, by dotted key.
    """
    own = [f"{section}.root" for section in _SECTIONS if settings.get(f"{section}.name") == IMAGE_FOLDER]
    return {key: settings.get(key) for key in own}


class Folders:
    """Tells sets of one name apart by what is in them, as far as runs have written it down; folders else by paths."""

    def __init__(self) -> None:
        self._titles: dict[tuple[Any, ...], str | None] = {}

    def titles(self, settings: Mapping[str, Any], noted: Mapping[str, Any]) -> dict[str, Any]:
        """Return by dotted key what the images of a run are called: the path that they were first found in.

        Args:
            settings: the recipe's, by dotted key.
            noted: what the run's ``data.json`` says.
        """
        found = dict(roots(settings))
        # A set of a known name may be of files of one's own; without labels it is what a seed has left, or all of it.
        for key in dict.fromkeys((*found, "data.root")):
            if (images := _images(key, settings, noted)) is not None:
                name = settings.get(f"{key.rpartition('.')[0]}.name")
                found[key] = self._title(settings.get(key), (name, *images[0]), images[1])
        return found

    def _title(self, root: str | None, chosen: tuple[Any, ...], images: str) -> str | None:
        """Return the title of images; None for those that were first found where a set of that name usually is."""
        if (*chosen, images) not in self._titles:
            taken = {title for known, title in self._titles.items() if known[:-1] == chosen}
            here = root or "the usual place"
            same = [title for title in taken if title == root or str(title).startswith(f"{here} with other images")]
            self._titles[*chosen, images] = f"{here} with other images ({len(same) + 1})" if root in taken else root
        return self._titles[*chosen, images]


def _images(key: str, settings: Mapping[str, Any], noted: Mapping[str, Any]) -> tuple[tuple[Any, ...], str] | None:
    """Return what chose the images of a folder, and what tells them from others; None where nothing does for all seeds.

    Images can be compared only where the same settings chose them.
    """
    pixels, shapes = noted.get("pixels"), noted.get("shapes")
    if not isinstance(pixels, Mapping) or not all(isinstance(one, str) for one in pixels.values()):
        return None
    whole = "statistics" if "statistics" in pixels else "train"  # all that training images were chosen of
    chosen = (key, repr(shapes and shapes[0][1:]), *(settings.get(name) for name in _CHOSEN_BY))
    if key == "data.root":
        wanted: Iterable[str] = (whole, "test")
    else:
        wanted = ("unlabelled",) if settings.get("data.unlabelled.size") is None else ()
    found = [pixels[name] for name in wanted if name in pixels]
    return (chosen, " ".join(found)) if found else None
