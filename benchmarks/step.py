"""One training step with KD-SVD against its parts: teacher forward, student forward and two student backwards."""

from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from benchmarks.measure import machine, ratio, side_by_side, spread, write
from svdistill import Distiller
from svdistill.losses import SVDLoss
from svdistill.nets import create, default_taps
from svdistill.train import launch, make_optimizer, step

BATCH = 128
TARGET = 1.15


def main() -> None:
    """Measure the published VGG pair at full width, print a table, write JSON."""
    fabric = launch(device="cpu", seed=0)
    student, teacher = create("vgg-student", num_classes=100), create("vgg-teacher", num_classes=100)
    distiller = Distiller(
        student,
        teacher,
        loss=SVDLoss(reduction="sum"),
        student_taps=default_taps("vgg-student"),
        teacher_taps=default_taps("vgg-teacher"),
    ).train()
    optimizer = make_optimizer("sgd", student, lr=1e-4, weight_decay=1e-4)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 100, (BATCH,))
    parameters = list(student.parameters())

    def parts() -> None:
        with torch.no_grad():
            teacher(images)
        logits = student(images)
        loss = F.cross_entropy(logits, labels)
        torch.autograd.grad(loss, parameters, retain_graph=True)
        torch.autograd.grad(loss, parameters)

    def plain() -> None:
        loss = F.cross_entropy(student(images), labels)
        torch.autograd.grad(loss, parameters)

    whole = partial(step, fabric, distiller, optimizer, images, labels, epoch=0)
    times = side_by_side({"KD-SVD step": whole, "its parts": parts, "plain student": plain}, rounds=15, title="step")
    share = ratio(times["KD-SVD step"], times["its parts"])
    table = Table(title=f"Training step, VGG pair, full width, batch {BATCH}, {machine()['threads']} threads")
    for column in ("", "median ms", "quartiles", "images/s"):
        table.add_column(column, justify="right" if column else "left")
    for name, seconds in times.items():
        s = spread(seconds)
        table.add_row(
            name, f"{s['median_ms']:.0f}", f"{s['q1_ms']:.0f}–{s['q3_ms']:.0f}", f"{BATCH / s['median_ms'] * 1e3:.0f}"
        )
    Console().print(table)
    print(f"KD-SVD step / its parts: {share:.2f} (target ≤ {TARGET})")
    figures = {name: spread(seconds) for name, seconds in times.items()}
    print(f"written: {write('step', {'batch': BATCH, 'step_over_parts': share, **figures})}")


if __name__ == "__main__":
    main()
