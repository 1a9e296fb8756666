"""Decompositions and relations on the device against float64 on a CPU, by other algorithms."""

from functools import partial

import pytest
import torch

from svdistill.linalg import rbf_distance, truncated_svd
from svdistill.linalg.align import assign
from svdistill.linalg.solvers import MAX_SQUARING_RANK
from svdistill.linalg.squaring import leading, resolvent
from svdistill.linalg.svd import decompose

EPS = torch.finfo(torch.float32).eps
SHAPES = [(64, 16), (256, 64), (16, 128), (1024, 48)]
RATIO = 0.8  # of neighbouring singular values
WAYS = [("auto", 1), ("auto", 4), ("auto", 9), ("squaring", 1), ("squaring", MAX_SQUARING_RANK), ("eigh", 4)]
WAYS += [("subspace", 2), ("lapack", 2)]


def matrices(positions, channels, *, batch=6, seed=0):
    """Return matrices (B, N, D) in float64 whose singular values fall by `RATIO`, with a mean as features have it."""
    generator = torch.Generator().manual_seed(seed)
    size = min(positions, channels)
    left, right = (
        torch.linalg.qr(torch.randn(batch, n, size, generator=generator, dtype=torch.float64))[0]
        for n in (positions, channels)
    )
    values = 3.0 * RATIO ** torch.arange(size, dtype=torch.float64)
    return (left * values) @ right.mT


def projector(vectors):
    """Return v vᵀ, which knows nothing of signs."""
    return vectors @ vectors.mT


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("solver", "rank"), WAYS)
def test_values_and_vectors(device, shape, solver, rank):
    """Values to rounding, vectors orthonormal, and the space that they span."""
    m = matrices(*shape)
    _, exact, right = torch.linalg.svd(m, full_matrices=False)
    s, v = (one.cpu().double() for one in truncated_svd(m.float().to(device), rank, solver=solver))
    # cuSOLVER's symmetric solver came within 77 EPS of the values on an H200, LAPACK's within 50.
    torch.testing.assert_close(s, exact[:, :rank], rtol=(50 if device.type == "cpu" else 150) * EPS, atol=0)
    torch.testing.assert_close(v.mT @ v, torch.eye(rank).double().expand(len(m), rank, rank), rtol=0, atol=50 * EPS)
    torch.testing.assert_close(projector(v), projector(right.mT[..., :rank]), rtol=0, atol=200 * EPS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 4, MAX_SQUARING_RANK + 2])
def test_gradient(device, shape, rank):
    """Of a value that depends on no sign, against torch's own derivative of a complete decomposition."""
    m = matrices(*shape)
    weight = torch.randn(m.shape[-1], m.shape[-1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def value(s, v, weight):
        return s.sum() + (projector(v) * weight).sum()

    exact = m.clone().requires_grad_()
    _, s, rows = torch.linalg.svd(exact, full_matrices=False)
    (expected,) = torch.autograd.grad(value(s[:, :rank], rows.mT[..., :rank], weight), exact)
    found = m.float().to(device).requires_grad_()
    (gradient,) = torch.autograd.grad(value(*truncated_svd(found, rank), weight.float().to(device)), found)
    error = (gradient.cpu().double() - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert error.max() < 2e-4


@pytest.mark.filterwarnings("ignore::svdistill.errors.SvdistillWarning")
def test_what_is_zero_or_not_finite_gives_nothing(device):
    """No vector, no gradient, and its neighbours are as they would be without it."""
    m = matrices(64, 16).float()
    alone = truncated_svd(m[3:].to(device), 2)[0].cpu()
    m[0], m[1, 0, 0], m[2, 5, 5] = 0, float("nan"), float("inf")
    m = m.to(device).requires_grad_()
    s, v = truncated_svd(m, 2)
    (gradient,) = torch.autograd.grad(s.sum() + v.square().sum(), m)
    assert not s[:3].any()
    assert not v[:3].any()
    assert not gradient[:3].any()
    torch.testing.assert_close(s[3:].detach().cpu(), alone)


@pytest.mark.parametrize("assignment", ["argmax", "one_to_one"])
def test_targets_are_answered(device, assignment):
    """Asked for its own vectors in another order and with other signs, a matrix gives just these."""
    m = matrices(256, 64)
    right = torch.linalg.svd(m, full_matrices=False)[2]
    targets = right[:, [2, 0, 1]] * torch.tensor([1.0, -1.0, -1.0])[:, None]
    x = m.mT.float().to(device)
    found = decompose(x, 4, targets=targets.float().to(device), assign=partial(assign, assignment=assignment))
    torch.testing.assert_close(found.rows.cpu().double(), targets, rtol=0, atol=200 * EPS)
    torch.testing.assert_close(found.cosine.cpu(), torch.ones(len(m), 3), rtol=0, atol=50 * EPS)


def test_squaring(device):
    """Leading eigenvectors and the resolvent by products alone, whatever multiplies matrices here."""
    m = matrices(256, 64)
    gram = m.mT @ m
    gram = gram / gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    exact, vectors = torch.linalg.eigh(gram)
    values, rows = leading(gram.float().to(device), 3)
    torch.testing.assert_close(values.cpu().double(), exact.flip(1)[:, :3], rtol=50 * EPS, atol=0)
    space = projector(vectors[..., -3:])
    torch.testing.assert_close(projector(rows.mT.cpu().double()), space, rtol=0, atol=100 * EPS)
    value = 1.1 * exact[:, -1:]
    rhs = torch.randn(len(m), 1, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shifted = value[..., None] * torch.eye(64, dtype=torch.float64) - gram
    expected = torch.linalg.solve(shifted, rhs.mT).mT
    found = resolvent(*(one.float().to(device) for one in (gram, value, value, rhs)))
    torch.testing.assert_close(found.cpu().double(), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("beta", [8.0, 0.5, 0.01])
@pytest.mark.parametrize("limit", [None, 1.0])
def test_relations(device, beta, limit):
    """The distance and its gradient, as a series and in full, against the formula."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        [
            torch.nn.functional.normalize(torch.randn(5, 2, d, generator=generator, dtype=torch.float64), dim=2)
            for d in (16, 24, 40)
        ]
        for _ in range(2)
    )

    def relation(maps, pair):
        front, back = maps[pair][..., :, None], maps[pair + 1][..., None, :]
        return torch.exp(-((front - back) ** 2) / beta)

    exact = [one.clone().requires_grad_() for one in student]
    expected = sum((relation(exact, pair) - relation(teacher, pair)).square().sum() for pair in range(2))
    on_device = [one.float().to(device).requires_grad_() for one in student]
    found = rbf_distance(on_device, [one.float().to(device) for one in teacher], beta=beta, limit=limit)
    torch.testing.assert_close(found.detach().cpu().double(), expected.detach(), rtol=1e-4, atol=0)
    pairs = zip(torch.autograd.grad(found, on_device), torch.autograd.grad(expected, exact), strict=True)
    for gradient, right in pairs:
        assert (gradient.cpu().double() - right).norm() < 2e-4 * right.norm()
