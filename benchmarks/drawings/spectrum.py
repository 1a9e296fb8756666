"""The spectrum of a map: how much of its energy lies along each singular vector."""

import numpy as np

from benchmarks.drawings.scene import Scene
from benchmarks.drawings.sheet import STUDENT, TEACHER, sheet, tidy
from svdistill.jobs.diagnostics import diagnose
from svdistill.report.svg import MUTED

HEIGHT = 320
VALUES = 8  # that are shown; a map has no more than it has positions


def draw(scene: Scene) -> str:
    """Draw the spectra of the taps of more than one position, mean over some test images."""
    found = diagnose(scene.student, scene.teacher, images=scene.images)
    spectra = {who: 100 * found[f"{who}_spectrum"][:, :VALUES] for who in ("teacher", "student")}
    shown = [i for i, values in enumerate(spectra["teacher"]) if np.isfinite(values[1])]
    title = "Share of a map's energy in each of its singular values, teacher and student"
    with sheet("method-spectrum", title, HEIGHT) as (figure, written):
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, tap in zip(panels, shown, strict=True):
            for who, colour, marker in (("teacher", TEACHER, "o"), ("student", STUDENT, "s")):
                values = spectra[who][tap]
                ranks = np.arange(1, len(values) + 1)
                axes.plot(ranks, values, color=colour, marker=marker, markersize=6, linewidth=1.8)
            positions = int(np.isfinite(found["teacher_spectrum"][tap]).sum())
            axes.set_title(f"{scene.teacher.taps[tap]}\n", fontsize=15)
            axes.text(0.5, 1.04, f"{positions} values", transform=axes.transAxes, ha="center", color=MUTED)
            axes.set_xticks([1, 4, 8])
            axes.set_xlim(0.5, VALUES + 0.5)
            axes.set_ylim(0, 100)
            tidy(axes)
        panels[0].set_ylabel("share of energy, %")
        figure.supxlabel("singular value, in order", fontsize=15)
        panels[0].text(1.6, 88, "teacher", color=TEACHER, weight="bold")
        panels[0].text(1.6, 76, "student", color=STUDENT, weight="bold")
        return written()
