"""The relation of two neighbouring taps: of the teacher, of the student that it helped, and of one that was alone."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from numpy.typing import NDArray

from benchmarks.drawings.scene import Scene, look
from benchmarks.drawings.sheet import ALONE, STUDENT, TEACHER, WIDTH, heat, sheet, text, whole
from svdistill.report.drawing import TapView
from svdistill.report.relations import channel_order, darkest, relation
from svdistill.report.svg import INK

HEIGHT = 330
FRONT = 2  # of the two taps that are related
SIDE, STRIP, GAP, LEFT, TOP = 142.0, 12.0, 4.0, 30.0, 62.0
PITCH = (WIDTH - LEFT) / 3


def draw(scene: Scene) -> str:
    """Draw three relations with the channels in the teacher's order, and how far two are from that of the teacher."""
    teacher, student, _ = look(scene.teacher, scene.student, scene.image)
    alone = look(scene.teacher, scene.alone, scene.image)[1]
    goal = _relation(teacher, scene.beta)
    names = scene.teacher.taps[FRONT : FRONT + 2]
    title = f"Relation of {names[0]} and {names[1]} in a teacher, a student that it helped, and one alone"
    with sheet("method-relation", title, HEIGHT) as (figure, written):
        axes = whole(figure)
        named = (("teacher", TEACHER), ("helped student", STUDENT), ("student alone", ALONE))
        low = darkest(goal)
        for i, ((name, colour), taps) in enumerate(zip(named, (teacher, student, alone), strict=True)):
            x = LEFT + i * PITCH
            _draw(axes, x, taps, teacher, scene.beta, low)
            text(axes, x + STRIP + GAP + SIDE / 2, 16, name, color=colour, weight="bold")
            distance = 0.5 * float(np.square(_relation(taps, scene.beta) - goal).sum())
            words = f"½ Σ (…)² = {distance:.2g}" if i else "the goal"
            text(axes, x + STRIP + GAP + SIDE / 2, TOP + STRIP + GAP + SIDE + 16, words)
            text(axes, x + STRIP + GAP + SIDE / 2, TOP - 14, f"b: {names[1]}")
        text(axes, 12, TOP + STRIP + GAP + SIDE / 2, f"f: {names[0]}", rotation=90)
        _draw_scale(axes, low)
        return written()


def _relation(taps: list[TapView], beta: float) -> NDArray[np.float64]:
    return relation(taps[FRONT].vector, taps[FRONT + 1].vector, beta)


def _draw(axes: Axes, x: float, taps: list[TapView], teacher: list[TapView], beta: float, low: float) -> None:
    """Draw a relation with the two vectors that it is made of, at its left and above it."""
    orders = [channel_order(tap.vector) for tap in teacher[FRONT : FRONT + 2]]
    front, back = (tap.vector[order] for tap, order in zip(taps[FRONT : FRONT + 2], orders, strict=True))
    inner = x + STRIP + GAP, TOP + STRIP + GAP
    ends = [tap.vector for tap in teacher[FRONT : FRONT + 2]]
    colours = {"cmap": "cividis", "vmin": min(v.min() for v in ends), "vmax": max(v.max() for v in ends)}
    heat(axes, front[:, None], (x, inner[1]), (STRIP, SIDE), **colours)
    heat(axes, back[None], (inner[0], TOP), (SIDE, STRIP), **colours)
    heat(axes, relation(front, back, beta), inner, (SIDE, SIDE), cmap="viridis", vmin=low, vmax=1)


def _draw_scale(axes: Axes, low: float) -> None:
    """Draw what the colours of the relations mean."""
    top, width = HEIGHT - 58, 230.0
    left = LEFT + 130
    heat(axes, np.linspace(0, 1, 256)[None], (left, top), (width, 14), cmap=colormaps["viridis"], vmin=0, vmax=1)
    text(axes, left - 8, top + 7, f"{low:.3f}", ha="right")
    text(axes, left + width + 8, top + 7, "1", ha="left")
    text(axes, left + width / 2, top + 34, "exp(−(f[m] − b[n])² / β): 1 where the entries are equal", color=INK)
