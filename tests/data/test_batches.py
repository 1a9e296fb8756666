"""Tests of batches."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from svdistill.data import Augmentation, Batches, ImageSet, channel_statistics, standardize
from svdistill.errors import CheckpointError, DataError, RecipeError, ShapeError

SETTINGS = Augmentation(flip=True, rotation=20.0, shift=1)


def image_set(number: int = 23) -> ImageSet:
    """Random images; the label is the image's number."""
    images = torch.randint(0, 256, (number, 2, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(images, torch.arange(number), tuple(map(str, range(number))))


def batches(number: int = 23, size: int = 5, *, seed: int = 0, augmentation: Augmentation = SETTINGS) -> Batches:
    """Batches of random images, standardized with their own statistics."""
    images = image_set(number)
    mean, std = channel_statistics(images.images)
    return Batches(images, size, seed=seed, augmentation=augmentation, mean=mean, std=std)


def take(source: Batches, number: int) -> list[tuple[Tensor, Tensor]]:
    """So many batches, across the ends of epochs."""
    taken: list[tuple[Tensor, Tensor]] = []
    while True:
        for batch in source.epoch():
            taken.append(batch)
            if len(taken) == number:
                return taken


def equal(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    """Whether two lists of batches agree to the last bit."""
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True))


def test_an_epoch() -> None:
    """An epoch hands out each image at most once and drops the rest that fills no batch."""
    source = batches(23, 5)
    assert len(source) == 4
    labels = [batch[1] for batch in source.epoch()]
    assert [len(label) for label in labels] == [5] * 4
    assert len(set(torch.cat(labels).tolist())) == 20


def test_types_and_shapes() -> None:
    """Images are float32, labels int64."""
    images, labels = next(batches().epoch())
    assert (images.dtype, images.shape) == (torch.float32, (5, 2, 6, 6))
    assert (labels.dtype, labels.shape) == (torch.int64, (5,))


def test_images_belong_to_their_labels() -> None:
    """Without augmentation, a batch holds the standardized images of its labels."""
    images, labels = next(batches(augmentation=Augmentation()).epoch())
    whole = image_set()
    expected = standardize(whole.images[labels], *channel_statistics(whole.images))
    assert torch.equal(images, expected)


def test_gap_of_a_shift_is_black() -> None:
    """What a shift leaves open is 0 before standardization, not the mean."""
    white = ImageSet(torch.full((64, 1, 4, 4), 255, dtype=torch.uint8), torch.zeros(64).long(), ("a",))
    source = Batches(
        white, 64, seed=0, augmentation=Augmentation(shift=2), mean=torch.tensor([0.5]), std=torch.tensor([0.25])
    )
    images, _ = next(source.epoch())
    assert set(images.unique().tolist()) == {-2.0, 2.0}


def test_epochs_differ() -> None:
    """Each epoch has its own order."""
    source = batches(23, 23)
    orders = [torch.cat([labels for _, labels in source.epoch()]).tolist() for _ in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(23))}


def test_seed_fixes_everything() -> None:
    """The same seed gives the same batches whatever the global generator says; another seed gives others."""
    torch.manual_seed(0)
    first = take(batches(seed=4), 9)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert equal(take(batches(seed=4), 9), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not equal(take(batches(seed=5), 9), first)


def test_position() -> None:
    """The position counts batches from the moment they are handed out, and starts again with the next epoch."""
    source = batches()
    assert source.position == 0
    seen = [source.position for _ in source.epoch()]
    assert seen == [1, 2, 3, 4]
    assert source.position == len(source)
    next(source.epoch())
    assert source.position == 1


def test_an_epoch_is_continued() -> None:
    """Leaving an epoch and asking again gives its rest."""
    source, whole = batches(), take(batches(), 4)
    first = [batch for batch, _ in zip(source.epoch(), range(2), strict=False)]
    assert equal(first[:2], whole[:2])
    # zip has drawn a third batch before it saw that the range was over, and so it counts as done.
    assert equal(list(source.epoch()), whole[3:])


@pytest.mark.parametrize("augmentation", [SETTINGS, Augmentation()])
@pytest.mark.parametrize("done", range(10))
def test_restored_state_goes_on_bit_for_bit(done: int, augmentation: Augmentation) -> None:
    """After any number of batches, a restored state gives the same further batches, through a file too."""
    uninterrupted = take(batches(augmentation=augmentation), 14)
    source = batches(augmentation=augmentation)
    if done:
        take(source, done)
    buffer = io.BytesIO()
    torch.save(source.state_dict(), buffer)
    buffer.seek(0)
    other = batches(seed=99, augmentation=augmentation)
    take(other, 3)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert other.position == source.position
    assert equal(take(other, 14 - done), uninterrupted[done:])


def test_state_is_a_copy() -> None:
    """A state that was taken does not change when the batches go on, nor when it is restored and used."""
    source = batches()
    take(source, 3)
    state = source.state_dict()
    following = take(source, 6)
    for _ in range(2):
        source.load_state_dict(state)
        assert equal(take(source, 6), following)


def test_state_of_other_sizes() -> None:
    """A state for other data or batches is refused, and nothing has changed."""
    source = batches(23, 5)
    expected = take(batches(23, 5), 1)
    for other in (batches(24, 5), batches(23, 4)):
        with pytest.raises(CheckpointError, match="but there are 23 in batches of 5"):
            source.load_state_dict(other.state_dict())
    assert equal(take(source, 1), expected)


def test_incomplete_state() -> None:
    """A state that lacks an entry is refused by the entry's name."""
    state = batches().state_dict()
    del state["order"]
    with pytest.raises(CheckpointError, match="lacks order"):
        batches().load_state_dict(state)


def test_batch_larger_than_the_data() -> None:
    """A batch that can never be filled is an error with the largest size that can."""
    with pytest.raises(DataError, match=r"batch of 24 is larger than the 23 training images.*at most 23"):
        batches(23, 24)
    assert len(batches(23, 23)) == 1


@pytest.mark.parametrize("size", [0, -1, 2.0, "5", True, None])
def test_impossible_batch_size(size: Any) -> None:
    """A batch size that is no number of images is refused."""
    with pytest.raises(RecipeError, match="batch_size is"):
        batches(size=size)


def test_statistics_of_other_channels() -> None:
    """Statistics that do not fit the channels are refused when the batches are made."""
    with pytest.raises(ShapeError, match="mean"):
        Batches(image_set(), 5, seed=0, augmentation=SETTINGS, mean=torch.zeros(1), std=torch.ones(1))
