"""Tests of batches."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from svdistill.data import (
    Augmentation,
    Batch,
    Batches,
    ColourJitter,
    Erasing,
    ImageSet,
    Mixed,
    Mixing,
    ResizedCrop,
    Shard,
    Views,
    channel_statistics,
    every_view,
    standardize,
)
from svdistill.errors import CheckpointError, DataError, OptionError, ShapeError

SETTINGS = Augmentation(
    flip=True,
    rotation=20.0,
    shift=1,
    resized_crop=ResizedCrop(),
    erasing=Erasing(),
    colour_jitter=ColourJitter(brightness=0.4, contrast=0.4),
    trivial_augment=True,
)


def image_set(number: int = 23) -> ImageSet:
    """Random images; the label is the image's number."""
    images = torch.randint(0, 256, (number, 2, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(images, torch.arange(number), tuple(map(str, range(number))))


def batches(number: int = 23, size: int = 5, *, seed: int = 0, augmentation: Augmentation = SETTINGS) -> Batches:
    """Batches of random images, standardized with their own statistics."""
    images = image_set(number)
    mean, std = channel_statistics(images.images)
    return Batches(images, size, seed=seed, augmentation=augmentation, mean=mean, std=std)


def mixed(number: int = 23, size: int = 5, others: int = 11, other_size: int = 3, *, seed: int = 0) -> Mixed:
    """Labelled batches with unlabelled ones beside them, whose images are negative ones of the same kind."""
    bare = ImageSet(255 - image_set(others).images, torch.full((others,), -1), ("none",), labelled=False)
    mean, std = channel_statistics(image_set(number))
    second = Batches(bare, other_size, seed=seed + 1, augmentation=SETTINGS, mean=mean, std=std)
    return Mixed(batches(number, size, seed=seed), second)


def take(source: Batches | Mixed, number: int) -> list[Batch]:
    """This many batches, across the ends of epochs."""
    taken: list[Batch] = []
    while True:
        for batch in source.epoch():
            taken.append(batch)
            if len(taken) == number:
                return taken


def equal(first: list[Batch], second: list[Batch]) -> bool:
    """Whether two lists of batches agree to the last bit."""
    pairs = [pair for one, other in zip(first, second, strict=True) for pair in zip(one, other, strict=True)]
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


def test_an_epoch() -> None:
    """An epoch hands out each image at most once and drops the rest that fills no batch."""
    source = batches(23, 5)
    assert len(source) == 4
    labels = [batch[1] for batch in source.epoch()]
    assert [len(label) for label in labels] == [5] * 4
    assert len(set(torch.cat(labels).tolist())) == 20


def test_types_and_shapes() -> None:
    """Images are float32, labels int64."""
    images, labels, *_ = next(batches().epoch())
    assert (images.dtype, images.shape) == (torch.float32, (5, 2, 6, 6))
    assert (labels.dtype, labels.shape) == (torch.int64, (5,))


def test_images_belong_to_their_labels() -> None:
    """Without augmentation, a batch holds the standardized images of its labels."""
    images, labels, *_ = next(batches(augmentation=Augmentation()).epoch())
    whole = image_set()
    expected = standardize(whole.images[labels], *channel_statistics(whole.images))
    assert torch.equal(images, expected)


def test_gap_of_a_shift_is_black() -> None:
    """What a shift leaves open is 0 before standardization, not the mean."""
    white = ImageSet(torch.full((64, 1, 4, 4), 255, dtype=torch.uint8), torch.zeros(64).long(), ("a",))
    source = Batches(
        white, 64, seed=0, augmentation=Augmentation(shift=2), mean=torch.tensor([0.5]), std=torch.tensor([0.25])
    )
    images, *_ = next(source.epoch())
    assert set(images.unique().tolist()) == {-2.0, 2.0}


def test_epochs_differ() -> None:
    """Each epoch has its own order."""
    source = batches(23, 23)
    orders = [torch.cat([labels for _, labels, *_ in source.epoch()]).tolist() for _ in range(3)]
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
def test_restored_state_continues_bit_for_bit(done: int, augmentation: Augmentation) -> None:
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
    """A state that was taken does not change when further batches are taken, nor when it is restored and used."""
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
    """A batch size that is not a number of images is refused."""
    with pytest.raises(OptionError, match="batch_size is"):
        batches(size=size)


def test_statistics_of_other_channels() -> None:
    """Statistics that do not fit the channels are refused when the batches are made."""
    with pytest.raises(ShapeError, match="mean"):
        Batches(image_set(), 5, seed=0, augmentation=SETTINGS, mean=torch.zeros(1), std=torch.ones(1))


def test_mixed_batches() -> None:
    """An epoch is one pass over the labelled images, in the very batches that they make alone."""
    source, alone = mixed(), take(batches(), 8)
    assert (len(source), source.shape) == (4, (2, 6, 6))
    taken = take(source, 8)
    assert {tuple(images.shape) for images, *_ in taken} == {(8, 2, 6, 6)}
    assert equal([Batch(*(part if part is None else part[:5] for part in batch)) for batch in taken], alone)
    assert all(labels[5:].tolist() == [-1] * 3 and labels.dtype == torch.int64 for _, labels, *_ in taken)
    assert [source.position for _ in source.epoch()] == [1, 2, 3, 4]


@pytest.mark.parametrize("lengths", [(23, 5, 11, 3), (23, 5, 300, 3), (23, 5, 3, 3)])
def test_unlabelled_images_continue_by_themselves(lengths: tuple[int, int, int, int]) -> None:
    """They come in the order that they have alone, whether they are fewer or more than the labelled ones."""
    source, again = mixed(*lengths), mixed(*lengths)
    number, size, others, other_size = lengths
    bare = ImageSet(255 - image_set(others).images, torch.arange(others), tuple(map(str, range(others))))
    mean, std = channel_statistics(image_set(number))
    alone = Batches(bare, other_size, seed=1, augmentation=SETTINGS, mean=mean, std=std)
    expected = [batch.images for batch in take(alone, 13)]
    assert all(torch.equal(b.images[size:], other) for b, other in zip(take(source, 13), expected, strict=True))
    assert len(take(again, 2 * len(again))) == 2 * len(again)


def test_labels_of_the_unlabelled_stay_hidden() -> None:
    """Labels that the second set happens to have are not handed out."""
    _, labels, *_ = next(Mixed(batches(), batches(30, 7)).epoch())
    assert labels[5:].tolist() == [-1] * 7


@pytest.mark.parametrize("done", range(10))
def test_mixed_state_continues_bit_for_bit(done: int) -> None:
    """After any number of batches, a restored state gives the same further ones; the unlabelled ones turn at 3."""
    uninterrupted = take(mixed(), 14)
    source = mixed()
    if done:
        take(source, done)
    buffer = io.BytesIO()
    torch.save(source.state_dict(), buffer)
    buffer.seek(0)
    other = mixed(seed=50)
    take(other, 2)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert other.position == source.position
    assert equal(take(other, 14 - done), uninterrupted[done:])


def test_mixed_state_of_other_batches() -> None:
    """A state of labelled batches alone, or of other sizes, is refused."""
    with pytest.raises(CheckpointError, match="lacks labelled and unlabelled"):
        mixed().load_state_dict(batches().state_dict())
    with pytest.raises(CheckpointError, match="11 in batches of 3"):
        mixed().load_state_dict(mixed(others=12).state_dict())


def test_mixed_shapes() -> None:
    """Labelled and unlabelled images of different shapes cannot be one batch."""
    grey = ImageSet(torch.zeros(4, 1, 6, 6, dtype=torch.uint8), torch.zeros(4).long(), ("a",))
    other = Batches(grey, 2, seed=0, augmentation=SETTINGS, mean=torch.zeros(1), std=torch.ones(1))
    with pytest.raises(ShapeError, match=r"shape \(2, 6, 6\) and unlabelled ones \(1, 6, 6\)"):
        Mixed(batches(), other)


@pytest.mark.parametrize("mixing", [None, Mixing(mixup=0.5, cutmix=1.0)])
def test_shards_together_are_the_whole(mixing: Mixing | None) -> None:
    """Two processes get, between them, bit for bit the batches of one, and their states are the same."""
    mean, std = channel_statistics(image_set())
    whole, *parts = (
        Batches(image_set(), 8, seed=1, augmentation=SETTINGS, mean=mean, std=std, shard=shard, mixing=mixing)
        for shard in (Shard(), Shard(0, 2), Shard(1, 2))
    )
    for batch, *shared in zip(take(whole, 5), *(take(part, 5) for part in parts), strict=True):
        assert (batch.others is None) == (mixing is None)
        for together, *each in zip(batch, *shared, strict=True):
            assert each == [None, None] if together is None else torch.equal(torch.cat(each), together)
    states = [source.state_dict() for source in (whole, *parts)]
    assert all(torch.equal(states[0]["generator"], state["generator"]) for state in states[1:])


def test_a_state_fits_another_number_of_processes() -> None:
    """What one process has begun, two continue."""
    mean, std = channel_statistics(image_set())
    whole, first, second = (
        Batches(image_set(), 6, seed=1, augmentation=SETTINGS, mean=mean, std=std, shard=shard)
        for shard in (Shard(), Shard(0, 2), Shard(1, 2))
    )
    take(whole, 2)
    for part in (first, second):
        part.load_state_dict(whole.state_dict())
    rest = take(whole, 3)
    for batch, a, b in zip(rest, take(first, 3), take(second, 3), strict=True):
        assert torch.equal(torch.cat([a.images, b.images]), batch.images)


def test_a_batch_that_cannot_be_divided() -> None:
    """The message says which size would do."""
    with pytest.raises(OptionError, match="a batch of 5 cannot be divided evenly by 2 processes; take 4"):
        Shard(0, 2).part(5)


def test_views_are_functions_of_image_and_view() -> None:
    """With views an image's pixels depend on its number and on the view's alone, not on when it is drawn."""
    mean, std = channel_statistics(image_set())
    seen: dict[tuple[int, int], Tensor] = {}
    for seed in (0, 1):
        source = Batches(
            image_set(), 5, seed=seed, augmentation=SETTINGS, mean=mean, std=std, views=Views(count=2, seed=3)
        )
        for batch in take(source, 20):
            for image, number, view in zip(batch.images, batch.indices.tolist(), batch.views.tolist(), strict=True):
                assert torch.equal(seen.setdefault((number, view), image), image)
    assert {view for _, view in seen} == {0, 1}
    assert any(not torch.equal(seen[number, 0], seen[number, 1]) for number, view in seen if view)


def test_indices_name_the_images() -> None:
    """Without augmentation the numbers lead back to the pixels, those without labels after the others."""
    mean, std = channel_statistics(image_set())
    bare = image_set(11).unlabelled()
    plain = Augmentation()
    source = Mixed(
        Batches(image_set(), 5, seed=0, augmentation=plain, mean=mean, std=std),
        Batches(bare, 3, seed=1, augmentation=plain, mean=mean, std=std, first=23),
    )
    pixels = torch.cat([image_set().images, bare.images])
    for batch in take(source, 6):
        assert torch.equal(batch.images, standardize(pixels[batch.indices], mean, std))
        assert batch.views.tolist() == [0] * 8


@pytest.mark.parametrize("start", [0, 4, 9])
def test_every_view_is_what_training_sees(start: int) -> None:
    """All views of all images of both sets, chunk by chunk; each is, to the bit, the one of `Mixed`."""
    first, second = image_set(9), ImageSet(255 - image_set(6).images, torch.full((6,), -1), ("none",), labelled=False)
    mean, std = channel_statistics(first)
    views = Views(count=3, seed=5)
    settings: dict[str, Any] = {"augmentation": SETTINGS, "mean": mean, "std": std, "views": views}
    found = list(every_view([first, second], 4, start=start, **settings))
    sizes = {0: [4, 4, 1, 4, 2], 4: [4, 1, 4, 2], 9: [4, 2]}[start]
    assert [len(batch.images) for batch in found] == [size for size in sizes for _ in range(3)]
    assert [int(batch.views[0]) for batch in found] == [0, 1, 2] * len(sizes)
    seen = {
        (image, view): pixels
        for batch in found
        for image, view, pixels in zip(batch.indices.tolist(), batch.views.tolist(), batch.images, strict=True)
    }
    assert seen.keys() == {(image, view) for image in range(start, 15) for view in range(3)}
    training = Mixed(Batches(first, 3, seed=0, **settings), Batches(second, 2, seed=1, first=9, **settings))
    met = 0
    for batch in take(training, 12):
        for image, view, pixels in zip(batch.indices.tolist(), batch.views.tolist(), batch.images, strict=True):
            if image >= start:
                assert torch.equal(pixels, seen[image, view])
                met += 1
    assert met > 10
