"""What all losses have in common: a constant teacher, classes that nobody knows, and nothing hidden."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from svdistill.errors import ShapeError
from svdistill.losses import (
    AttentionLoss,
    FitNetLoss,
    FSPLoss,
    PKTLoss,
    RelationalLoss,
    SimilarityLoss,
    SVDLoss,
    dist_loss,
    dkd_loss,
    soft_target_loss,
)
from tests.features import post_relu_maps

OF_MAPS = {
    "svd": SVDLoss(2),
    "svd in the teacher's basis": SVDLoss(2, basis="teacher"),
    "fsp": FSPLoss(),
    "attention": AttentionLoss(),
    "fitnet": FitNetLoss(),
    "similarity": SimilarityLoss(),
    "pkt": PKTLoss(),
    "relational": RelationalLoss(),
}
LABELS = torch.tensor([0, 1, 2, 3, 4, -1])
OF_LOGITS: dict[str, Any] = {
    "soft targets": soft_target_loss,
    "standardized": lambda *sides: soft_target_loss(*sides, standardize=True),
    "dkd": lambda *sides: dkd_loss(*sides, LABELS),
    "dist": dist_loss,
}


def both_maps() -> tuple[list[Tensor], list[Tensor]]:
    """Return maps of equal sizes that stay as they are: nothing is pooled or copied."""
    sides = [post_relu_maps(4, seed=seed, channels=(8, 8, 12), size=16) for seed in (1, 2)]
    student, teacher = ([one.requires_grad_() for one in maps] for maps in sides)
    return student, teacher


@pytest.mark.parametrize("name", OF_MAPS)
def test_the_teacher_is_constant(name):
    """Also where its maps want a gradient, as in a network that teaches itself."""
    loss, (student, teacher) = OF_MAPS[name], both_maps()
    loss.prepare(student, teacher)
    loss(student, teacher).backward()
    assert all(one.grad is None for one in teacher)
    assert any(one.grad is not None and one.grad.any() for one in student)


@pytest.mark.parametrize("loss", [PKTLoss(), SimilarityLoss(), RelationalLoss(angle=0), RelationalLoss(distance=0)])
@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("who", [0, 1])
def test_what_is_not_finite_shows(loss, value, who):
    """One broken image does not turn into relations of a batch without features; the loss is NaN, and so dropped."""
    sides = tuple([one.detach().clone() for one in maps] for maps in both_maps())
    sides[who][-1][2, 0, 0, 0] = value
    assert loss(*sides).isnan()


def both_logits() -> tuple[Tensor, Tensor]:
    """Return logits of student and teacher in float64, of eight classes, the last of which the teacher likes most."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = (2 * torch.randn(6, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    teacher[:, 7] += 4
    return student, teacher


@pytest.mark.parametrize("name", OF_LOGITS)
def test_a_class_that_the_student_excludes(name):
    """Value and gradient are those without this class, whether or not the teacher knows it."""
    loss, (student, teacher) = OF_LOGITS[name], both_logits()
    without = student[:, :7].clone().requires_grad_()
    expected = loss(without, teacher[:, :7])
    expected.backward()
    for known in (True, False):
        given, theirs = student.clone(), teacher.clone()
        given[:, 7] = -math.inf
        if not known:
            theirs[:, 7] = -math.inf
        given.requires_grad_()
        found = loss(given, theirs)
        found.backward()
        assert found.item() == pytest.approx(expected.item(), rel=1e-12)
        torch.testing.assert_close(given.grad[:, :7], without.grad, rtol=1e-10, atol=1e-14)
        assert not given.grad[:, 7].any()


def test_a_class_that_the_student_excludes_of_some_images():
    """DIST takes the correlation of this class over the other images."""
    student, teacher = both_logits()
    given = student.clone()
    given[:2, 7] = -math.inf
    found = dist_loss(given, teacher, beta=0, gamma=8, temperature=1)
    ours, theirs = given.softmax(1), teacher.masked_fill(given == -math.inf, -math.inf).softmax(1)
    rows = [(ours[:, c], theirs[:, c]) for c in range(7)] + [(ours[2:, 7], theirs[2:, 7])]
    expected = sum(1 - torch.corrcoef(torch.stack(pair))[0, 1].item() for pair in rows)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_an_image_whose_classes_are_all_excluded():
    """It has nothing to say, and changes nothing in DIST's mean over the images."""
    student, teacher = both_logits()
    expected = dist_loss(student[1:], teacher[1:], gamma=0)
    student[0] = -math.inf
    assert dist_loss(student, teacher, gamma=0).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_logits_are_floating(name):
    """Whole numbers are not taken for logits in silence."""
    student, teacher = both_logits()
    with pytest.raises(ShapeError, match=r"logits of the teacher must be floating point numbers, got torch\.int64"):
        OF_LOGITS[name](student, teacher.long())


@pytest.mark.parametrize("name", ["svd in the teacher's basis", "attention", "fitnet"])
def test_a_goal_for_a_larger_map(name):
    """The student's map is not blown up to it."""
    loss, (student, teacher) = OF_MAPS[name], both_maps()
    loss.prepare(student, teacher)
    goal = loss.extract(teacher, student)
    small = [torch.nn.functional.avg_pool2d(one, 2) for one in student]
    with pytest.raises(ShapeError, match=r"the teacher's goal is of \d x \d positions, .*extract the goal for this"):
        loss.compare(small, goal)
