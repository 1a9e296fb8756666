"""Attention transfer against the published formula in plain loops, and by hand."""

import math

import pytest
import torch
from torch import Tensor

from svdistill.errors import OptionError, ShapeError
from svdistill.losses import AttentionLoss, attention_loss
from tests.features import post_relu_maps


def attention(feature: Tensor, power: float, size: tuple[int, int]) -> list[float]:
    """Q / ‖Q‖₂ of one (C, H, W), averaged over equal windows before it is normalized."""
    channels, height, width = feature.shape
    tall, wide = height // size[0], width // size[1]
    strength = []
    for i in range(size[0]):
        for j in range(size[1]):
            window = [
                sum(abs(float(feature[c, i * tall + y, j * wide + x])) ** power for c in range(channels))
                for y in range(tall)
                for x in range(wide)
            ]
            strength.append(sum(window) / len(window))
    norm = math.sqrt(sum(q * q for q in strength))
    return [q / norm for q in strength]


def published(student: list[Tensor], teacher: list[Tensor], power: float) -> float:
    """½ Σ_taps mean (Q_S − Q_T)²."""
    total = 0.0
    for s_map, t_map in zip(student, teacher, strict=True):
        size = min(s_map.shape[2], t_map.shape[2]), min(s_map.shape[3], t_map.shape[3])
        squares = [
            (a - b) ** 2
            for s, t in zip(s_map.double(), t_map.double(), strict=True)
            for a, b in zip(attention(s, power, size), attention(t, power, size), strict=True)
        ]
        total += sum(squares) / len(squares) / 2
    return total


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("teacher_size", [16, 32])
def test_published_value(power, teacher_size):
    """Widths differ, and with 32 the sizes do."""
    student = post_relu_maps(3, seed=1, channels=(3, 5), size=16)
    teacher = post_relu_maps(3, seed=2, channels=(4, 7), size=teacher_size)
    expected = published(student, teacher, power)
    assert float(attention_loss(student, teacher, power=power)) == pytest.approx(expected, rel=1e-5)


def test_by_hand():
    """Q_S = (9 + 16, 0), Q_T = (0, 4): normalized (1, 0) and (0, 1); half the mean of 1 and 1."""
    student, teacher = torch.tensor([[[[3.0, 0.0]], [[-4.0, 0.0]]]]), torch.tensor([[[[0.0, 2.0]]]])
    assert float(attention_loss([student], [teacher])) == 0.5


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e15])
def test_does_not_depend_on_scale(scale):
    """Maps of any magnitude give the same loss, and a gradient that shrinks as the map grows."""
    student = post_relu_maps(3, seed=1, channels=(3, 5), size=16)
    teacher = post_relu_maps(3, seed=2, channels=(3, 5), size=16)
    maps, scaled = ([(s * f).requires_grad_() for s in student] for f in (1.0, scale))
    expected = attention_loss(maps, teacher)
    found = attention_loss(scaled, [t * scale for t in teacher])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    for a, b in zip(torch.autograd.grad(found, scaled), torch.autograd.grad(expected, maps), strict=True):
        torch.testing.assert_close(a.double() * scale, b.double(), rtol=1e-4, atol=1e-9)


def test_dead_sample_counts_its_teacher():
    """An all-zero map has attention 0: half the mean square of the teacher's remains, without gradient."""
    student = torch.zeros(1, 3, 2, 2, requires_grad=True)
    loss = attention_loss([student], [torch.ones(1, 3, 2, 2)])
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.5 / 4)
    assert (student.grad == 0).all()


def test_a_tap_of_one_position_is_left_out():
    """Its attention is always 1, so not even a dead sample counts there; of such taps alone nothing can be compared."""
    student = post_relu_maps(3, seed=1, channels=(3, 5), size=16)
    teacher = post_relu_maps(3, seed=2, channels=(3, 5), size=16)
    points = torch.rand(3, 4, 1, 1), torch.rand(3, 4, 2, 2)
    expected = attention_loss(student, teacher)
    dead = torch.cat([points[0][:2, :, 0, 0], torch.zeros(1, 4)])
    for point in (points[0], dead):
        assert torch.equal(attention_loss([*student, point], [*teacher, points[1]]), expected)
        assert AttentionLoss().left_out([*student, point], [*teacher, points[1]]) == (2,)
    with pytest.raises(ShapeError, match="no tap has more than one position"):
        attention_loss([points[0]], [points[1]])


@pytest.mark.parametrize("power", [0.5, 0, -2, float("nan"), float("inf"), "2", None])
def test_bad_power(power):
    """A power below 1 has no derivative at zero and is refused at construction, and so is a text."""
    with pytest.raises(OptionError, match="power"):
        AttentionLoss(power)
    with pytest.raises(OptionError, match="power"):
        attention_loss([torch.ones(1, 1, 2, 2)], [torch.ones(1, 1, 2, 2)], power=power)


def test_repr():
    """The module shows its power."""
    assert "power=3" in repr(AttentionLoss(3))
