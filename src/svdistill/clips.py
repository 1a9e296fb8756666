"""How a transfer gradient may be bounded by the main one, by name. Knows no torch."""

from typing import Literal, get_args

Clip = Literal["per_variable", "global", "poster", "none"]
CLIPS: tuple[Clip, ...] = get_args(Clip)
