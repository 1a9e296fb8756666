"""SP against its published formula in plain loops, by hand, and for images without features."""

import math

import pytest
import torch
from torch import Tensor

from svdistill.losses import similarity_loss


def similarities(features: list[list[float]]) -> list[list[float]]:
    """Tung and Mori: inner products of all pairs, each row divided by its norm."""
    gram = [[math.fsum(map(math.prod, zip(a, b, strict=True))) for b in features] for a in features]
    return [[x / (math.hypot(*row) or 1) for x in row] for row in gram]


def published(student: Tensor, teacher: Tensor) -> float:
    """The mean over all B² pairs."""
    sides = [similarities(one.double().flatten(1).tolist()) for one in (student, teacher)]
    apart = [(s - t) ** 2 for rows in zip(*sides, strict=True) for s, t in zip(*rows, strict=True)]
    return math.fsum(apart) / len(apart)


def test_published_formula():
    """On maps of other widths and sizes; the last tap counts, each position of it by itself."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(5, 3, 4, 4, generator=generator), torch.randn(5, 7, 2, 3, generator=generator)
    first = torch.rand(5, 2, 8, 8)
    assert float(similarity_loss([first, student], [first, teacher])) == pytest.approx(
        published(student, teacher), rel=1e-6
    )


def test_by_hand():
    """Orthogonal and equal images: the rows (1, 0), (0, 1) against (1, 1)/√2 twice."""
    student, teacher = torch.eye(2), torch.ones(2, 3)
    root = math.sqrt(0.5)
    assert float(similarity_loss([student], [teacher])) == pytest.approx(2 * ((1 - root) ** 2 + root**2) / 4, rel=1e-6)


def test_scale_and_rotation_do_not_matter():
    """Similarities are relative to each other."""
    teacher = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2)))[0]
    for scale in (1e-15, 1e-3, 1e15):
        assert float(similarity_loss([scale * teacher @ turn], [teacher])) < 1e-12


@pytest.mark.parametrize("who", ["student", "teacher", "both"])
def test_an_image_without_features(who):
    """The published value with similarity 0, and a finite gradient."""
    generator = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(5, 4, generator=generator), torch.randn(5, 3, generator=generator)
    for features, chosen in ((student, who != "teacher"), (teacher, who != "student")):
        if chosen:
            features[3] = 0.0
    expected = published(student, teacher)
    student.requires_grad_()
    loss = similarity_loss([student], [teacher])
    (gradient,) = torch.autograd.grad(loss, student)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    assert gradient.isfinite().all()
    assert 0 < gradient.abs().max() < 10


def test_next_to_no_features_do_not_blow_up():
    """An image whose features are those of another, but for a factor of almost nothing."""
    student = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    student[2] *= 1e-30
    student.requires_grad_()
    loss = similarity_loss([student], [torch.rand(4, 3, generator=torch.Generator().manual_seed(4))])
    assert torch.autograd.grad(loss, student)[0].abs().max() < 10


def test_a_batch_of_one():
    """Loss 0 and gradient 0."""
    student = torch.rand(1, 3, requires_grad=True)
    loss = similarity_loss([student], [torch.rand(1, 5)])
    assert float(loss.detach()) == 0
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-6
