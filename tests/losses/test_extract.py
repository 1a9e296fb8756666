"""What a loss needs of the teacher, taken first and compared later, is the loss itself."""

from typing import Any

import pytest
import torch
from torch import Tensor

from svdistill.errors import ShapeError
from svdistill.losses import (
    AttentionLoss,
    DISTLoss,
    DKDLoss,
    FitNetLoss,
    FSPLoss,
    PKTLoss,
    RelationalLoss,
    SimilarityLoss,
    SoftTargetLoss,
    SVDLoss,
)
from tests.features import post_relu_maps

HALF = torch.finfo(torch.float16).eps
LOSSES: dict[str, tuple[Any, int]] = {  # with the size of the student's first map; the teacher's is 16
    "svd": (SVDLoss(2), 16),
    "svd, smaller student": (SVDLoss(2), 8),
    "svd, more vectors than positions": (SVDLoss(20), 8),
    "svd in the teacher's basis": (SVDLoss(2, basis="teacher"), 16),
    "svd in the teacher's basis, smaller student": (SVDLoss(2, basis="teacher"), 8),
    "svd in the teacher's basis, larger student": (SVDLoss(2, basis="teacher"), 32),
    "attention": (AttentionLoss(), 16),
    "attention, smaller student": (AttentionLoss(), 8),
    "attention, larger student": (AttentionLoss(power=1.0), 32),
    "relational": (RelationalLoss(), 8),
    "similarity": (SimilarityLoss(), 8),
    "pkt": (PKTLoss(), 8),
    "fsp": (FSPLoss(), 8),
    "fitnet": (FitNetLoss(), 8),
    "fitnet, larger student": (FitNetLoss(hint=0), 32),
}


def maps(size: int = 16, *, seed: int = 1) -> list[Tensor]:
    """Three taps of six images."""
    return post_relu_maps(6, seed=seed, channels=(8, 12, 20), size=size)


def stored(loss: Any, goal: Any) -> Any:
    """Round as a cache does."""
    packed = loss.pack(goal)
    return loss.unpack(
        {name: one.float() if name in loss.precise else one.half().float() for name, one in packed.items()}
    )


@pytest.mark.parametrize("name", LOSSES)
def test_later_is_the_same_as_at_once(name):
    """Loss, health and gradient do not differ by a bit; only shapes of the student are looked at in between."""
    loss, size = LOSSES[name]
    student, teacher = [one.requires_grad_() for one in maps(size)], maps(seed=2)
    loss.prepare(student, teacher)
    at_once, health = loss.measure(student, teacher)
    expected = torch.autograd.grad(at_once, student, allow_unused=True)
    shapes = [torch.empty_like(one, device="meta") for one in student]
    later, found = loss.compare(student, loss.extract(teacher, shapes))
    assert torch.equal(later, at_once)
    assert torch.equal(later, loss(student, teacher))
    assert found.keys() == health.keys()
    assert all(torch.equal(found[key], value) for key, value in health.items())
    gradients = torch.autograd.grad(later, student, allow_unused=True)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_enough(name):
    """What is rounded as a cache rounds it changes the loss by a few roundings of half precision, not to none."""
    loss, size = LOSSES[name]
    student, teacher = maps(size), maps(seed=2)
    loss.prepare(student, teacher)
    at_once = float(loss.measure(student, teacher)[0].detach())
    goal = stored(loss, loss.extract(teacher, student))
    assert float(loss.compare(student, goal)[0].detach()) == pytest.approx(at_once, rel=4 * HALF)
    assert at_once > 0


@pytest.mark.parametrize(
    "loss", [SVDLoss(2), SVDLoss(2, basis="teacher"), AttentionLoss(), SimilarityLoss(), PKTLoss()]
)
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6])
def test_half_precision_is_enough_at_any_scale(loss, scale):
    """A loss that does not depend on the scale of the teacher's features does not when they are stored."""
    student, teacher = maps(), [one * scale for one in maps(seed=2)]
    at_once = float(loss(student, teacher))
    goal = stored(loss, loss.extract(teacher, student))
    assert float(loss.compare(student, goal)[0]) == pytest.approx(at_once, rel=4 * HALF)


def test_features_stored_by_an_earlier_version_are_refused():
    """They lack what they are relative to."""
    with pytest.raises(ShapeError, match=r"\(features\) lacks largest; store it again"):
        SimilarityLoss().unpack({"features": torch.rand(6, 80)})


@pytest.mark.parametrize("loss", [SoftTargetLoss(), SoftTargetLoss(2.0, standardize=True), DKDLoss(), DISTLoss()])
def test_losses_on_logits(loss):
    """The teacher's side are its logits, also where a class is excluded."""
    student, labels = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 4])
    teacher = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)) * 8
    teacher[:, 3] = -torch.inf
    at_once, _ = loss.measure(student, teacher, labels)
    later, health = loss.compare_labelled(student, stored(loss, loss.extract(teacher, student)), labels)
    assert float(later) == pytest.approx(float(at_once), rel=4 * HALF)
    assert at_once > 0
    assert health == {}


@pytest.mark.parametrize("layout", ["tokens", "one other than square", "vector"])
def test_layouts(layout):
    """Tokens and vectors meet the same grid later as at once."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "tokens": ([(3, 16, 8), (3, 9, 8)], [(3, 8, 8, 8), (3, 8, 3, 3)]),
        "one other than square": ([(3, 12, 8), (3, 6, 8)], [(3, 8, 4, 3), (3, 6, 8)]),
        "vector": ([(3, 16, 8), (3, 8)], [(3, 8, 4, 4), (3, 8, 2, 2)]),
    }
    student, teacher = ([torch.rand(one, generator=generator) for one in side] for side in shapes[layout])
    for loss in (SVDLoss(1), SVDLoss(1, basis="teacher"), AttentionLoss()):
        assert torch.equal(loss.compare(student, loss.extract(teacher, student))[0], loss(student, teacher))


def test_sizes():
    """KD-SVD needs k·ΣD numbers and k a tap of an image, fewer where the student has one position; FSP far more."""
    teacher, student = maps(), maps(8)
    assert sizes(SVDLoss(2), teacher, student) == {
        "v0": (6, 2, 8),
        "v1": (6, 2, 12),
        "v2": (6, 1, 20),
        "sigma": (6, 3, 2),
    }
    projected = sizes(SVDLoss(2, basis="teacher"), teacher, student)
    assert (projected["left1"], projected["v2"], projected["left2"]) == ((6, 2, 2, 2), (6, 2, 20), (6, 2, 1, 1))
    assert sizes(SVDLoss(8, basis="teacher"), teacher, teacher)["v2"] == (6, 4, 20)  # of 2×2 positions
    assert sizes(FSPLoss(), teacher, student) == {"flow0-1": (6, 8, 12), "flow1-2": (6, 12, 20)}
    assert sizes(FitNetLoss(), teacher, student) == {"hint": (6, 12, 2, 2)}
    assert not any(loss.storable for loss in (FSPLoss(), FitNetLoss()))
    small = (SVDLoss(), AttentionLoss(), RelationalLoss(), SoftTargetLoss(), DKDLoss(), DISTLoss(), PKTLoss())
    assert all(loss.storable for loss in small)
    assert sizes(SimilarityLoss(), teacher, [*student[:2], student[2][:, :, 0, 0]]) == {
        "features": (6, 80),
        "largest": (6, 1),
    }
    assert SimilarityLoss().storable


def test_fsp_stored_without_the_taps_it_leaves_out():
    """Stored and read back the matrices are those of the same taps, and a student's further tap is noticed."""
    loss, student, teacher = FSPLoss(), maps(), maps(seed=2)
    student.insert(1, torch.rand(6, 7)), teacher.insert(1, torch.rand(6, 9, 1, 1))
    goal = loss.unpack(loss.pack(loss.extract(teacher, student)))
    assert goal.keys() == {(0, 2), (2, 3)}
    assert torch.equal(loss.compare(student, goal)[0], loss(maps(), maps(seed=2)))
    with pytest.raises(ShapeError, match="4 taps, but there are goals for 3"):
        loss.compare([student[0], torch.rand(6, 7, 2, 2), *student[2:]], goal)


def sizes(loss: Any, teacher: list[Tensor], student: list[Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what would be stored, by name."""
    return {name: tuple(one.shape) for name, one in loss.pack(loss.extract(teacher, student)).items()}


def test_sums():
    """Only KD-SVD may be a sum over the batch, and says so."""
    assert SVDLoss(reduction="sum").sums
    means = [SVDLoss(), SoftTargetLoss(), AttentionLoss(), RelationalLoss(), FSPLoss(), FitNetLoss()]
    means += [DKDLoss(), DISTLoss(), SimilarityLoss(), PKTLoss()]
    assert not any(loss.sums for loss in means)


def test_what_decides_what_is_taken():
    """Settings that change nothing of the teacher's side are not among them."""
    assert SVDLoss(2, beta=4.0, extra=3, gradient="paper").extracts == {"rank": 2, "basis": "own"}
    assert AttentionLoss(3.0).extracts == {"power": 3.0}
    assert RelationalLoss(angle=1.0).extracts == SoftTargetLoss(2.0).extracts == {}


@pytest.mark.parametrize(
    ("loss", "change", "match"),
    [
        (SVDLoss(), lambda known: known.pop("v2"), "3 taps, but there are goals for 2"),
        (SVDLoss(), lambda known: known.update(v1=known["v1"][:5]), "6 samples in the student, but its goal is for 5"),
        (SVDLoss(), lambda known: known.update(v1=known["v1"][..., :5]), "12 channels in the student and 5"),
        (SVDLoss(basis="teacher"), lambda known: known.pop("left0"), "basis='teacher'"),
        (AttentionLoss(), lambda known: known.pop("attention0"), "there are goals for 0"),
        (RelationalLoss(), lambda known: known.update(embedding=known["embedding"][:2]), "its goal is for 2"),
        (PKTLoss(), lambda known: known.update(embedding=known["embedding"][:2]), "its goal is for 2"),
        (SimilarityLoss(), lambda known: known.update({name: one[:2] for name, one in known.items()}), "is for 2"),
    ],
)
def test_a_goal_that_does_not_fit_is_refused(loss, change, match):
    """Other taps, another batch, other widths or settings end in one line."""
    student = maps()
    packed = loss.pack(loss.extract(maps(seed=2), student))
    change(packed)
    goal = loss.unpack(packed)
    with pytest.raises(ShapeError, match=match):
        loss.compare(student, goal)
