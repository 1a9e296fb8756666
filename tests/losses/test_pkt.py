"""PKT against its published formula in plain loops, by hand, and for images without features."""

import math

import pytest
import torch
from torch import Tensor

from svdistill.losses import pkt_loss

EPSILON = 1e-7


def neighbours(embedding: list[list[float]]) -> list[list[float]]:
    """Passalis and Tefas: cosines, from 0 to 1, as the probabilities of each row."""
    lengths = [math.hypot(*one) or 1 for one in embedding]
    units = [[x / length for x in one] for one, length in zip(embedding, lengths, strict=True)]
    kernel = [[(1 + math.fsum(map(math.prod, zip(a, b, strict=True)))) / 2 for b in units] for a in units]
    return [[x / math.fsum(row) for x in row] for row in kernel]


def published(student: Tensor, teacher: Tensor) -> float:
    """The mean over all B² pairs, with the authors' ε."""
    q, p = (neighbours(one.double().tolist()) for one in (student, teacher))
    pairs = [(a, b) for rows in zip(p, q, strict=True) for a, b in zip(*rows, strict=True)]
    return math.fsum(a * math.log((a + EPSILON) / (b + EPSILON)) for a, b in pairs) / len(pairs)


def test_published_formula():
    """On maps of other widths and sizes; the last tap counts, averaged over its positions."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(5, 3, 4, 4, generator=generator), torch.randn(5, 7, 2, 3, generator=generator)
    first = torch.rand(5, 2, 8, 8)
    expected = published(student.mean((2, 3)), teacher.mean((2, 3)))
    assert float(pkt_loss([first, student], [first, teacher])) == pytest.approx(expected, rel=1e-5)


def test_by_hand():
    """Opposite images, p = (1, 0) and (0, 1), against orthogonal ones, q = (⅔, ⅓) and (⅓, ⅔)."""
    teacher, student = torch.tensor([[1.0], [-2.0]]), torch.eye(2)
    assert float(pkt_loss([student], [teacher])) == pytest.approx(2 * math.log(3 / 2) / 4, rel=1e-6)
    # The other way round the logarithm meets a q of 0.
    expected = 2 * (2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3 / EPSILON)) / 4
    assert float(pkt_loss([teacher], [student])) == pytest.approx(expected, rel=1e-5)


def test_scale_and_rotation_do_not_matter():
    """Cosines are the same."""
    teacher = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2)))[0]
    for scale in (1e-15, 1e-3, 1e15):
        assert abs(float(pkt_loss([scale * teacher @ turn], [teacher]))) < 1e-12


@pytest.mark.parametrize("who", ["student", "teacher", "both"])
def test_an_image_without_features(who):
    """The published value with cosine 0, and a finite gradient."""
    generator = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(5, 4, generator=generator), torch.randn(5, 3, generator=generator)
    for embedding, chosen in ((student, who != "teacher"), (teacher, who != "student")):
        if chosen:
            embedding[3] = 0.0
    expected = published(student, teacher)
    student.requires_grad_()
    loss = pkt_loss([student], [teacher])
    (gradient,) = torch.autograd.grad(loss, student)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert gradient.isfinite().all()
    assert 0 < gradient.abs().max() < 10
    assert who == "teacher" or (gradient[3] == 0).all()


def test_opposite_images_have_a_finite_gradient():
    """Where a probability is 0 and the teacher's is not."""
    student = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss = pkt_loss([student], [torch.ones(3, 2)])
    assert loss.isfinite()
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_a_batch_of_one():
    """Loss 0 and gradient 0."""
    student = torch.rand(1, 3, requires_grad=True)
    loss = pkt_loss([student], [torch.rand(1, 5)])
    assert float(loss.detach()) == 0
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-6
