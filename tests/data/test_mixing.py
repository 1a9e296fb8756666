"""Tests of MixUp and CutMix."""

import math
from typing import Any

import pytest
import torch

from svdistill.data import Augmentation, Batches, ImageSet, Mixed, Mixing, Shard, Views
from svdistill.data.mixing import NUMBERS, Mix, mix_images, partners, plan_mix
from svdistill.errors import OptionError

PLAIN: dict[str, Any] = {"augmentation": Augmentation(), "mean": torch.zeros(2), "std": torch.ones(2)}


def image_set(number: int = 40, labels: int | None = None) -> ImageSet:
    """Images of noise; the label is the image's number."""
    pixels = torch.randint(0, 256, (number, 2, 6, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, torch.arange(number), tuple(map(str, range(number))))


def draws(mixing: Mixing, number: int, *, height: int = 32, width: int = 48) -> list[Mix]:
    """Draw several times."""
    even = torch.rand(number, NUMBERS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [plan_mix(one, mixing, height=height, width=width) for one in even]


def test_pairs_by_hand() -> None:
    """The first with the second and the reverse, the third with the fourth: weighed, or with a box of the other."""
    images = torch.arange(4.0)[:, None, None, None].expand(4, 1, 3, 4).contiguous()
    weighed = mix_images(images, Mix(torch.tensor(0.75), torch.tensor(0.75), torch.zeros(4).long()))
    assert weighed[:, 0, 0, 0].tolist() == [0.25, 0.75, 2.25, 2.75]
    assert (weighed == weighed[:, :, :1, :1]).all()
    boxed = mix_images(images, Mix(torch.tensor(0.5), torch.tensor(1.0), torch.tensor([1, 0, 3, 2])))
    assert boxed[2, 0].tolist() == [[2, 3, 3, 3], [2, 3, 3, 3], [2, 2, 2, 2]]
    assert boxed[3, 0].tolist() == [[3, 2, 2, 2], [3, 2, 2, 2], [3, 3, 3, 3]]
    assert partners(torch.tensor([5, 6, 7, -1])).tolist() == [6, 5, -1, 7]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_weights_have_the_moments_of_beta(alpha: float) -> None:
    """Mean ½ and variance 1 / (4 (2α + 1)); the box takes no part in MixUp."""
    some = draws(Mixing(mixup=alpha), 4000)
    share = torch.stack([one.share for one in some]).double()
    assert 0 <= share.min() < share.max() <= 1
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(share.mean() - 0.5) < 5 * math.sqrt(variance / 4000)
    assert abs(share.var() - variance) < 0.08 * variance
    assert all(torch.equal(one.share, one.outside) and not one.box.any() for one in some)


def test_a_label_keeps_what_the_box_leaves() -> None:
    """The share is that of the pixels outside of the box; its centre is anywhere, its area 1 − λ before it is cut."""
    images = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 1, 32, 48).contiguous()
    some = draws(Mixing(cutmix=1.0), 3000)
    for one in some[:300]:
        mixed = mix_images(images, one)
        assert mixed[0].mean() == pytest.approx(1 - one.share.item(), abs=1e-6)
        assert mixed[1].mean() == pytest.approx(one.share.item(), abs=1e-6)
        left, top, wide, high = one.box.tolist()
        assert 0 <= left <= left + wide <= 48
        assert 0 <= top <= top + high <= 32
        assert one.outside == 1
    # Boxes that are not cut off have the images' shape, and lie anywhere.
    whole = [one.box for one in some if 0 < one.box[0] < 48 - one.box[2] and 0 < one.box[1] < 32 - one.box[3]]
    assert all(abs(box[2] * 32 - box[3] * 48) <= 48 * 3 for box in whole)
    # For a λ that is even on [0, 1], the part that is seen of the box: the mean over λ, and over centres on each axis.
    sides = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    expected = ((sides - sides.square() / 4).square() * 2 * sides).mean()
    lost = 1 - torch.stack([one.share for one in some]).double().mean()
    assert lost == pytest.approx(expected.item(), abs=0.03)


def test_both_ways_take_turns() -> None:
    """About half of the batches each; a single way is always taken."""
    weighed = [not one.box.any() and one.outside < 1 for one in draws(Mixing(mixup=1.0, cutmix=1.0), 1000)]
    assert abs(sum(weighed) - 500) < 5 * math.sqrt(250)
    assert all(one.outside == 1 for one in draws(Mixing(cutmix=1.0), 100))


@pytest.mark.parametrize("channels_last", [False, True])
def test_batches_are_mixed_with_their_labels(channels_last: bool) -> None:
    """Against the images and labels of the same batches without, mixed by hand; type and layout stay."""
    mixing = Mixing(mixup=0.6, cutmix=1.0)
    source = Batches(image_set(), 8, seed=3, mixing=mixing, channels_last=channels_last, **PLAIN)
    raw = image_set().images.float() / 255
    assert source.mixes
    for batch in source.epoch():
        assert batch.others is not None
        assert batch.share is not None
        assert torch.equal(batch.labels, batch.indices)
        own, other = raw[batch.labels], raw[batch.others]
        assert sorted(batch.labels.tolist()) == sorted(batch.others.tolist())
        assert batch.share.unique().numel() == 1
        weight = batch.share[0]
        boxed = ((batch.images == own) | (batch.images == other)).all()
        if not boxed:
            torch.testing.assert_close(batch.images, weight * own + (1 - weight) * other, atol=1e-6, rtol=0)
        else:  # where all of the pixels are the other image's, in both of a pair
            foreign = (batch.images != own).any(1).float().mean()
            assert foreign == pytest.approx(1 - weight.item(), abs=0.02)
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert len(set(batch.labels.tolist()) & set(batch.others.tolist())) == 8  # type: ignore[union-attr]


def test_mixing_leaves_the_order_of_a_first_batch() -> None:
    """Its numbers come after those of the warps."""
    varied = {**PLAIN, "augmentation": Augmentation(flip=True)}
    ways = (None, Mixing(mixup=1.0))
    first, second = (next(Batches(image_set(), 8, seed=3, mixing=one, **varied).epoch()) for one in ways)
    assert torch.equal(first.indices, second.indices)
    assert first.others is None
    assert second.share is not None
    torch.testing.assert_close(
        second.images, second.share[0] * first.images + (1 - second.share[0]) * partners(first.images)
    )


def test_a_restored_state_continues_bit_for_bit() -> None:
    """Mixed batches come as they would have come."""

    def make(seed: int) -> Batches:
        return Batches(image_set(), 8, seed=seed, mixing=Mixing(mixup=0.4, cutmix=1.0), **PLAIN)

    source, other = make(0), make(9)
    stream = source.epoch()
    next(stream)
    other.load_state_dict(source.state_dict())
    for expected, found in zip(stream, other.epoch(), strict=True):
        for one, two in zip(expected, found, strict=True):
            assert one is not None
            assert two is not None
            assert torch.equal(one, two)


def test_unlabelled_images_mix_among_themselves() -> None:
    """Their labels, and those of the images they are mixed with, stay none; the labelled ones are as they are alone."""

    def make(seed: int, size: int, first: int = 0) -> Batches:
        return Batches(image_set(), size, seed=seed, first=first, mixing=Mixing(mixup=0.4, cutmix=1.0), **PLAIN)

    together = Mixed(make(0, 4), make(1, 6, first=40))
    assert together.mixes
    for batch, labelled, others in zip(together.epoch(), make(0, 4).epoch(), make(1, 6).epoch(), strict=False):
        assert batch.others is not None
        assert batch.share is not None
        assert labelled.others is not None
        assert torch.equal(batch.images, torch.cat([labelled.images, others.images]))
        assert torch.equal(batch.others[:4], labelled.others)
        assert (batch.labels[4:] == -1).all()
        assert (batch.others[4:] == -1).all()


def test_what_cannot_be_mixed() -> None:
    """An odd number of images in a process, and fixed views."""
    with pytest.raises(OptionError, match=r"^mixing: 5 images of a batch in each process .* take an even number$"):
        Batches(image_set(), 5, seed=0, mixing=Mixing(mixup=1.0), **PLAIN)
    with pytest.raises(OptionError, match=r"^mixing: 3 images of a batch in each process"):
        Batches(image_set(), 6, seed=0, mixing=Mixing(mixup=1.0), shard=Shard(0, 2), **PLAIN)
    with pytest.raises(OptionError, match=r"^mixing: .* no fixed views; give either views or mixing$"):
        Batches(image_set(), 4, seed=0, mixing=Mixing(mixup=1.0), views=Views(count=2), **PLAIN)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "neither mixup nor cutmix is given"),
        *[({"mixup": v}, "mixup is .* above 0 and at most 1000") for v in (0, -1.0, 1001, math.nan, True, "a")],
        ({"mixup": 1.0, "cutmix": 0.0}, "cutmix is 0.0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    """Refused by name."""
    with pytest.raises(OptionError, match=f"^{message}"):
        Mixing(**settings)
