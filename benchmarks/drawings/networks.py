"""Two networks and their taps: the maps of one image that are compared, pair by pair."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.drawings.scene import Scene
from benchmarks.drawings.sheet import STUDENT, TEACHER, WIDTH, arrow, box, heat, sheet, text, whole
from svdistill.report.svg import INK

HEIGHT = 384
LEFT = 88  # room for the image
BLOCK, SLAB = (76.0, 44.0), (9.0, 28.0)
# From the edge of a network to the middles of its parts.
TITLE, BLOCKS, SHAPES, MAPS = 13, 54, 99, 140


class _Place(NamedTuple):
    """A block of a network, drawn from above for the teacher and from below for the student."""

    x: float
    pitch: float
    down: bool

    @property
    def colour(self) -> str:
        return TEACHER if self.down else STUDENT

    def y(self, distance: float) -> float:
        """Return the height of what is so far from the edge."""
        return distance if self.down else HEIGHT - distance

    def corner(self, distance: float, size: tuple[float, float]) -> tuple[float, float]:
        """Return the upper left corner of what is centred there."""
        return self.x - size[0] / 2, self.y(distance) - size[1] / 2


def draw(scene: Scene) -> str:
    """Draw both networks, the layers in their blocks, and what each tap gives, as the mean over its channels."""
    title = "Teacher and student on one image, each tapped at five places"
    with sheet("method-networks", title, HEIGHT) as (figure, written):
        axes = whole(figure)
        pitch = (WIDTH - LEFT) / len(scene.teacher.taps)
        for tapped, down in ((scene.teacher, True), (scene.student, False)):
            maps, layers = tapped.maps(scene.image), layers_between(tapped.network, tapped.taps)
            for i, (feature, count) in enumerate(zip(maps, layers, strict=True)):
                place = _Place(LEFT + (i + 0.5) * pitch, pitch, down)
                _draw_block(axes, place, count, first=i == 0)
                _draw_map(axes, place, feature[0])
            weights = sum(parameter.numel() for parameter in tapped.network.parameters())
            name = "Teacher: large, trained, frozen" if down else "Student: small, learns"
            words = f"{name} ({weights / 1e6:.2f} million weights)"
            text(axes, WIDTH - 6, place.y(TITLE), words, color=place.colour, ha="right", weight="bold")
        for i in range(len(scene.teacher.taps)):
            x, reach = LEFT + (i + 0.5) * pitch, HEIGHT / 2 - MAPS - 33
            arrow(axes, (x, HEIGHT / 2 - reach), (x, HEIGHT / 2 + reach), arrowstyle="<->", color=INK)
        _draw_image(axes, scene)
        return written()


def layers_between(network: nn.Module, taps: Sequence[str]) -> list[int]:
    """Return how many convolutions and linear layers lead to each tap from the one before it."""
    modules = list(network.named_modules())
    ends = [max(i for i, (name, _) in enumerate(modules) if f"{name}.".startswith(f"{tap}.")) for tap in taps]
    weighty = [isinstance(module, nn.Conv2d | nn.Linear) for _, module in modules]
    return [sum(weighty[start + 1 : end + 1]) for start, end in itertools.pairwise([-1, *ends])]


def _draw_block(axes: Axes, place: _Place, layers: int, *, first: bool) -> None:
    """Draw a block with a slab for each of its layers, and the dot where it is tapped."""
    box(axes, place.corner(BLOCKS, BLOCK), BLOCK, edgecolor=place.colour, linewidth=1.5)
    for i in range(layers):
        x, y = place.corner(BLOCKS, SLAB)
        box(axes, (x + 15 * (i - (layers - 1) / 2), y), SLAB, facecolor=place.colour)
    middle = place.y(BLOCKS)
    if not first:
        start = place.x - place.pitch + BLOCK[0] / 2
        arrow(axes, (start, middle), (place.x - BLOCK[0] / 2, middle), color=place.colour)
    axes.plot([place.x], [place.y(BLOCKS + BLOCK[1] / 2)], "o", color=place.colour, markersize=8, zorder=5)


def _draw_map(axes: Axes, place: _Place, feature: Tensor) -> None:
    """Draw a map as the mean over its channels, smaller where it has fewer positions, and its shape."""
    values: NDArray[Any] = np.atleast_2d((feature.mean(0) if feature.ndim == 3 else feature.mean()).numpy())
    size = 12 + 15 * float(np.log2(len(values)))
    heat(axes, values, place.corner(MAPS, (size, size)), (size, size), cmap="viridis", vmin=0)
    shape = [*feature.shape[1:], len(feature)]
    text(axes, place.x, place.y(SHAPES), "×".join(map(str, shape)))


def _draw_image(axes: Axes, scene: Scene) -> None:
    """Draw the image and the way that it takes into both networks."""
    size, middle, blocks = 68.0, HEIGHT / 2, LEFT + ((WIDTH - LEFT) / len(scene.teacher.taps) - BLOCK[0]) / 2
    heat(axes, scene.raw.float().mean(0).numpy(), (4.0, middle - size / 2), (size, size), cmap="gray")
    for down in (True, False):
        place = _Place(4 + size / 2, 0, down)
        near, y = middle - size / 2 if down else middle + size / 2, place.y(BLOCKS)
        axes.plot([place.x, place.x], [near, y], color=place.colour, linewidth=1.4, solid_capstyle="butt")
        arrow(axes, (place.x, y), (blocks, y), color=place.colour)
