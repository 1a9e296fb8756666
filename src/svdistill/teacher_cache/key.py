"""What a teacher cache is of: everything on which its numbers depend, and how it differs from what is wanted."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from svdistill.losses.protocol import Settings


@dataclass(frozen=True, kw_only=True)
class Key:
    """Everything on which the goals depend that a teacher sets for some images.

    Attributes:
        teacher: SHA-256 of the file with its weights, and of its code where that is not ours.
        images: a fingerprint of each set, see ``data.fingerprint``, in the order in which their images are numbered.
        mean: subtracted from the images to standardize them, by channel.
        std: by which the images are then divided, by channel.
        augmentation: how far views differ from the images.
        views: number of views of an image.
        seed: of the views.
        taps: the teacher's, by name.
        drop_tokens: the number of tokens at the front of its taps that are left out.
        grids: height and width, or number of positions, of the student's map at each tap, to which some losses pool.
        losses: for each loss the settings that decide what it needs of the teacher.
        layout: where the channels are at the teacher's taps, where that is said.
    """

    teacher: str
    images: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    augmentation: Mapping[str, Any]
    views: int
    seed: int
    taps: Sequence[str]
    drop_tokens: int
    grids: Sequence[Sequence[int]]
    losses: Mapping[str, Settings]
    layout: str | Sequence[str | None] | None = None

    def plain(self) -> dict[str, Any]:
        """Return it as it comes back from a file; a layout that is not said is left out, as in older files."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain if plain["layout"] is not None else {key: plain[key] for key in plain if key != "layout"}


REASONS = {
    "teacher": "of another teacher: its weights, or its code, have changed since",
    "images": "of other training images",
    "mean": "of images that were standardized otherwise",
    "std": "of images that were standardized otherwise",
    "augmentation": "of another augmentation",
    "views": "of another number of views",
    "seed": "of other views: their seed differs",
    "taps": "of other taps of the teacher",
    "drop_tokens": "of taps with another number of tokens left out",
    "layout": "of taps whose channels were said to be elsewhere",
    "grids": "for a student whose taps have other sizes",
}


def difference(found: Mapping[str, Any], key: Key) -> str | None:
    """Say what a cache is of instead of what is wanted.

    Args:
        found: the key of the cache, as it came back from its file.
        key: what is wanted.

    Returns:
        The end of a sentence; None where the cache can be used.
    """
    wanted = key.plain()
    for field, reason in REASONS.items():
        if found.get(field) != wanted.get(field):
            return f"{reason} ({found.get(field)}, not {wanted[field]})" if field in ("views", "seed") else reason
    stored = found.get("losses", {})
    for loss, settings in wanted["losses"].items():
        if loss not in stored:
            return f"for {', '.join(stored)}, and lacks what {loss} needs"
        if stored[loss] != settings:
            return f"for {loss} with {listed(stored[loss])}, not {listed(settings)}"
    return None


def listed(settings: Settings) -> str:
    """Write settings of a loss as ``rank=1, basis=own``."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())
