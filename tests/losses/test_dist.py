"""DIST against its published formula in plain loops, by hand, and where there is nothing to correlate."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from svdistill.errors import OptionError, ShapeError
from svdistill.losses import DISTLoss, dist_loss


def softmax(logits: list[float]) -> list[float]:
    """Return probabilities."""
    whole = math.fsum(map(math.exp, logits))
    return [math.exp(one) / whole for one in logits]


def pearson(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the correlation with the ε of the authors' code."""
    apart = [[x - math.fsum(values) / len(values) for x in values] for values in (a, b)]
    return math.fsum(map(math.prod, zip(*apart, strict=True))) / (math.hypot(*apart[0]) * math.hypot(*apart[1]) + 1e-8)


def published(student: Tensor, teacher: Tensor, beta: float, gamma: float, temperature: float) -> float:
    """Huang et al.: over the classes of each image, and over the images of each class."""
    s, t = ([softmax([x / temperature for x in row]) for row in one.double().tolist()] for one in (student, teacher))
    inter = [1 - pearson(a, b) for a, b in zip(s, t, strict=True)]
    intra = [1 - pearson(a, b) for a, b in zip(zip(*s, strict=True), zip(*t, strict=True), strict=True)]
    return temperature**2 * (beta * math.fsum(inter) / len(inter) + gamma * math.fsum(intra) / len(intra))


def pair(batch: int = 6, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Return logits of student and teacher in float64."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(batch, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return 3 * student, 3 * teacher


@pytest.mark.parametrize(("beta", "gamma", "temperature"), [(2.0, 2.0, 4.0), (1.0, 0.0, 1.0), (0.0, 3.0, 2.0)])
def test_published_formula(beta, gamma, temperature):
    """To rounding, in float64 and in float32."""
    student, teacher = pair()
    options = {"beta": beta, "gamma": gamma, "temperature": temperature}
    expected = published(student, teacher, **options)
    assert float(dist_loss(student, teacher, **options)) == pytest.approx(expected, rel=1e-12)
    assert float(dist_loss(student.float(), teacher.float(), **options)) == pytest.approx(expected, rel=1e-5)


def test_by_hand():
    """Probabilities (½, ¼, ¼) and (¼, ½, ¼): deviations (2, −1, −1) and (−1, 2, −1), ρ = −½; one image, so β alone."""
    student, teacher = torch.tensor([[2.0, 1.0, 1.0]]).log(), torch.tensor([[1.0, 2.0, 1.0]]).log()
    assert float(dist_loss(student, teacher, beta=1, gamma=0, temperature=1)) == pytest.approx(1.5, rel=1e-6)
    assert float(dist_loss(student, teacher, beta=0, gamma=1, temperature=1)) == 1  # nothing to correlate


def test_gradient_agrees_with_finite_differences():
    """In float64; at the teacher's own logits it is 0."""
    student, teacher = pair(4)
    assert torch.autograd.gradcheck(lambda s: dist_loss(s, teacher), student.requires_grad_(), fast_mode=False)
    same = teacher.clone().requires_grad_()
    loss = dist_loss(same, teacher)
    (gradient,) = torch.autograd.grad(loss, same)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-4)  # of ε
    assert gradient.abs().max() < 1e-4


INF = torch.inf


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ([[0.0, 0.0, 0.0]] * 3, [[0.0, 0.0, 0.0]] * 3),  # constant
        ([[0.1, 0.1, 0.1]] * 3, [[3.0, 0.0, 1.0], [0.0, 1.0, 2.0], [1.0, 1.0, 0.0]]),
        ([[2.0, 1.0, 0.0]] * 3, [[3.0, 0.0, 1.0], [0.0, 1.0, 2.0], [1.0, 1.0, 0.0]]),  # the same for all images
        ([[2.0, 1.0, 0.0]], [[3.0, 0.0, 1.0]]),  # one image
        ([[2.0], [1.0]], [[3.0], [0.0]]),  # one class
        ([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]], [[3.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),  # two
        ([[1e4, -1e4, 0.0], [0.0, 1e4, 0.0]], [[-1e4, 1e4, 0.0], [1e4, 0.0, 0.0]]),
        ([[1.0, 2.0, -INF], [0.0, 1.0, -INF]], [[2.0, 0.0, -INF], [1.0, 0.0, -INF]]),
        ([[1.0, 2.0, 0.0], [0.0, 1.0, 5.0]], [[2.0, 0.0, -INF], [1.0, 0.0, -INF]]),
    ],
)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_degenerate_logits(student, teacher, kind):
    """Loss and gradient are finite, and the gradient stays small where there is nothing to correlate."""
    own = torch.tensor(student, dtype=kind).requires_grad_()
    loss = dist_loss(own, torch.tensor(teacher, dtype=kind), temperature=1)
    (gradient,) = torch.autograd.grad(loss, own)
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 10


def test_constant_logits_have_no_gradient():
    """Where the formula would divide the teacher's deviations by ε."""
    student = torch.full((3, 4), 0.3, requires_grad=True)
    loss = dist_loss(student, pair(3, 4)[1].float())
    assert float(loss.detach()) == pytest.approx(64)  # ρ = 0: T² (β + γ)
    assert (torch.autograd.grad(loss, student)[0] == 0).all()


def test_empty_batch():
    """Loss 0, with a gradient."""
    student = torch.zeros(0, 3, requires_grad=True)
    loss = dist_loss(student, torch.zeros(0, 3))
    assert float(loss.detach()) == 0
    assert loss.requires_grad


def test_module_is_the_function():
    """The module gives what the function gives, also through `measure`."""
    student, teacher = pair()
    loss = DISTLoss(1.0, 3.0, 2.0)
    expected = dist_loss(student, teacher, beta=1.0, gamma=3.0, temperature=2.0)
    assert torch.equal(loss(student, teacher), expected)
    assert torch.equal(loss.measure(student, teacher)[0], expected)
    assert repr(loss) == "DISTLoss(beta=1.0, gamma=3.0, temperature=2.0)"


def test_bad_input():
    """One line each."""
    with pytest.raises(ShapeError, match="same classes"):
        dist_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    for options in ({"beta": -1.0}, {"beta": "2"}, {"gamma": math.inf}, {"temperature": math.nan}):
        with pytest.raises(OptionError, match=next(iter(options))):
            DISTLoss(**options)
