"""Soft targets on values worked out by hand."""

import math
import statistics

import numpy as np
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


def z_scores(logits: list[float]) -> list[float]:
    """Sun et al., with the deviation that their code takes."""
    return [(one - statistics.fmean(logits)) / statistics.stdev(logits) for one in logits]


def test_standardized_is_the_published_formula():
    """Plain loops: z-scores of both sides, softened, and T² times the divergence, in the mean over the images."""
    generator = torch.Generator().manual_seed(2)
    student, teacher = (5 * torch.randn(6, 4, generator=generator, dtype=torch.float64) + 3 for _ in range(2))
    parts = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = ([math.exp(z / 2) for z in z_scores(one)] for one in (s, t))
        q, p = ([one / math.fsum(side) for one in side] for side in (q, p))
        parts.append(4 * math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    found = soft_target_loss(student, teacher, temperature=2, standardize=True)
    assert float(found) == pytest.approx(statistics.fmean(parts), rel=1e-12)
    assert torch.equal(SoftTargetLoss(2.0, standardize=True)(student, teacher), found)


def test_standardized_by_hand():
    """Logits 0, 1, 2 and 30, 20, 10 have the z-scores −1, 0, 1 and 1, 0, −1, and the same sum of exponentials."""
    found = soft_target_loss(
        torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[30.0, 20.0, 10.0]]), temperature=1, standardize=True
    )
    assert float(found) == pytest.approx(2 * (math.e - 1 / math.e) / (math.e + 1 + 1 / math.e), rel=1e-6)


def test_standardized_gradient():
    """Agrees with finite differences, has no part along mean and scale, and is 0 at the teacher's logits."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return soft_target_loss(logits, teacher, temperature=2, standardize=True)

    assert torch.autograd.gradcheck(loss, student, fast_mode=False)
    (gradient,) = torch.autograd.grad(loss(student), student)
    assert gradient.sum(1).abs().max() < 1e-14
    assert (gradient * student).sum(1).abs().max() < 1e-14
    same = (7 * teacher + 2).requires_grad_()
    assert float(loss(same).detach()) == pytest.approx(0, abs=1e-14)
    assert torch.autograd.grad(loss(same), same)[0].abs().max() < 1e-14


INF = math.inf


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ([0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 1.0, 2.0]),  # constant
        ([0.1, 0.1, 0.1, 0.1], [3.0, 0.0, 1.0, 2.0]),  # whose mean rounds
        ([3.0, 0.0, 1.0, 2.0], [0.7, 0.7, 0.7, 0.7]),
        ([1e-30, 0.0, 0.0, 0.0], [3.0, 0.0, 1.0, 2.0]),
        ([1e4, -1e4, 0.0, 0.0], [-1e4, 1e4, 0.0, 0.0]),
        ([1.0, -INF, 2.0, 0.0], [0.0, -INF, 1.0, 5.0]),  # excluded by both
        ([1.0, -INF, 2.0, 0.0], [0.0, 9.0, 1.0, 5.0]),
        ([1.0, 3.0, 2.0, 0.0], [0.0, -INF, 1.0, 5.0]),
        ([1.0, -INF, -INF, -INF], [0.0, 3.0, 1.0, 5.0]),
        ([1.0, -INF, 2.0, -INF], [-INF, 1.0, -INF, 2.0]),  # no class is left
    ],
)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_degenerate_logits(student, teacher, standardize, kind):
    """Loss and gradient are finite, no larger than for other logits, and what is excluded gets no gradient."""
    own = torch.tensor([student], dtype=kind).requires_grad_()
    loss = soft_target_loss(own, torch.tensor([teacher], dtype=kind), temperature=2, standardize=standardize)
    (gradient,) = torch.autograd.grad(loss, own)
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    assert gradient.isfinite().all()
    assert gradient.abs().max() <= 2
    assert (gradient[own == -INF] == 0).all()
    if standardize and max(student) - min(student) < 1e-20:
        assert (gradient == 0).all()


def test_excluded_by_both():
    """The loss is that of the other classes."""
    generator = torch.Generator().manual_seed(4)
    sides = [torch.randn(3, 4, generator=generator) for _ in range(2)]
    wide = [torch.cat([one, torch.full((3, 1), -INF)], 1) for one in sides]
    for standardize in (False, True):
        found = soft_target_loss(*wide, standardize=standardize)
        torch.testing.assert_close(found, soft_target_loss(*sides, standardize=standardize))


def test_broken_logits_are_not_hidden():
    """NaN reaches the loss."""
    broken = torch.tensor([[0.0, math.nan, 1.0]])
    for standardize in (False, True):
        assert soft_target_loss(broken, torch.zeros(1, 3), standardize=standardize).isnan()
        assert soft_target_loss(torch.zeros(1, 3), broken, standardize=standardize).isnan()


@pytest.mark.parametrize("classes", [1, 2])
def test_too_few_classes_to_standardize(classes):
    """With two the z-scores are ±1/√2, whatever the logits: refused in one line, and without them defined."""
    sides = torch.rand(3, classes), torch.rand(3, classes)
    with pytest.raises(ShapeError, match=rf"at least 3 classes, got {classes}: .*leave standardize out"):
        soft_target_loss(*sides, standardize=True)
    assert soft_target_loss(*sides).isfinite()


def test_half_precision_and_empty_batch():
    """bfloat16 logits are compared in float32; an empty batch gives 0."""
    assert soft_target_loss(torch.zeros(2, 3).bfloat16(), torch.ones(2, 3).bfloat16()).dtype == torch.float32
    assert float(soft_target_loss(torch.zeros(0, 3), torch.zeros(0, 3))) == 0


def test_bad_input():
    """Unequal classes and a temperature that is not positive are refused."""
    with pytest.raises(ShapeError, match="same classes"):
        soft_target_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    for temperature in (0, "4", None, [4.0]):
        with pytest.raises(OptionError, match="temperature must be a positive number, got"):
            SoftTargetLoss(temperature=temperature)
    for standardize in ("false", "", None):
        with pytest.raises(OptionError, match="standardize must be True or False, got"):
            SoftTargetLoss(standardize=standardize)
        with pytest.raises(OptionError, match="standardize must be True or False, got"):
            soft_target_loss(torch.zeros(2, 3), torch.zeros(2, 3), standardize=standardize)


@pytest.mark.parametrize("four", [4, np.float32(4), np.int64(4), np.array(4.0), torch.tensor(4.0)], ids=repr)
def test_numbers_of_any_type(four):
    """An option may be NumPy's number, or a tensor of one."""
    student, teacher = torch.rand(2, 5), torch.rand(2, 5)
    expected = soft_target_loss(student, teacher, temperature=4.0)
    torch.testing.assert_close(SoftTargetLoss(temperature=four)(student, teacher), expected, check_dtype=False)


def test_excluded_class():
    """A class that the teacher excludes by −inf counts nothing: log 2 against a student that divides by three."""
    teacher = torch.tensor([[1.0, 1.0, -float("inf")]])
    loss = soft_target_loss(torch.zeros(1, 3), teacher, temperature=1.0)
    assert float(loss) == pytest.approx(math.log(3 / 2), rel=1e-6)


def test_shows_its_temperature() -> None:
    """A printed network says what the loss was made with."""
    assert repr(SoftTargetLoss(temperature=3.0)) == "SoftTargetLoss(temperature=3.0)"
    assert repr(SoftTargetLoss(standardize=True)) == "SoftTargetLoss(temperature=4.0, standardize=True)"
