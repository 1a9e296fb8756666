"""Tests of what tells image sets apart."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.data.pictures import encoded, noise, tree
from torch import Tensor

from svdistill.data import Dataset, ImageSet, fingerprint, load, rotation_task
from svdistill.data.digest import pixel_digests
from svdistill.data.folder import load_image_folder
from svdistill.errors import DataError


def made(number: int = 6, size: int = 4, channels: int = 3, *, seed: int = 0) -> ImageSet:
    """Images of noise, of three classes in turn."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (number, channels, size, size), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(number) % 3, ("x", "y", "z"))


def rows(images: Tensor) -> list[bytes]:
    """The digests of images, worked out one by one."""
    return [hashlib.sha256(bytes(image.flatten().tolist())).digest()[:16] for image in images]


def listed(digests: Tensor) -> list[bytes]:
    """The rows of digests."""
    return [bytes(row.tolist()) for row in digests]


def test_by_hand() -> None:
    """Sixteen bytes of each image's SHA-256, then that of the shape and all of them; however they lie in memory."""
    images = made()
    assert listed(images.digests()) == rows(images.images)
    assert fingerprint(images) == hashlib.sha256(b"[3, 4, 4]" + b"".join(rows(images.images))).hexdigest()
    lying = images.images.contiguous(memory_format=torch.channels_last)
    assert fingerprint(replace(images, images=lying)) == fingerprint(images)


def test_more_than_a_piece() -> None:
    """Image for image, wherever the set is split."""
    images = torch.arange(4100, dtype=torch.int32).view(torch.uint8).view(-1, 1, 2, 2)
    assert listed(pixel_digests(images)) == rows(images)


def test_what_counts() -> None:
    """A pixel, the order, the number and the shape do; labels and names of classes do not."""
    images = made()
    pixel = images.images.clone()
    pixel[5, 2, 3, 3] ^= 1
    other = [
        replace(images, images=pixel),
        images.take(torch.tensor([1, 0, 2, 3, 4, 5])),
        images.take(torch.arange(5)),
        replace(images, images=images.images.reshape(6, 3, 2, 8)),
    ]
    assert len({fingerprint(one) for one in (images, *other)}) == 5
    renamed = ImageSet(images.images, images.labels.flip(0), ("p", "q", "r"))
    assert fingerprint(renamed) == fingerprint(images.unlabelled()) == fingerprint(images)


def test_images_are_what_they_were_before_rounding() -> None:
    """Resized, made grey, turned: what another version of torch would round otherwise does not count."""
    images = made()
    before = rows(images.images)
    for one in (images.with_channels(1), images.resized(8), images.with_channels(1).with_channels(3).resized(8)):
        assert listed(one.digests()) == before
    chosen = images.resized(8).with_channels(1)
    assert listed(chosen.digests()) == before
    assert listed(chosen.to("cpu").unlabelled().digests()) == before
    assert listed(chosen.take(torch.tensor([4, 1])).digests()) == [before[4], before[1]]
    assert listed(chosen.select(["y"]).digests()) == [before[1], before[4]]
    part, rest = (listed(one.digests()) for one in (chosen.subset(3, seed=0), chosen.rest(3, seed=0)))
    assert (len(part), sorted(part + rest)) == (3, sorted(before))
    turned = rotation_task(Dataset("d", chosen, chosen, flip_allowed=True))
    assert listed(turned.train.digests()) == [one for one in before for _ in range(4)]
    rounded = replace(chosen, images=chosen.images ^ 1)
    assert fingerprint(rounded) == fingerprint(chosen)
    assert fingerprint(images.resized(8)) != fingerprint(images.resized(16))
    assert fingerprint(made(seed=1).resized(8)) != fingerprint(images.resized(8))


def test_digests_of_other_images() -> None:
    """As many as there are images, or none."""
    images = made()
    with pytest.raises(DataError, match="6 images came with 5 digests"):
        replace(images, origins=images.digests()[:5])


def test_files_in_memory_and_on_disk(tmp_path: Path) -> None:
    """The bytes of the files count, not names and places, and not whether they are decoded yet."""
    root = tree(tmp_path / "a", size=8)
    kept, streamed = (load_image_folder(root, image_size=8, in_memory=size).train for size in (1 << 20, 0))
    content = [file.read_bytes() for file in sorted((root / "train").glob("*/*.png"))]
    assert listed(streamed.digests()) == [hashlib.sha256(one).digest()[:16] for one in content]
    assert fingerprint(kept) == fingerprint(streamed)
    index = torch.tensor([7, 2])
    assert fingerprint(kept.take(index)) == fingerprint(streamed.take(index)) != fingerprint(kept)
    assert fingerprint(load_image_folder(root, image_size=4).train) != fingerprint(kept)

    root.rename(tmp_path / "b")
    for file in sorted((tmp_path / "b").glob("*/*/*.png")):
        file.rename(file.with_name(f"photo-{file.name}"))
    assert fingerprint(load("image-folder", root=tmp_path / "b", image_size=8).train) == fingerprint(kept)
    (tmp_path / "b" / "train" / "dog" / "photo-2.png").write_bytes(encoded(noise(0, 8, 8)))
    assert fingerprint(load("image-folder", root=tmp_path / "b", image_size=8).train) != fingerprint(kept)
