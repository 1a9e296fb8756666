"""Where CIFAR-100 is, and a tiny one made up for rehearsals."""

from pathlib import Path

import torch

from svdistill import data
from svdistill.data.cifar import CIFAR100, find_cifar

HOW = f"put {CIFAR100.binary.archive}, or the folder unpacked from it, there, or name its folder with --data"


def find(folder: Path | None) -> tuple[Path | None, str]:
    """Look for CIFAR-100; nothing is downloaded.

    Args:
        folder: where to look; None = where svdistill does.

    Returns:
        The archive, or the folder with the files, or None; and one line that says what to do where there is none.
    """
    if folder is not None:
        return find_cifar(CIFAR100, folder), f"no CIFAR-100 in {folder}: {HOW.partition(', or name')[0]}"
    known = data.describe(CIFAR100.name)
    return known.found, f"no CIFAR-100 in {known.folder}: {HOW}"


def make_up(folder: Path, *, train: int = 200, test: int = 100) -> Path:
    """Write a made-up CIFAR-100 in its binary layout, in which a network can learn something; return the folder.

    Args:
        folder: where to put it.
        train: number of images to train on.
        test: number of images to measure with.
    """
    version = CIFAR100.binary
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    means = torch.randint(40, 216, (CIFAR100.classes, 3, 1, 1), generator=generator)
    for name, count in ((version.train[0], train), (version.test, test)):
        labels = torch.arange(count) % CIFAR100.classes
        noise = torch.randint(-40, 40, (count, 3, 32, 32), generator=generator)
        pixels = (means[labels] + noise).to(torch.uint8).flatten(1)
        fine = labels[:, None].to(torch.uint8)
        (folder / name).write_bytes(torch.cat([fine // 5, fine, pixels], 1).numpy().tobytes())
    names = "\n".join(f"class_{number}" for number in range(CIFAR100.classes))
    (folder / version.names).write_text(f"{names}\n")
    return folder
