"""Truncated SVD: against LAPACK in float64, against finite differences, and on every kind of degenerate matrix."""

import itertools
import warnings
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from svdistill.errors import OptionError, ShapeError, SvdistillWarning
from svdistill.linalg.solvers import SOLVERS
from svdistill.linalg.svd import decompose, truncated_svd
from tests.features import as_matrices, post_relu_maps

SHAPES = [(12, 5), (5, 12), (7, 7), (1, 6), (6, 1)]
FAST = [s for s in SOLVERS if s != "auto"]


def random_matrices(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Return non-negative matrices, as after a ReLU, shifted so that none is degenerate."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64).add(0.1).to(dtype)


def with_spectrum(values: list[float], positions: int, channels: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return one (1, N, D) matrix with these singular values."""
    generator = torch.Generator().manual_seed(3)
    left = torch.linalg.qr(torch.randn(positions, len(values), generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(channels, len(values), generator=generator, dtype=torch.float64))[0]
    return ((left * torch.tensor(values, dtype=torch.float64)) @ right.mT)[None].to(dtype)


def oriented_reference(m: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Full LAPACK SVD, cut and oriented by the mean row."""
    _, s, vh = torch.linalg.svd(m.double(), full_matrices=False)
    v = vh[..., :rank, :].mT
    lean = (m.double().mean(-2, keepdim=True) @ v).squeeze(-2)
    return s[..., :rank], v * torch.where(lean < 0, -1.0, 1.0)[..., None, :]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("positions", "channels"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_lapack(solver, positions, channels, dtype):
    """Every solver gives LAPACK's singular values and its vectors with canonical signs."""
    m = random_matrices(4, positions, channels, dtype=dtype)
    s, v = truncated_svd(m, 2, solver=solver)
    s_ref, v_ref = oriented_reference(m, min(2, positions, channels))
    tolerance = 400 * torch.finfo(dtype).eps
    torch.testing.assert_close(s.double(), s_ref, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(v.double(), v_ref, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,), (2, 0)])
@pytest.mark.parametrize(("positions", "channels"), SHAPES)
def test_shapes(batch, positions, channels):
    """Leading dimensions are kept, the rank is cut to min(N, D), and an empty batch stays differentiable."""
    m = random_matrices(*batch, positions, channels).requires_grad_()
    s, v = truncated_svd(m, 4)
    kept = min(4, positions, channels)
    assert s.shape == (*batch, kept)
    assert v.shape == (*batch, channels, kept)
    (v.sum() + s.sum()).backward()
    assert m.grad is not None
    assert m.grad.shape == m.shape


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.ones(3), 1), "floating point tensor"),
        ((torch.ones(3, 3, dtype=torch.int64), 1), "int64"),
        (([[1.0]], 1), "got list"),
    ],
)
def test_bad_input(arguments, words):
    """Each wrong argument is named."""
    with pytest.raises(ShapeError, match=words):
        truncated_svd(*arguments)


@pytest.mark.parametrize("rank", [0, True, 1.5])
def test_bad_rank(rank):
    """The rank is a whole number of at least 1."""
    with pytest.raises(OptionError, match="at least 1"):
        truncated_svd(torch.ones(3, 3), rank)


@pytest.mark.parametrize(("option", "value"), [("solver", "eihg"), ("gradient", "exacct")])
def test_unknown_option(option, value):
    """A misspelt option is answered by the nearest right one."""
    with pytest.raises(OptionError, match="did you mean"):
        truncated_svd(torch.ones(2, 2), 1, **{option: value})


def test_strides_do_not_matter():
    """Transposed, expanded, sliced and channels-last input give the same as contiguous input."""
    base = random_matrices(4, 9, 6)
    s, v = truncated_svd(base, 2)
    views = [
        base.mT.contiguous().mT,
        torch.cat((base, base), 2)[:, :, :6],
        base.transpose(0, 1).contiguous().transpose(0, 1),
    ]
    for view in views:
        assert not view.is_contiguous()
        s_view, v_view = truncated_svd(view, 2)
        torch.testing.assert_close(s_view, s)
        torch.testing.assert_close(v_view, v)
    one = base[:1].expand(4, -1, -1)
    torch.testing.assert_close(truncated_svd(one, 2)[1], truncated_svd(one.contiguous(), 2)[1])
    maps = random_matrices(2, 5, 4, 3)
    torch.testing.assert_close(
        truncated_svd(maps.to(memory_format=torch.channels_last).flatten(2).mT, 2)[1],
        truncated_svd(maps.flatten(2).mT, 2)[1],
    )


@pytest.mark.parametrize("solver", FAST)
@pytest.mark.parametrize(("positions", "channels"), [(9, 4), (4, 9), (5, 5), (14, 13), (1, 3), (3, 1)])
def test_gradcheck(solver, positions, channels):
    """The exact derivative of s and of the sign-free v vᵀ agrees with finite differences, element by element."""
    m = random_matrices(2, positions, channels, seed=5).requires_grad_()

    def outputs(x: Tensor) -> tuple[Tensor, Tensor]:
        s, v = truncated_svd(x, 2, solver=solver)
        return s, v[..., :, None, :] * v[..., None, :, :]

    assert gradcheck(outputs, m, eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=False)


def test_gradcheck_of_one_answer_among_candidates():
    """The derivative of only those vectors that answer a target agrees with finite differences."""
    x = random_matrices(2, 16, 14, seed=6).requires_grad_()
    targets = torch.linalg.qr(random_matrices(2, 16, 2, seed=7))[0].mT

    def outputs(x: Tensor) -> Tensor:
        return decompose(x, 3, targets=targets, assign=lambda c: c.abs().argmax(1), solver="subspace").rows

    assert gradcheck(outputs, x, eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=False)


@pytest.mark.parametrize("solver", FAST)
@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("tap", range(4))
def test_accuracy_on_features(solver, rank, tap):
    """On post-ReLU features in float32: vectors to 1e−6 (rank 4: 2e−6, eigh 3e−6), gradients to 1e−6, 95 % to 1e−3."""
    m = as_matrices(post_relu_maps(48)[tap]).contiguous()
    cotangent = torch.randn(48, m.shape[2], rank, generator=torch.Generator().manual_seed(1))
    single, double = m.clone().requires_grad_(), m.double().requires_grad_()
    v = truncated_svd(single, rank, solver=solver)[1]
    v_ref = truncated_svd(double, rank, solver="lapack")[1]
    error = (v - v_ref).norm(dim=1).median()
    (gradient,) = torch.autograd.grad((v * cotangent).sum(), single)
    (exact,) = torch.autograd.grad((v_ref * cotangent.double()).sum(), double)
    relative = (gradient - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    assert error < (1e-6 if rank == 1 else 3e-6 if solver == "eigh" else 2e-6)
    if rank == 1:
        assert relative.median() < 1e-6
    assert relative.quantile(0.95) < 1e-3


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize(("positions", "channels"), [(30, 20), (20, 30), (20, 20)])
def test_paper_gradient(rank, positions, channels):
    """The published formula, written out with a full SVD in float64, is what gradient="paper" gives."""
    m = random_matrices(3, positions, channels, seed=8)
    cotangent = torch.randn(3, channels, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for solver in FAST:
        x = m.clone().requires_grad_()
        s, v = truncated_svd(x, rank, gradient="paper", solver=solver)
        (found,) = torch.autograd.grad((v * cotangent).sum(), x)
        torch.testing.assert_close(found, published_formula(m, s.detach(), v.detach(), cotangent), rtol=1e-6, atol=1e-9)


def published_formula(m: Tensor, s: Tensor, v: Tensor, grad: Tensor) -> Tensor:
    """The published derivative, one matrix at a time."""
    out = []
    for a, sigma, right, g in zip(m, s, v, grad, strict=True):
        left, k = a @ right / sigma, len(sigma)
        quotient = torch.zeros(k, k, dtype=m.dtype)
        for i, j in itertools.permutations(range(k), 2):
            quotient[i, j] = 1 / (sigma[i] ** 2 - sigma[j] ** 2)

        def sym(b: Tensor) -> Tensor:
            return (b + b.T) / 2

        big = torch.diag(sigma)
        if a.shape[0] <= a.shape[1]:
            e = g / sigma
            inner = sym(quotient * (big.T @ right.T @ e))
            out.append(
                left @ e.T - left @ torch.diag(torch.diag(e.T @ right)) @ right.T - 2 * left @ inner @ big.T @ right.T
            )
        else:
            out.append(2 * left @ big @ sym(quotient.T * (right.T @ g)) @ right.T)
    return torch.stack(out)


@pytest.mark.parametrize("gradient", ["exact", "paper"])
@pytest.mark.parametrize("solver", FAST)
@pytest.mark.parametrize(("positions", "channels"), [(30, 24), (24, 30)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_matrices(gradient, solver, positions, channels, dtype):
    """Zero, constant, half-dead, rank 1, and equal σ in and at the edge of the kept set: finite and orthonormal."""
    constant = torch.ones(1, positions, 1, dtype=dtype) * random_matrices(1, 1, channels, dtype=dtype)
    dead = random_matrices(1, positions, channels, dtype=dtype)
    dead[..., ::2] = 0
    cases = [
        torch.zeros(1, positions, channels, dtype=dtype),
        constant,
        dead,
        with_spectrum([2.0], positions, channels, dtype=dtype),
        with_spectrum([2.0, 2.0, 1.0, 0.5], positions, channels, dtype=dtype),
        with_spectrum([2.0, 1.0, 1.0, 1.0], positions, channels, dtype=dtype),
        with_spectrum([2.0, 1.0, 1.0 - 1e-7, 0.1], positions, channels, dtype=dtype),
        torch.eye(positions, channels, dtype=dtype)[None],
        torch.ones(1, positions, channels, dtype=dtype),
    ]
    m = torch.cat(cases).requires_grad_()
    s, v = truncated_svd(m, 2, gradient=gradient, solver=solver)
    cotangent = torch.randn(v.shape, dtype=dtype, generator=torch.Generator().manual_seed(4))
    (found,) = torch.autograd.grad((v * cotangent).sum() + s.sum(), m)
    assert s.isfinite().all()
    assert found.isfinite().all()
    norms = v.norm(dim=1)
    ranks = torch.linalg.matrix_rank(m.detach().double(), rtol=1e-5).clamp_max(2)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(norms.sum(1), ranks.to(dtype), rtol=0, atol=100 * eps)
    assert (v[:, :, 0] * v[:, :, 1]).sum(1).abs().max() < 200 * eps
    residual = m.detach().mT @ (m.detach() @ v) - v * s[:, None].square()
    # Products alone cannot tell 1 and 1 − 1e−7 apart: there the vectors are mixtures, and the residual is the gap.
    within = max(60 * eps, 2e-7) if solver == "squaring" else 60 * eps
    assert (residual.norm(dim=1) / s[:, :1].square().clamp_min(eps)).max() < within
    assert (found[0] == 0).all()
    assert (v[0] == 0).all()
    # The bound d / (d² + δ²) ≤ 1 / 2δ with δ = 84 eps λ₁, times what multiplies it.
    assert found.abs().max() <= cotangent.norm() * 4 / (84 * eps)


def test_equal_values_have_no_spurious_gradient():
    """Where two kept σ are equal, the part of the gradient that turns one into the other vanishes, the rest stays."""
    m = with_spectrum([2.0, 2.0, 1.0], 8, 6).requires_grad_()
    _, v = truncated_svd(m, 2, solver="eigh")
    projector = v @ v.mT
    cotangent = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    (found,) = torch.autograd.grad((projector * cotangent).sum(), m)
    step = torch.randn(1, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(6)) * 1e-6

    def value(x: Tensor) -> Tensor:
        w = torch.linalg.svd(x)[2][:, :2].mT
        return (w @ w.mT * cotangent).sum()

    numeric = (value(m.detach() + step) - value(m.detach() - step)) / 2
    torch.testing.assert_close((found * step).sum(), numeric, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("positions", "channels"), [(30, 24), (24, 30)])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e15, 1e25])
def test_scale_does_not_matter(solver, positions, channels, scale):
    """The vectors of a scaled map are the same, σ and the gradient scale, beside samples of ordinary size."""
    m = random_matrices(2, positions, channels, dtype=torch.float32)
    scaled = torch.stack((m[0], m[1] * scale)).requires_grad_()
    plain = m.clone().requires_grad_()
    results = []
    for x, unit in ((plain, torch.ones(2, 1)), (scaled, torch.tensor([[1.0], [scale]]))):
        s, v = truncated_svd(x, 2, solver=solver)
        (g,) = torch.autograd.grad((v * torch.arange(channels)[:, None]).sum() + (s / unit).sum(), x)
        results.append((s, v, g))
    (s, v, g), (s_scaled, v_scaled, g_scaled) = results
    torch.testing.assert_close(v_scaled, v, rtol=0, atol=3e-5)
    torch.testing.assert_close(s_scaled[1] / scale, s[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(g_scaled[1] * scale, g[1], rtol=2e-3, atol=1e-3 * float(g.abs().max()))
    torch.testing.assert_close(g_scaled[0], g[0], rtol=2e-3, atol=1e-3 * float(g.abs().max()))


@pytest.mark.parametrize("gradient", ["exact", "paper"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("solver", SOLVERS)
def test_non_finite_sample_is_reported_and_set_aside(gradient, bad, solver):
    """A sample with NaN or infinity gets zeros, the others are exact; the caller is warned where that costs no wait."""
    m = random_matrices(3, 20, 16, dtype=torch.float32)
    clean = m.clone().requires_grad_()
    dirty = m.clone()
    dirty[1, 2, 3] = bad
    dirty.requires_grad_()
    with nullcontext() if solver == "squaring" else pytest.warns(SvdistillWarning, match="1 of 3 matrices"):
        s, v = truncated_svd(dirty, 2, gradient=gradient, solver=solver)
    (v.square() * torch.arange(16)[:, None]).sum().backward()
    s_clean, v_clean = truncated_svd(clean, 2, gradient=gradient, solver=solver)
    (v_clean.square() * torch.arange(16)[:, None]).sum().backward()
    assert (v[1] == 0).all()
    assert (s[1] == 0).all()
    assert (dirty.grad[1] == 0).all()
    keep = [0, 2]
    torch.testing.assert_close(v[keep], v_clean[keep], rtol=0, atol=1e-5)
    torch.testing.assert_close(dirty.grad[keep], clean.grad[keep], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(s[keep], s_clean[keep])


@pytest.mark.parametrize("solver", FAST)
def test_orientation_falls_back_to_the_largest_entry(solver):
    """A vector orthogonal to the mean feature gets its largest entry positive, whatever the solver returns."""
    m = torch.tensor([[[0.0, -3.0, 1.0], [0.0, 3.0, -1.0], [2.0, 0.0, 0.0], [2.0, 0.0, 0.0]]])
    _, v = truncated_svd(m, 2, solver=solver)
    torch.testing.assert_close(v[0, :, 0], torch.tensor([0.0, 3.0, -1.0]) / 10**0.5)
    torch.testing.assert_close(v[0, :, 1], torch.tensor([1.0, 0.0, 0.0]))


def test_autocast_and_half_precision():
    """Under autocast, forward and backward stay float32; half-precision input is computed in float32."""
    m = random_matrices(4, 40, 24, dtype=torch.float32).requires_grad_()
    s, v = truncated_svd(m, 2)
    (plain,) = torch.autograd.grad((v * s[:, None]).sum(), m)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        s_cast, v_cast = truncated_svd(m, 2)
        (cast,) = torch.autograd.grad((v_cast * s_cast[:, None]).sum(), m)
    assert torch.equal(v, v_cast)
    assert torch.equal(plain, cast)
    half = m.detach().bfloat16().requires_grad_()
    s_half, v_half = truncated_svd(half, 2)
    assert v_half.dtype == s_half.dtype == torch.float32
    torch.testing.assert_close(v_half, truncated_svd(half.detach().float(), 2)[1])
    (v_half.sum() + s_half.sum()).backward()
    assert half.grad.dtype == torch.bfloat16


def test_block_iteration_hands_stragglers_to_eigh():
    """A spectrum too flat to converge still gives exact vectors, and an exact gradient."""
    values = [1.0 + 0.001 * i for i in range(24, 0, -1)]
    easy = with_spectrum([2.0**-i for i in range(24)], 32, 24)
    m = torch.cat((with_spectrum(values, 32, 24), easy)).float()
    for rank in (1, 3):
        x, y = m.clone().requires_grad_(), m.double().requires_grad_()
        s, v = truncated_svd(x, rank, solver="subspace")
        s_ref, v_ref = truncated_svd(y, rank, solver="lapack")
        torch.testing.assert_close(s.double(), s_ref, rtol=1e-5, atol=0)
        torch.testing.assert_close(v.double(), v_ref, rtol=0, atol=2e-2)  # neighbours differ by 1e−3
        image = m.mT @ (m @ v)
        assert (image - v * s.square()[:, None]).norm(dim=1).max() < 2e-5 * s.max().square()
        (g,) = torch.autograd.grad(v.square().sum(0).sum(0) @ torch.ones(rank) + s.sum(), x)
        assert g.isfinite().all()


def test_no_graph_is_kept_without_gradient():
    """Without a gradient to compute nothing is saved and nothing requires gradient."""
    s, v = truncated_svd(random_matrices(2, 5, 4), 1)
    assert not s.requires_grad
    assert not v.requires_grad


def test_clean_input_warns_of_nothing():
    """Ordinary, zero and tiny matrices raise no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        truncated_svd(torch.stack((torch.zeros(5, 4), torch.ones(5, 4), torch.ones(5, 4) * 1e-25)), 2)


@pytest.mark.parametrize("rank", [1, 3])
def test_relations_do_not_depend_on_the_solver(rank):
    """Signs included: exp(−(f_F[m] − f_B[n])² / 8) of neighbouring taps is the same from every solver."""
    taps = [as_matrices(m) for m in post_relu_maps(8)]
    relations = []
    for solver in FAST:
        weighted = []
        for m in taps:
            s, v = truncated_svd(m, rank, solver=solver)
            weighted.append(v * (s / s.norm(dim=1, keepdim=True))[:, None])
        relations.append([torch.exp(-((f[:, :, None] - b[:, None]) ** 2) / 8) for f, b in itertools.pairwise(weighted)])
    for others in relations[1:]:
        for found, expected in zip(others, relations[0], strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 if rank == 3 else 2e-6)


@pytest.mark.parametrize("gradient", ["exact", "paper"])
@pytest.mark.parametrize(("positions", "channels"), [(64, 64), (256, 48), (48, 256)])
def test_gradient_of_an_answer_among_unfinished_candidates(gradient, positions, channels):
    """A candidate that nobody picked, and that has a near neighbour, does not spoil the gradient of the picked one."""
    spectrum = [1.0, 0.5, 0.495, *(0.4 * 0.9**i for i in range(30))]
    x = with_spectrum(spectrum, channels, positions)
    target = oriented_reference(x.mT, 1)[1].mT
    cotangent = torch.randn(1, 1, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = {}
    for solver, dtype in (("subspace", torch.float32), ("lapack", torch.float64)):
        y = x.to(dtype).requires_grad_()
        rows = decompose(
            y, 2, targets=target.to(dtype), assign=lambda c: c.abs().argmax(1), solver=solver, gradient=gradient
        ).rows
        (found[solver],) = torch.autograd.grad((rows * cotangent.to(dtype)).sum(), y)
    tolerance = 2e-5 if gradient == "exact" else 1e-3  # "paper" couples the candidates, which are 1 % apart
    assert (found["subspace"] - found["lapack"]).norm() < tolerance * found["lapack"].norm()


@pytest.mark.parametrize(("strength", "gap"), [(0.03, 0.001), (0.01, 0.0005)])
def test_weak_vectors_are_as_good_as_from_eigh(strength, gap):
    """Behind a dominating mean, the block iteration does not stop before the weak vectors are found."""
    spectrum = [1.0, strength, strength - gap, *(0.5 * strength * 0.9**i for i in range(20))]
    m = with_spectrum(spectrum, 256, 48)
    expected = truncated_svd(m, 2, solver="lapack")[1]
    errors = {
        solver: (truncated_svd(m.float(), 2, solver=solver)[1] - expected).norm() for solver in ("eigh", "subspace")
    }
    assert errors["subspace"] < 5 * errors["eigh"] + 1e-5


def test_signs_do_not_depend_on_the_solver_where_entries_tie():
    """Centred features with tied magnitudes, where neither the mean nor one largest entry decides."""
    half = random_matrices(40, 9, 3, seed=11) - 0.6
    half = half - half.mean(1, keepdim=True)
    m = torch.cat((half, -half), 2)
    expected = truncated_svd(m, 1, solver="lapack")[1]
    torch.testing.assert_close(truncated_svd(m, 1, solver="eigh")[1], expected)
    torch.testing.assert_close(
        truncated_svd(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), 1)[1][0] > 0, torch.tensor([True])
    )


def test_cosine():
    """The cosine with the answered target is not negative; without targets it is 1; it carries no gradient."""
    x = random_matrices(3, 6, 8).requires_grad_()
    assert (decompose(x, 2).cosine == 1).all()
    target = -truncated_svd(x.detach().mT, 1)[1].mT
    found = decompose(x, 2, targets=target, assign=lambda c: c.abs().argmax(1))
    torch.testing.assert_close(found.cosine, torch.ones(3, 1, dtype=torch.float64))
    torch.testing.assert_close(found.rows, target)
    assert not found.cosine.requires_grad


def test_second_derivative_is_refused():
    """A second derivative, which would be zero in silence, is refused with a message that says so."""
    x = random_matrices(2, 5, 4).requires_grad_()
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(truncated_svd(x, 1)[0].sum(), x, create_graph=True)


def test_largest_numbers():
    """Where σ itself leaves the number format it is infinite, and nothing else is touched."""
    s, v = truncated_svd(torch.full((1, 64, 64), 1e37), 2)
    assert s.tolist() == [[float("inf"), 0.0]]
    torch.testing.assert_close(v[0, :, 0], torch.full((64,), 1 / 8))


def test_targets_must_fit():
    """Targets of the wrong shape, or without an assignment, are named."""
    x = random_matrices(2, 5, 4)
    with pytest.raises(OptionError, match="without assign"):
        decompose(x, 2, targets=x[:, :, :1].mT)
    with pytest.raises(ShapeError, match=r"targets must be \(2, k, 5\)"):
        decompose(x, 2, targets=x, assign=lambda c: c.abs().argmax(1))


def test_no_positions():
    """Matrices without rows have no vectors."""
    s, v = truncated_svd(torch.rand(3, 0, 5), 1)
    assert s.shape == (3, 0)
    assert v.shape == (3, 5, 0)


@pytest.mark.parametrize("gradient", ["exact", "paper"])
@pytest.mark.parametrize("shape", [(3, 8, 30), (3, 30, 8), (3, 6, 6)])
def test_the_gradient_lies_in_memory_as_the_matrices_do(shape, gradient):
    """Positions together, as in contiguous maps, or channels together, as in channels-last ones; the values agree."""
    plain = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for x in (plain.clone(), plain.mT.contiguous().mT):
        x.requires_grad_()
        rows = decompose(x, 2, gradient=gradient).rows
        found += torch.autograd.grad((rows * rows.detach().cos()).sum(), x)
        assert found[-1].stride() == x.stride()
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("x", [torch.zeros(2, 3), torch.zeros(2, 3, 4, dtype=torch.int64)])
def test_what_is_no_batch_of_matrices_is_refused(x):
    """With its shape and type."""
    with pytest.raises(ShapeError, match=r"x must be floating point \(B, D, N\)"):
        decompose(x, 1)
