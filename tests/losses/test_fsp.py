"""FSP against the published formula in plain loops, and by hand."""

import pytest
import torch
from torch import Tensor

from svdistill.errors import ShapeError
from svdistill.losses import FSPLoss, fsp_loss
from tests.features import post_relu_maps


def max_pooled(feature: Tensor, height: int, width: int) -> list:
    """Return channel × height × width numbers: the maximum of each of the equal windows."""
    tall, wide = feature.shape[1] // height, feature.shape[2] // width
    return [
        [
            [
                max(float(v) for v in channel[i * tall : (i + 1) * tall, j * wide : (j + 1) * wide].flatten())
                for j in range(width)
            ]
            for i in range(height)
        ]
        for channel in feature
    ]


def flow(front: Tensor, back: Tensor) -> list[list[float]]:
    """Yim et al., equation 1, for maps (C, H, W) of which one divides the other."""
    height, width = min(front.shape[1], back.shape[1]), min(front.shape[2], back.shape[2])
    left, right = max_pooled(front, height, width), max_pooled(back, height, width)
    places = [(i, j) for i in range(height) for j in range(width)]
    return [[sum(f[i][j] * b[i][j] for i, j in places) / (height * width) for b in right] for f in left]


def published(student: list[Tensor], teacher: list[Tensor]) -> float:
    """Yim et al., equation 2 with weights of 1, in float64."""
    total, batch = 0.0, len(student[0])
    for sample in range(batch):
        for tap in range(len(student) - 1):
            found = flow(student[tap][sample].double(), student[tap + 1][sample].double())
            goal = flow(teacher[tap][sample].double(), teacher[tap + 1][sample].double())
            for a, b in zip(found, goal, strict=True):
                total += sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return total / batch


def test_published_value():
    """Three taps, each half as large as the one before, and a teacher with maps of twice the size."""
    student = post_relu_maps(3, seed=1, channels=(3, 5, 4), size=16)
    teacher = post_relu_maps(3, seed=2, channels=(3, 5, 4), size=32)
    assert float(fsp_loss(student, teacher)) == pytest.approx(published(student, teacher), rel=1e-5)


def test_larger_back_and_non_square_maps():
    """The larger map is pooled wherever it stands, along each side on its own."""
    generator = torch.Generator().manual_seed(0)
    student = [torch.randn(2, 2, 4, 3, generator=generator), torch.randn(2, 3, 2, 6, generator=generator)]
    teacher = [torch.randn(2, 2, 2, 2, generator=generator), torch.randn(2, 3, 4, 4, generator=generator)]
    assert float(fsp_loss(student, teacher)) == pytest.approx(published(student, teacher), rel=1e-5)


def test_by_hand():
    """One channel each: G_S = (1·2 + 2·1) / 2 = 2, with the front pooled; G_T = (1 + 1) / 2 = 1; loss (2 − 1)²."""
    front = torch.tensor([[[[1.0, 0.0, 2.0, 1.0]]]])
    back = torch.tensor([[[[2.0, 1.0]]]])
    ones = torch.ones(1, 1, 1, 2)
    assert float(fsp_loss([front, back], [ones, ones])) == 1.0


def test_taps_of_one_position_are_left_out():
    """The taps around them are neighbours; one that has positions in one of the networks is kept."""
    maps = [post_relu_maps(3, seed=seed, channels=(3, 5, 4), size=16) for seed in (1, 2)]
    point, vector, small = torch.rand(3, 7, 1, 1), torch.rand(3, 9), torch.rand(3, 4, 1, 1)
    student, teacher = ([*one[:2], extra, one[2], extra] for one, extra in zip(maps, (point, vector), strict=True))
    assert FSPLoss().left_out(student, teacher) == (2, 4)
    assert torch.equal(fsp_loss(student, teacher), fsp_loss(*maps))
    student[3] = small
    assert FSPLoss().left_out(student, teacher) == (2, 4)
    expected = published([*maps[0][:2], small], maps[1])
    assert float(fsp_loss(student, teacher)) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ShapeError, match=r"^FSP .* at least 2 with more than one position, got 1 of 2; choose taps"):
        fsp_loss([student[0], point], [teacher[0], vector])
