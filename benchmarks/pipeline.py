"""The input pipeline: images a second decoded, augmented, handed out from memory, and consumed by a training step.

The first three are compared with the plain way to do the same (`benchmarks.plain_input`). The last says how much a
pipeline has to supply on this machine, which shows whether training could be waiting for it.
"""

import os
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor

from benchmarks import plain_input, table
from benchmarks.measure import rate, ratio, side_by_side, write
from benchmarks.pictures import write_pictures
from svdistill import Distiller
from svdistill.data import Augmentation, Batches, Files, FileSet, ImageSet, augment, channel_statistics
from svdistill.data.statistics import standardize, unit_range
from svdistill.losses import SVDLoss
from svdistill.nets import create, default_taps
from svdistill.training import launch, make_optimizer, step

BATCH = 128
PICTURES = 600
AUGMENTATION = Augmentation(flip=True, rotation=15.0, shift=4)
PLAIN = "plain: one image at a time, images/s"
OURS = "svdistill, images/s"
FASTER = "times faster"
STEPS = {  # what learns: student, teacher, image size, batch
    "VGG student alone": ("vgg-student", None, 32, 128),
    "VGG pair, KD-SVD": ("vgg-student", "vgg-teacher", 32, 128),
    "VGG student alone ": ("vgg-student", None, 224, 8),
    "VGG pair, KD-SVD ": ("vgg-student", "vgg-teacher", 224, 8),
    "WRN-16-2 alone": ("wrn-16-2", None, 224, 8),
    "WRN-16-2 from WRN-40-2, KD-SVD": ("wrn-16-2", "wrn-40-2", 224, 8),
}


def exhaust(batches: Callable[[], Iterable[object]]) -> None:
    """Take all batches and discard them."""
    for _ in batches():
        pass


def devices() -> tuple[str, ...]:
    """Return where to measure: the CPU, and a GPU where there is one."""
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def decoded(*, pictures: int = PICTURES, rounds: int = 7) -> list[dict[str, Any]]:
    """Time decoding of photographs to 224 × 224, by 0, 1 and 2 worker processes and by one on each core."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names = write_pictures(folder, pictures)
        order = torch.randperm(pictures, generator=torch.Generator().manual_seed(0)).split(BATCH)
        functions: dict[str, Callable[[], None]] = {}
        workers = sorted({0, 1, 2, min(16, os.cpu_count() or 1)})
        for number in workers:
            labels = torch.zeros(pictures, dtype=torch.int64)
            ours = FileSet(Files(folder, names), torch.arange(pictures), labels, ("all",), 224, workers=number)
            plain = plain_input.loader(
                plain_input.Photographs(folder, names), batch=BATCH, workers=number, shuffle=True
            )
            functions[f"ours {number}"] = partial(exhaust, partial(ours.batches, order))
            functions[f"plain {number}"] = partial(exhaust, partial(iter, plain))
        times = side_by_side(functions, rounds=rounds, warmup=1, title="decoding")
    return [
        {
            "worker processes": number,
            OURS: rate(times[f"ours {number}"], pictures),
            PLAIN: rate(times[f"plain {number}"], pictures),
            FASTER: ratio(times[f"plain {number}"], times[f"ours {number}"]),
        }
        for number in workers
    ]


def augmented(size: int, device: str, *, batches: int = 8, rounds: int = 9) -> dict[str, Any]:
    """Time a few batches from uint8 to flipped, turned, shifted, standardized float: at once, or image by image."""
    number = batches * BATCH
    pixels, mean, std = _pixels(number, 3, size)
    there, means, stds = (x.to(device) for x in (pixels, mean, std))
    images = ImageSet(there, torch.zeros(number, dtype=torch.int64, device=device), ("all",))
    ours = Batches(images, BATCH, seed=0, augmentation=AUGMENTATION, mean=mean, std=std)
    plain = plain_input.Pixels(pixels, AUGMENTATION, mean, std)
    generator = torch.Generator().manual_seed(0)

    def vary(image: Tensor) -> Tensor:
        return standardize(augment(unit_range(image[None]), AUGMENTATION, generator), means, stds)

    functions: dict[str, Callable[[], None]] = {
        "at once": partial(exhaust, ours.epoch),
        "one by one": partial(exhaust, lambda: (torch.cat([vary(x) for x in some]) for some in there.split(BATCH))),
        "Pillow": partial(
            exhaust, lambda: (torch.stack([plain[int(i)] for i in some]) for some in torch.arange(number).split(BATCH))
        ),
    }
    times = side_by_side(functions, rounds=rounds, title=f"augmentation, {size} pixels, {device}")
    return {
        "pixels": f"{size} × {size}",
        "device": device,
        "svdistill, a batch at once, images/s": rate(times["at once"], number),
        "the same warp, image by image, images/s": rate(times["one by one"], number),
        FASTER: ratio(times["one by one"], times["at once"]),
        "Pillow, image by image, images/s": rate(times["Pillow"], number),
        f"{FASTER} than Pillow": ratio(times["Pillow"], times["at once"]),
    }


def from_memory(channels: int, size: int, device: str, *, number: int = 6400, rounds: int = 7) -> dict[str, Any]:
    """Time one epoch of shuffled, augmented, standardized batches of images that are in memory as uint8."""
    pixels, mean, std = _pixels(number, channels, size)
    images = ImageSet(pixels, torch.zeros(number, dtype=torch.int64), ("all",)).to(device)
    ours = Batches(images, BATCH, seed=0, augmentation=AUGMENTATION, mean=mean, std=std)
    plain = plain_input.Pixels(pixels, AUGMENTATION, mean, std)
    functions: dict[str, Callable[[], None]] = {"ours": partial(exhaust, ours.epoch)}
    for workers in (0, 2):
        source = plain_input.loader(plain, batch=BATCH, workers=workers, shuffle=True)
        functions[f"plain {workers}"] = partial(exhaust, partial(iter, source))
    times = side_by_side(functions, rounds=rounds, warmup=1, title=f"from memory, {size} pixels, {device}")
    return {
        "images": f"{channels} × {size} × {size}",
        "device": device,
        OURS: rate(times["ours"], number),
        PLAIN: rate(times["plain 0"], number),
        "plain, 2 worker processes, images/s": rate(times["plain 2"], number),
        FASTER: ratio(times["plain 0"], times["ours"]),
        f"{FASTER} than with 2 worker processes": ratio(times["plain 2"], times["ours"]),
    }


def _pixels(number: int, channels: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return random images, uint8, with their mean and deviation."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (number, channels, size, size), dtype=torch.uint8, generator=generator)
    return pixels, *channel_statistics(pixels)


def consumed(name: str, device: str, *, rounds: int = 5) -> dict[str, Any]:
    """Time a training step: how many images a second it consumes."""
    student_name, teacher_name, size, batch = STEPS[name]
    engine = launch(device=device, seed=0)
    student = create(student_name, num_classes=100)
    teacher = None if teacher_name is None else create(teacher_name, num_classes=100)
    distiller = Distiller(
        student,
        teacher,
        loss=None if teacher_name is None else SVDLoss(reduction="sum"),
        student_taps=() if teacher_name is None else default_taps(student_name),
        teacher_taps=() if teacher_name is None else default_taps(teacher_name),
    ).to(device)
    distiller.train()
    optimizer = make_optimizer("sgd", student, lr=1e-4, weight_decay=1e-4)
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(0, 100, (batch,), device=device)
    run = partial(step, engine, distiller, optimizer, images, labels, epoch=0)
    times = side_by_side({"step": run}, rounds=rounds, warmup=1, title=f"{name}, {size} pixels, {device}")
    return {
        "training step": name.strip(),
        "pixels": f"{size} × {size}",
        "batch": batch,
        "device": device,
        "images/s": rate(times["step"], batch),
    }


def main() -> None:
    """Measure all four, print the tables, write JSON."""
    figures: dict[str, Any] = {
        "decoded": decoded(),
        "augmented": [
            augmented(size, device, batches=batches) for device in devices() for size, batches in ((32, 16), (224, 2))
        ],
        "from_memory": [from_memory(*shape, device) for device in devices() for shape in ((1, 28), (3, 32))],
        "consumed": [consumed(name, device) for device in devices() for name in STEPS],
        "batch": BATCH,
    }
    Console().print(Markdown(table.pipeline(figures)))
    print(f"written: {write('pipeline', figures)}")


if __name__ == "__main__":
    main()
