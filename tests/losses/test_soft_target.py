"""Soft targets on values worked out by hand."""

import math

import pytest
import torch

from svdistill.errors import OptionError, ShapeError
from svdistill.losses import SoftTargetLoss, soft_target_loss


def test_by_hand():
    """Two classes, T = 2: T² (p log p/q + (1−p) log (1−p)/(1−q)) with p, q the sigmoids of half the differences."""
    p, q = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(0.5))
    expected = 4 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    student = torch.tensor([[0.0, 1.0], [5.0, 3.0]], dtype=torch.float64)
    teacher = torch.tensor([[2.0, 0.0], [5.0, 3.0]], dtype=torch.float64)
    assert float(soft_target_loss(student, teacher, temperature=2)) == pytest.approx(expected / 2, rel=1e-12)


def test_gradient_is_the_difference_of_probabilities():
    """d/d logits = T (p_S − p_T) / B."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    (found,) = torch.autograd.grad(soft_target_loss(student, teacher, temperature=4.0), student)
    torch.testing.assert_close(found, 4 / 3 * ((student / 4).softmax(1) - (teacher / 4).softmax(1)).detach())


def test_module_is_the_function():
    """The module gives what the function gives, also through `measure`, and sends nothing to the teacher."""
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(4, 3, generator=generator)
    teacher = torch.randn(4, 3, generator=generator).requires_grad_()
    loss = SoftTargetLoss(temperature=3.0)
    assert torch.equal(loss(student, teacher), soft_target_loss(student, teacher, temperature=3.0))
    assert torch.equal(loss.measure(student, teacher)[0], loss(student, teacher))
    assert loss.measure(student, teacher)[1] == {}
    assert not loss(student, teacher).requires_grad


def test_half_precision_and_empty_batch():
    """bfloat16 logits are compared in float32; an empty batch gives 0."""
    assert soft_target_loss(torch.zeros(2, 3).bfloat16(), torch.ones(2, 3).bfloat16()).dtype == torch.float32
    assert float(soft_target_loss(torch.zeros(0, 3), torch.zeros(0, 3))) == 0


def test_bad_input():
    """Unequal classes and a temperature that is not positive are refused."""
    with pytest.raises(ShapeError, match="same classes"):
        soft_target_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(OptionError, match="temperature"):
        SoftTargetLoss(temperature=0)


def test_excluded_class():
    """A class that the teacher excludes by −inf counts nothing: log 2 against a student that divides by three."""
    teacher = torch.tensor([[1.0, 1.0, -float("inf")]])
    loss = soft_target_loss(torch.zeros(1, 3), teacher, temperature=1.0)
    assert float(loss) == pytest.approx(math.log(3 / 2), rel=1e-6)


def test_shows_its_temperature() -> None:
    """A printed network says what the loss was made with."""
    assert repr(SoftTargetLoss(temperature=3.0)) == "SoftTargetLoss(temperature=3.0)"
