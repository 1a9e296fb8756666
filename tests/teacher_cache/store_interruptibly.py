"""Stores a teacher's side as a program of its own, which says on stdout when it is time to kill it; see test_cache.py.

Usage: store_interruptibly.py FOLDER WHEN, with WHEN a number of images that are done, or never.
"""

import importlib
import sys
from pathlib import Path

import torch

from svdistill import teacher_cache
from svdistill.data import Augmentation, ImageSet, Views, every_view
from svdistill.distiller import Distiller
from svdistill.losses import SoftTargetLoss, SVDLoss
from svdistill.nets import create, default_taps

IMAGES, UNLABELLED, VIEWS = 20, 7, 2
KEY = teacher_cache.Key(
    teacher="t",
    images=("a", "b"),
    mean=(0.5,),
    std=(0.25,),
    augmentation={"rotation": 20.0},
    views=VIEWS,
    seed=0,
    taps=("block1", "block2"),
    drop_tokens=0,
    grids=((8, 8), (4, 4)),
    losses={"svd": {"rank": 1, "basis": "own"}, "soft-target": {}},
)


def sets():
    """Images with labels and images without."""
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.randint(0, 256, (number, 1, 16, 16), generator=generator, dtype=torch.uint8)
        for number in (IMAGES, UNLABELLED)
    )
    return [
        ImageSet(first, torch.arange(IMAGES) % 3, ("a", "b", "c")),
        ImageSet(second, torch.full((UNLABELLED,), -1), ("none",), labelled=False),
    ]


def distiller(teacher=None):
    """A small VGG pair with two losses; in place of the teacher what is stored of it, if that is given."""
    torch.manual_seed(0)
    student, own = (create(f"vgg-{who}", num_classes=3, in_channels=1, width=0.1) for who in ("student", "teacher"))
    losses = {"svd": SVDLoss(), "soft-target": SoftTargetLoss()}
    taps = {f"{who}_taps": default_taps(f"vgg-{who}")[:2] for who in ("student", "teacher")}
    return Distiller(student, teacher or own, loss=losses, **taps)


def batches(start=0):
    """All views, from an image on."""
    varied = Augmentation(rotation=20.0)
    mean, std = torch.tensor(KEY.mean), torch.tensor(KEY.std)
    return every_view(sets(), 4, views=Views(count=VIEWS), augmentation=varied, mean=mean, std=std, start=start)


def take(folder, **options):
    """Make the cache, or resume."""
    whole = distiller()
    given = {"extract": whole.extract, "tap_shapes": whole.teacher_shapes, "batches": batches}
    given |= {"images": IMAGES + UNLABELLED, "precise": {"svd": SVDLoss.precise}}
    given |= {name: options.pop(name) for name in given.keys() & options.keys()}
    return teacher_cache.store(folder, options.pop("key", KEY), teacher_cache.Source(**given), **options)


def main(folder, when):
    """Make it; at this number of images, wait for the end."""
    torch.set_num_threads(1)
    importlib.import_module("svdistill.teacher_cache.store")._SAVE_SECONDS = 0.0
    done = 0

    def progress(images):
        nonlocal done
        done += images
        if when != "never" and done >= int(when):
            print("now", flush=True)
            sys.stdin.read()

    take(Path(folder), progress=progress)


if __name__ == "__main__":
    main(*sys.argv[1:])
