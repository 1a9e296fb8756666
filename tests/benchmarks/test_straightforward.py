"""Tests of the form that the loss is timed against."""

import pytest
import torch
from benchmarks.loss import CASES, Case
from benchmarks.straightforward import straightforward_loss
from tests.features import post_relu_maps

from svdistill.losses import svd_loss


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_both_forms_are_one_loss(case: Case) -> None:
    """Value and gradient, also where a map has fewer positions than there are vectors."""
    student, teacher = (post_relu_maps(3, seed=seed, channels=(16, 24, 32), size=16) for seed in (1, 2))
    assert student[-1].shape[2:] == (2, 2)
    student, teacher = [m.double().requires_grad_() for m in student], [m.double() for m in teacher]
    options = {"rank": case.rank, "basis": case.basis}
    ours = svd_loss(student, teacher, assignment="argmax", reduction="sum", **options)
    theirs = straightforward_loss(student, teacher, **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    for found, expected in zip(*(torch.autograd.grad(loss, student) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
