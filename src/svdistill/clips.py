"""How a transfer gradient may be bounded by the main one; see `svdistill.gradients.combine`."""

from typing import Literal, get_args

Clip = Literal["per_variable", "global", "poster", "none"]
CLIPS: tuple[Clip, ...] = get_args(Clip)
