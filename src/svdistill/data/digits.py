"""The embedded digits: 1,797 scans of 8×8 pixels; digits.LICENSE says whose they are."""

from importlib import resources

import numpy as np
import torch

from svdistill.data.sets import Dataset, ImageSet

TRAIN_PER_CLASS = 100


def load_digits() -> Dataset:
    """Load the embedded digits: 1,000 images to train with (100 a class) and 797 to test with.

    The first 100 of each class in the file's own order are for training. The file keeps the digits of one writer
    together, so most test images are by people whose hand training has not seen; and no random number is drawn, so the
    split is the same everywhere. The values 0 to 16 become 0 to 255. A mirrored digit is another character or
    none, so flipping is not allowed.

    Returns:
        The data set, images (N, 1, 8, 8).

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998
    (its test part, 13 writers).
    """
    with resources.files("svdistill.data").joinpath("digits.npz").open("rb") as file, np.load(file) as archive:
        pixels, labels = (torch.from_numpy(archive[name]) for name in ("images", "labels"))
    images = pixels.double().mul(255 / 16).round().to(torch.uint8)[:, None]
    labels = labels.to(torch.int64)
    classes = tuple(str(digit) for digit in range(10))
    one_hot = torch.nn.functional.one_hot(labels, len(classes))
    # For each image, how many of its class came before it.
    earlier = (one_hot.cumsum(0) - one_hot).gather(1, labels[:, None]).flatten()
    train = earlier < TRAIN_PER_CLASS
    return Dataset(
        name="digits",
        train=ImageSet(images[train], labels[train], classes),
        test=ImageSet(images[~train], labels[~train], classes),
        flip_allowed=False,
    )
