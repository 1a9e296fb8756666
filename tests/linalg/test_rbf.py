"""The factored radial basis distance against the dense one in float64, by hand, and by finite differences."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from svdistill.errors import OptionError, ShapeError
from svdistill.linalg import rbf, rbf_distance


def unit_vectors(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return random unit vectors along the last dimension."""
    v = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (v / v.norm(dim=-1, keepdim=True)).to(dtype)


def dense(student: list[Tensor], teacher: list[Tensor], beta: float, weight: Tensor | None = None) -> Tensor:
    """The definition, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for pair in range(len(student) - 1):
        relation = [
            torch.exp(-((v[pair].double()[..., :, None] - v[pair + 1].double()[..., None, :]) ** 2) / beta)
            for v in (student, teacher)
        ]
        part = (relation[0] - relation[1]).square().sum((-1, -2))
        total = total + (part if weight is None else part * weight[pair]).sum()
    return total


def taps(seed: int, widths: tuple[int, ...] = (5, 9, 3), batch: tuple[int, ...] = (4, 2)) -> list[Tensor]:
    """Return unit vectors for some taps."""
    return [unit_vectors(*batch, width, seed=seed + i) for i, width in enumerate(widths)]


def test_by_hand():
    """One-dimensional taps: (e^(−(1−0)²/8) − e^(−(1−1)²/8))²."""
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    expected = (math.exp(-1 / 8) - 1) ** 2
    assert float(rbf_distance([one, zero], [one, one])) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("beta", [0.001, 0.05, 0.5, 2.0, 8.0, 100.0])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_matches_dense(beta, batch):
    """Value and gradient agree with the definition for every width, by series or in chunks."""
    student, teacher = taps(1, batch=batch), taps(7, batch=batch)
    weight = torch.rand(2, *batch, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    for v in student:
        v.requires_grad_()
    found, expected = rbf_distance(student, teacher, beta=beta, weight=weight), dense(student, teacher, beta, weight)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    for ours, theirs in zip(torch.autograd.grad(found, student), torch.autograd.grad(expected, student), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("beta", [0.3, 8.0])
def test_gradcheck(beta):
    """The gradient agrees with finite differences, element by element."""
    student, teacher = taps(1), taps(7)
    for v in student:
        v.requires_grad_()
    assert gradcheck(lambda *v: rbf_distance(v, teacher, beta=beta), student, atol=1e-8, rtol=1e-6, fast_mode=False)


@pytest.mark.parametrize("tap", range(3))
@pytest.mark.parametrize("beta", [0.3, 8.0])
def test_a_tap_that_learns_alone(tap, beta):
    """Its gradient is what it is beside the others; a network may be frozen up to somewhere."""
    student, teacher = taps(1), taps(7)
    together = torch.autograd.grad(rbf_distance([v.requires_grad_() for v in student], teacher, beta=beta), student)
    alone = [v.detach().requires_grad_(number == tap) for number, v in enumerate(student)]
    (found,) = torch.autograd.grad(rbf_distance(alone, teacher, beta=beta), alone[tap])
    assert torch.equal(found, together[tap])


@pytest.mark.parametrize("largest", [0.2, 1.0, 3.0])
def test_entries_of_any_size(largest):
    """The number of terms follows the data: one-hot vectors and entries beyond 1 are as exact as small ones."""
    student = [torch.eye(4)[:2] * largest, torch.eye(4)[:2] * largest, torch.eye(4)[2:] * largest]
    teacher = [v.roll(1, 1) * 0.9 for v in student]
    found = rbf_distance(student, teacher)
    torch.testing.assert_close(found.double(), dense(student, teacher, 8.0), rtol=2e-6, atol=0)


@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-6])
def test_more_accurate_than_the_dense_form_near_the_teacher(distance):
    """In float32 with student ≈ teacher, value and gradient keep 4 digits of what float64 gives for these inputs."""
    teacher = [v.float() for v in taps(1, (64, 128), (32, 1))]
    student = [(v + distance * unit_vectors(*v.shape, seed=20 + i)).float() for i, v in enumerate(teacher)]
    single = [v.clone().requires_grad_() for v in student]
    double = [v.double().requires_grad_() for v in student]
    found, expected = rbf_distance(single, teacher), dense(double, teacher, 8.0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    for ours, exact in zip(torch.autograd.grad(found, single), torch.autograd.grad(expected, double), strict=True):
        assert (ours - exact).norm() < 1e-4 * exact.norm()


def test_chunks_do_not_show(monkeypatch):
    """The result does not depend on how the batch is cut into chunks."""
    student, teacher = taps(1, batch=(11, 1)), taps(7, batch=(11, 1))
    whole = [rbf_distance(student, teacher, beta=beta) for beta in (0.01, 8.0)]
    monkeypatch.setattr("svdistill.linalg.rbf.CHUNK_NUMBERS", 500)
    parts = [rbf_distance(student, teacher, beta=beta) for beta in (0.01, 8.0)]
    torch.testing.assert_close(parts, whole, rtol=1e-13, atol=0)


def test_equal_vectors_are_at_distance_zero():
    """Student = teacher gives exactly 0, and gradient 0."""
    student = [v.float().requires_grad_() for v in taps(1)]
    distance = rbf_distance(student, [v.detach() for v in student])
    assert float(distance.detach()) == 0
    assert all((g == 0).all() for g in torch.autograd.grad(distance, student))


def test_empty_batch():
    """No samples are at distance 0, with a gradient of the right shape."""
    student = [torch.zeros(0, 2, 3, requires_grad=True), torch.zeros(0, 2, 4, requires_grad=True)]
    distance = rbf_distance(student, [torch.zeros(0, 2, 3), torch.zeros(0, 2, 4)])
    distance.backward()
    assert float(distance.detach()) == 0
    assert student[0].grad.shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("student", "teacher", "options", "words"),
    [
        ([(2, 3)], [(2, 3)], {}, "two or more taps"),
        ([(2, 3), (2, 4)], [(2, 3)], {}, "got 2 and 1"),
        ([(2, 3), (2, 4)], [(2, 3), (2, 5)], {}, "tap 1"),
        ([(2, 3), (3, 4)], [(2, 3), (3, 4)], {}, "tap 1"),
        ([(2, 3), (2, 4)], [(2, 3), (2, 4)], {"weight": torch.ones(2)}, r"weight must be \(1, 2\), got \(2,\)"),
    ],
)
def test_bad_input(student, teacher, options, words):
    """Each wrong argument is named."""
    with pytest.raises(ShapeError, match=words):
        rbf_distance([torch.zeros(s) for s in student], [torch.zeros(s) for s in teacher], **options)


@pytest.mark.parametrize(("beta", "words"), [(0.0, "beta"), (1e-38, "at least"), ("8", "got '8'")])
def test_bad_beta(beta, words):
    """The width is positive, and no smaller than float32 can divide by."""
    vectors = [torch.zeros(2, 3), torch.zeros(2, 4)]
    with pytest.raises(OptionError, match=words):
        rbf_distance(vectors, vectors, beta=beta)


def test_autocast():
    """Under autocast the distance and its gradient are those of float32."""
    student, teacher = [v.float().requires_grad_() for v in taps(1)], [v.float() for v in taps(7)]
    plain = rbf_distance(student, teacher)
    gradients = torch.autograd.grad(plain, student)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = rbf_distance(student, teacher)
        cast_gradients = torch.autograd.grad(cast, student)
    assert torch.equal(plain, cast)
    assert all(torch.equal(a, b) for a, b in zip(gradients, cast_gradients, strict=True))


def test_second_derivative_is_refused():
    """A second derivative, which would be zero in silence, is refused with a message that says so."""
    student = [v.requires_grad_() for v in taps(1)]
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(rbf_distance(student, taps(7)), student, create_graph=True)


def test_a_limit_does_not_decide_on_a_cpu():
    """There the data are looked at, so that a limit that they exceed does no harm."""
    student, teacher = taps(1), taps(7)
    found = rbf_distance(student, teacher, limit=1e-3)
    torch.testing.assert_close(found, dense(student, teacher, 8.0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("front", "back", "beta"), [(1.0, 1.0, 8.0), (0.25, 1.0, 8.0), (1.0, 1.0, 1.0), (3.0, 0.5, 8.0), (4.0, 0.5, 8.0)]
)
def test_as_many_terms_as_it_takes(front, back, beta, dtype):
    """The first that is left out is below rounding, and the last that is kept is not."""
    vectors = [torch.tensor([[front, 0.0]], dtype=dtype), torch.tensor([[-back, 0.0]], dtype=dtype)]
    terms = rbf._terms(vectors, vectors, beta, None)
    x, rounding = 2 * front * back / beta, 2 * torch.finfo(dtype).eps
    left_out, kept = (x ** (r - 1) / math.factorial(r - 1) for r in (terms, terms - 1))
    assert left_out <= rounding < kept


@pytest.mark.parametrize(
    ("front", "back", "beta"), [(1.0, 1.0, 0.9), (10.0, 1e-3, 8.0), (1e-3, 10.0, 8.0), (5.7, 1e-3, 8.0)]
)
def test_no_series_where_it_would_be_long_or_overflow(front, back, beta):
    """2 a b / β is above 2, or a² / β above 4."""
    vectors = [torch.tensor([[front]]), torch.tensor([[back]])]
    assert rbf._terms(vectors, vectors, beta, None) is None


def test_a_large_teacher_before_a_small_student():
    """exp(c² / β) is beyond float32 here, and a series would be 0 times infinity."""
    student = [torch.zeros(2, 3), torch.full((2, 3), 1e-3)]
    teacher = [torch.full((2, 3), 30.0), torch.full((2, 3), 1e-3)]
    torch.testing.assert_close(rbf_distance(student, teacher).double(), dense(student, teacher, 8.0), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("numbers", "factored", "plain"), [(1, 11, 11), (120, 11, 6), (500, 6, 1), (1 << 19, 1, 1)])
def test_chunks_are_as_large_as_memory_allows(monkeypatch, numbers, factored, plain):
    """Of 11 samples with 17 entries: 6 terms make 204 numbers a sample, the largest plain relation 45."""
    monkeypatch.setattr("svdistill.linalg.rbf.CHUNK_NUMBERS", numbers)
    student, teacher = taps(1, batch=(11,)), taps(7, batch=(11,))
    weight = torch.ones(2, 11, dtype=torch.float64)
    assert len(list(rbf._factored_chunks(student, teacher, weight, 8.0, 6, True))) == factored
    assert len(list(rbf._dense_chunks(student, teacher, weight, 8.0, 0, True))) == plain
