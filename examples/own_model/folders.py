"""Write images of a data set as folders, where you have your own: `python folders.py fashion-mnist`.

Usage: folders.py DATASET [PHOTOS [TEST]]. In the current folder it makes `photos/`, images without labels, and
`labelled/`, ten a class to train with (`labelled/train/CLASS`) and others to measure on (`labelled/val/CLASS`).
"""

import sys
from pathlib import Path

from PIL import Image

import svdistill
from svdistill.data import ImageSource

LABELS = 10  # a class


def write(images: ImageSource, folder: Path) -> None:
    """Write images as PNG files, in a folder a class where they have labels."""
    for number, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
        file = folder / (images.classes[label].replace("/", " or ") if images.labelled else "all") / f"{number:05}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)


name, photos, test = sys.argv[1], int((sys.argv[2:] or [10_000])[0]), int((sys.argv[3:] or [2_000])[0])
images = svdistill.data.load(name, channels=3)
labelled = LABELS * images.train.num_classes
write(images.train.subset(labelled, seed=0), Path("labelled/train"))
write(images.test.subset(test, seed=0), Path("labelled/val"))
rest = images.train.rest(labelled, seed=0).unlabelled()
write(rest.subset(photos, seed=0), Path("photos/train"))
write(rest.rest(photos, seed=0).subset(photos // 20, seed=0), Path("photos/val"))
