"""Which images a run of a folder of images is of: ``image-folder`` is the name of all of them."""

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
    """Tells folders of images apart by what is in them, as far as runs have written it down, else by their paths."""

    def __init__(self) -> None:
        self._titles: dict[tuple[Any, ...], str] = {}

    def titles(self, settings: Mapping[str, Any], noted: Mapping[str, Any]) -> dict[str, Any]:
        """Return by dotted key what each folder of a run is called: the path that its images were first found in.

        Args:
            settings: the run's, with what `roots` returns.
            noted: what its ``data.json`` says.
        """
        return {key: self._title(key, root, settings, noted) for key, root in roots(settings).items()}

    def _title(self, key: str, root: Any, settings: Mapping[str, Any], noted: Mapping[str, Any]) -> Any:
        if (found := _images(key, settings, noted)) is None:
            return root
        chosen, images = found
        if (*chosen, images) not in self._titles:
            taken = {title for known, title in self._titles.items() if known[:-1] == chosen}
            other = f"{root} with other images ({len(taken) + 1})"
            self._titles[*chosen, images] = other if root in taken else str(root)
        return self._titles[*chosen, images]


def _images(key: str, settings: Mapping[str, Any], noted: Mapping[str, Any]) -> tuple[tuple[Any, ...], str] | None:
    """Return what chose the images of a folder, and what tells them from others; None where nothing does for all seeds.

    Images can be compared only where the same settings chose them.
    """
    pixels, shapes = noted.get("pixels"), noted.get("shapes")
    if not isinstance(pixels, Mapping) or not all(isinstance(one, str) for one in pixels.values()):
        return None
    whole = "statistics" if "statistics" in pixels else "train"  # all that training images were chosen of
    chosen = (key, whole, repr(shapes and shapes[0][1:]), *(settings.get(name) for name in _CHOSEN_BY))
    if key == "data.root":
        wanted: Iterable[str] = (whole, "test")
    else:
        wanted = ("unlabelled",) if settings.get("data.unlabelled.size") is None else ()
    found = [pixels[name] for name in wanted if name in pixels]
    return (chosen, " ".join(found)) if found else None
