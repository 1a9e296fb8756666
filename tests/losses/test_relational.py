"""RKD against the published formulas in plain loops, by hand, and where examples coincide."""

import math

import pytest
import torch
from torch import Tensor

from svdistill.errors import OptionError
from svdistill.losses import RelationalLoss, relational_loss


def huber(x: float) -> float:
    """Park et al., equation 6."""
    return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5


def distances(e: list[list[float]]) -> list[list[float]]:
    """Park et al., equations 5 and 7: in units of the mean over pairs that differ."""
    plain = [[math.dist(a, b) for b in e] for a in e]
    apart = [d for row in plain for d in row if d > 0]
    return [[d / (sum(apart) / len(apart)) for d in row] for row in plain]


def cosine(a: list[float], vertex: list[float], b: list[float]) -> float:
    """Park et al., equation 8; 0 where a side has no length."""
    left, right = ([x - v for x, v in zip(side, vertex, strict=True)] for side in (a, b))
    lengths = math.hypot(*left) * math.hypot(*right)
    return sum(x * y for x, y in zip(left, right, strict=True)) / lengths if lengths else 0.0


def published(student: Tensor, teacher: Tensor, distance: float, angle: float) -> float:
    """Both terms for embeddings (B, D), as means over all pairs and triples."""
    s, t = student.double().tolist(), teacher.double().tolist()
    each = range(len(s))
    pairs = zip(*([d for row in distances(e) for d in row] for e in (s, t)), strict=True)
    first = sum(huber(a - b) for a, b in pairs) / len(s) ** 2
    second = sum(huber(cosine(s[i], s[j], s[k]) - cosine(t[i], t[j], t[k])) for i in each for j in each for k in each)
    return distance * first + angle * second / len(s) ** 3


@pytest.mark.parametrize(("distance", "angle"), [(25.0, 50.0), (1.0, 0.0), (0.0, 1.0)])
def test_published_value(distance, angle):
    """Embeddings of different width; only the last tap counts, averaged over its positions."""
    generator = torch.Generator().manual_seed(0)
    student = [torch.rand(7, 2, 4, 4, generator=generator), torch.rand(7, 5, 2, 3, generator=generator)]
    teacher = [torch.rand(7, 9, 4, 4, generator=generator), torch.rand(7, 8, 4, 4, generator=generator)]
    expected = published(student[1].mean((2, 3)), teacher[1].mean((2, 3)), distance, angle)
    found = relational_loss(student, teacher, distance=distance, angle=angle)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_by_hand():
    """An equilateral triangle against three points in a row: every distance and angle is known.

    Distances: 1 each in the student; ¾, ¾ and 3/2 in the teacher, in both directions. Angles: cosines ½ in the student;
    1, 1 and −1 in the teacher, in both orders; equal legs have cosine 1 in both.
    """
    student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]], dtype=torch.float64)
    teacher = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    distance = 2 * (2 * huber(1 / 4) + huber(1 / 2)) / 9
    angle = 2 * (2 * huber(1 / 2) + huber(3 / 2)) / 27
    found = relational_loss([student], [teacher], distance=1, angle=0)
    assert float(found) == pytest.approx(distance, rel=1e-12)
    assert float(relational_loss([student], [teacher], distance=0, angle=1)) == pytest.approx(angle, rel=1e-12)


def test_moved_turned_and_scaled_is_the_same():
    """Relations do not change with origin, rotation and unit, in float32 and far away from the origin."""
    generator = torch.Generator().manual_seed(1)
    teacher = torch.randn(6, 4, generator=generator)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator))[0]
    assert float(relational_loss([1e-3 * teacher @ turn + 0.1], [teacher])) < 1e-6
    assert float(relational_loss([1e12 * teacher], [teacher])) < 1e-10
    assert float(relational_loss([teacher.double() + 1e6], [teacher])) < 1e-10


@pytest.mark.parametrize("who", ["student", "teacher", "both"])
def test_coinciding_examples(who):
    """Two equal images: the published value with distance and cosine 0 for them, and a finite gradient."""
    generator = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(5, 4, generator=generator), torch.randn(5, 3, generator=generator)
    for embedding, chosen in ((student, who != "teacher"), (teacher, who != "student")):
        if chosen:
            embedding[3] = embedding[1]
    expected = published(student, teacher, 25, 50)
    student.requires_grad_()
    loss = relational_loss([student], [teacher])
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert student.grad.isfinite().all()
    assert 0 < student.grad.abs().max() < 1e3


def test_equal_to_rounding_is_coinciding():
    """Embeddings that differ by rounding alone have no angles; without the guard the gradient would be 1e7 times it."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(5, 4, generator=generator), torch.randn(5, 3, generator=generator)
    exact = student.clone()
    exact[3] = exact[1]
    student[3] = student[1] * (1 + torch.finfo(torch.float32).eps)
    assert not torch.equal(student[3], student[1])
    found, expected = [], []
    for embedding, into in ((student, found), (exact, expected)):
        leaf = embedding.clone().requires_grad_()
        loss = relational_loss([leaf], [teacher])
        into.extend((loss.detach(), *torch.autograd.grad(loss, leaf)))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_close_examples_keep_their_angle():
    """A pair at 1e−4 of the others' distances is resolved, although far from the origin of float32 maps."""
    generator = torch.Generator().manual_seed(4)
    student, teacher = torch.randn(5, 4, generator=generator), torch.randn(5, 3, generator=generator)
    student[3] = student[1] + 1e-4 * torch.randn(4, generator=generator)
    expected = published(student, teacher, 25, 50)
    assert float(relational_loss([student], [teacher])) == pytest.approx(expected, rel=1e-5)


def test_all_examples_coincide():
    """A dead student has relations 0: the loss is the teacher's alone, without gradient."""
    student = torch.full((4, 3), 0.3, requires_grad=True)
    teacher = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    loss = relational_loss([student], [teacher], distance=1, angle=0)
    loss.backward()
    expected = sum(huber(d) for row in distances(teacher.tolist()) for d in row) / 16
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    assert (student.grad == 0).all()


def test_a_batch_of_one_has_no_relations():
    """Loss 0 and gradient 0, not NaN."""
    student = torch.rand(1, 3, requires_grad=True)
    loss = relational_loss([student], [torch.rand(1, 5)])
    loss.backward()
    assert float(loss.detach()) == 0
    assert (student.grad == 0).all()


@pytest.mark.parametrize("name", ["distance", "angle"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "25", None])
def test_bad_weights(name, value):
    """Weights below zero, not finite or not a number are refused, also at construction."""
    with pytest.raises(OptionError, match=name):
        RelationalLoss(**{name: value})
    with pytest.raises(OptionError, match=name):
        relational_loss([torch.rand(2, 3)], [torch.rand(2, 3)], **{name: value})


def test_repr():
    """The module shows its weights."""
    assert "distance=1.0, angle=2.0" in repr(RelationalLoss(1.0, 2.0))
