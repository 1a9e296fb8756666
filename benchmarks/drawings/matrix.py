"""A feature map becomes a matrix: a row for each position, a column for each channel."""

import torch
from matplotlib.axes import Axes

from benchmarks.drawings.scene import Scene, matrices
from benchmarks.drawings.sheet import STUDENT, arrow, box, heat, sheet, text, whole

HEIGHT = 330
SHOWN = 5  # channels, of those with most energy
SIDE, STEP = 104.0, (25.0, 31.0)  # of a channel's picture, and from one to the next
TOP, LEFT = 42.0, 8.0
MATRIX, SIZE = (366.0, 42.0), (160.0, 256.0)


def draw(scene: Scene) -> str:
    """Draw the teacher's first map, a picture for each of some channels, and the matrix that is made of all."""
    feature, matrix = scene.teacher.maps(scene.image)[0][0], matrices(scene.teacher, scene.image)[0][0]
    height, width = feature.shape[1:]
    # The position that most channels say something about.
    position = int(matrix.square().sum(1).argmax())
    channels = feature.square().sum((1, 2)).argsort(descending=True)[:SHOWN].sort().values
    title = "A map of 8 × 8 positions and 16 channels as a matrix of 64 rows and 16 columns"
    with sheet("method-matrix", title, HEIGHT) as (figure, written):
        axes = whole(figure)
        row, column = divmod(position, width)
        cell = (SIDE / width, SIDE / height)
        for i, channel in enumerate(channels):
            corner = LEFT + i * STEP[0], TOP + i * STEP[1]
            options = {"cmap": "viridis", "vmin": 0, "vmax": float(feature.max()), "zorder": 2 + i}
            heat(axes, feature[channel].numpy(), corner, (SIDE, SIDE), **options)
            spot = corner[0] + column * cell[0], corner[1] + row * cell[1]
            box(axes, spot, cell, edgecolor=STUDENT, linewidth=2.4, zorder=3 + i)
        _draw_matrix(axes, matrix, position)
        end = (spot[0] + cell[0], spot[1] + cell[1] / 2)
        arrow(axes, end, (MATRIX[0] - 4, _middle(position, len(matrix))), color=STUDENT, linewidth=2)
        text(axes, LEFT, 18, f"map: {len(feature)} channels of {height} × {width}", ha="left", weight="bold")
        text(axes, LEFT, HEIGHT - 16, f"{SHOWN} of the channels", ha="left")
        text(axes, MATRIX[0], 18, f"matrix: {len(matrix)} × {len(feature)}", ha="left", weight="bold")
        text(axes, MATRIX[0] + SIZE[0] / 2, HEIGHT - 16, "channels")
        text(axes, MATRIX[0] + SIZE[0] + 16, MATRIX[1] + SIZE[1] / 2, "positions", rotation=-90)
        return written()


def _draw_matrix(axes: Axes, matrix: torch.Tensor, position: int) -> None:
    heat(axes, matrix.numpy(), MATRIX, SIZE, cmap="viridis", vmin=0)
    row = SIZE[1] / len(matrix)
    box(axes, (MATRIX[0], MATRIX[1] + position * row), (SIZE[0], row), edgecolor=STUDENT, linewidth=2.4, zorder=5)


def _middle(position: int, positions: int) -> float:
    """Return the height of the middle of a row."""
    return MATRIX[1] + (position + 0.5) * SIZE[1] / positions
