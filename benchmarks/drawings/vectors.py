"""Singular vectors of teacher and student, as a decomposition gives them and after alignment."""

from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from benchmarks.drawings.scene import Scene, matrices
from benchmarks.drawings.sheet import STUDENT, TEACHER, sheet, tidy
from svdistill.linalg import assign, truncated_svd
from svdistill.linalg.align import aligning_signs
from svdistill.report.svg import MUTED

HEIGHT = 430
RANK = 2
ORDINALS = ("1st", "2nd", "3rd")


class Aligned(NamedTuple):
    """Two vectors of the teacher and three of the student at the first tap.

    Attributes:
        teacher: (2, D), with the sign that the loss gives them.
        raw: (3, D), the student's as a decomposition gives them.
        chosen: (2,), which of them answers.
        signs: (2,), +1 or −1, what it is multiplied by.
    """

    teacher: Tensor
    raw: Tensor
    chosen: Tensor
    signs: Tensor

    @property
    def answers(self) -> Tensor:
        """(2, D), the student's vectors after alignment."""
        return self.raw[self.chosen] * self.signs[:, None]


def align(teacher: Tensor, student: Tensor) -> Aligned:
    """Decompose a matrix of each, (N, D), and align the student's vectors with the teacher's."""
    goal = truncated_svd(teacher[None], RANK)[1][0].mT
    raw = torch.linalg.svd(student, full_matrices=False).Vh[: RANK + 1]
    cosine = raw @ goal.mT
    index = assign(cosine[None], assignment="one_to_one")[0]
    return Aligned(goal, raw, index, aligning_signs(cosine.gather(0, index[None])[0]))


def shown(scene: Scene) -> Aligned:
    """Return what is drawn: of the test images the first where a vector of another rank answers, else the first."""
    pairs = zip(matrices(scene.teacher, scene.images)[0], matrices(scene.student, scene.images)[0], strict=True)
    found = [align(*pair) for pair in pairs]
    others = [one for one in found if one.chosen.tolist() != list(range(RANK))]
    return (others or found)[0]


def draw(scene: Scene) -> str:
    """Draw the two vectors of the teacher over those of the student, before and after alignment."""
    found = shown(scene)
    order = found.teacher[0].argsort()
    columns = (("as decomposed", found.raw[:RANK]), ("aligned", found.answers))
    title = "Singular vectors of teacher and student before and after alignment"
    with sheet("method-vectors", title, HEIGHT) as (figure, written):
        panels = figure.subplots(RANK, 2, sharex=True, sharey=True)
        for column, (name, vectors) in enumerate(columns):
            for i, axes in enumerate(panels[:, column]):
                _draw_vectors(axes, found.teacher[i][order], vectors[i][order])
                which = _named(int(found.chosen[i]), float(found.signs[i])) if column else ORDINALS[i]
                cosine = float(vectors[i] @ found.teacher[i])
                axes.set_title(f"student’s {which}: cosine {cosine:.2f}".replace("-", "−"), fontsize=13.5, loc="left")
            panels[-1, column].set_xlabel("channel")
            panels[0, column].text(0.5, 1.22, name, transform=panels[0, column].transAxes, ha="center", weight="bold")
        for i in range(RANK):
            panels[i, 0].set_ylabel(f"{ORDINALS[i]} vector")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2)
        return written()


def _draw_vectors(axes: Axes, teacher: Tensor, student: Tensor) -> None:
    channels = np.arange(len(teacher))
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.bar(channels, teacher.numpy(), color=TEACHER, alpha=0.45, width=0.9, label="teacher")
    axes.plot(channels, student.numpy(), color=STUDENT, marker="o", markersize=5, linewidth=1.4, label="student")
    axes.set_xticks([0, 5, 10, 15])
    tidy(axes)


def _named(index: int, sign: float) -> str:
    """Say which of the student's vectors it is."""
    return f"{ORDINALS[index]}, flipped" if sign < 0 else ORDINALS[index]
