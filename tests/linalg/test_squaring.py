"""The path of products alone: against LAPACK in float64, at every gap, and without ever waiting for a device."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from svdistill.errors import OptionError
from svdistill.linalg import assign, rbf_distance, truncated_svd
from svdistill.linalg.solvers import MAX_SQUARING_RANK, choose_solver
from svdistill.linalg.squaring import leading, resolvent, separate
from svdistill.linalg.svd import decompose, decompose_all
from tests.features import as_matrices, post_relu_maps
from tests.waiting import DEVICE, WaitError, nothing_waits

EPS = torch.finfo(torch.float32).eps
TORCH = torch.torch_version.TorchVersion(torch.__version__)


def symmetric(values: list[float], *, batch: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return matrices (B, m, m) of trace 1 with these eigenvalues, in proportion, and their eigenvectors as rows."""
    generator = torch.Generator().manual_seed(seed)
    size = len(values)
    rows = torch.linalg.qr(torch.randn(batch, size, size, generator=generator, dtype=torch.float64))[0].mT
    spectrum = torch.tensor(values, dtype=torch.float64)
    return rows.mT @ (rows * (spectrum / spectrum.sum())[:, None]), rows


@pytest.mark.parametrize(("ratio", "factor"), [(0.1, 4), (0.5, 4), (0.9, 4), (0.97, 4), (0.99, 4), (0.998, 4)])
def test_error_grows_as_the_inverse_gap_and_no_faster(ratio, factor):
    """In float32, up to λ₂ / λ₁ = 0.998, a vector is as exact as the rounding of the matrix lets it be."""
    gram, rows = symmetric([1.0, ratio, *(0.5 * ratio * 0.9**i for i in range(30))])
    found = leading(gram.float(), 1)[1][:, 0].double()
    error = (found * torch.where((found * rows[:, 0]).sum(1) < 0, -1.0, 1.0)[:, None] - rows[:, 0]).norm(dim=1)
    assert error.median() < factor * EPS / (1 - ratio)


def test_nearly_equal_values():
    """At λ₂ / λ₁ = 0.999 less than 1 % of the neighbour is left, and beyond the vectors stay orthonormal."""
    gram, rows = symmetric([1.0, 0.999, *(0.4 * 0.9**i for i in range(30))])
    found = leading(gram.float(), 1)[1][:, 0].double()
    assert (found * rows[:, 1]).sum(1).abs().median() < 1e-2
    gram, _ = symmetric([1.0, 1.0 - 1e-5, 1.0 - 2e-5, 0.3, 0.1])
    vectors = leading(gram.float(), 3)[1]
    torch.testing.assert_close(vectors @ vectors.mT, torch.eye(3).expand(16, 3, 3), rtol=0, atol=20 * EPS)
    assert (vectors[:, :, None] @ gram.float()[:, None] @ vectors[..., None]).min() > 0.29 / 1.4


@pytest.mark.parametrize("ratio", [0.1, 0.9, 0.99, 0.998])
def test_resolvent(ratio):
    """(λ_i − D)⁻¹ h agrees with the solution in float64, at several λ_i at once."""
    values = [ratio, *(0.5 * ratio * 0.8**i for i in range(20))]
    scale = sum(values)
    rest, _ = symmetric(values)
    value = torch.tensor([3.0, 1.5, 1.0], dtype=torch.float64).expand(16, 3) / scale
    rhs = torch.randn(16, 3, 21, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.linalg.solve(
        value[:, :, None, None] * torch.eye(21, dtype=torch.float64) - rest[:, None], rhs[..., None]
    )[..., 0]
    found = resolvent(rest.float(), value.float(), value[:, -1:].float(), rhs.float())
    error = (found - expected).norm(dim=2) / expected.norm(dim=2)
    assert error.median() < 10 * EPS / (1 - ratio) + ratio**8192
    exact = resolvent(rest, value, value[:, -1:], rhs)
    torch.testing.assert_close(exact, expected, rtol=1e-9 + 3 * ratio**8192, atol=1e-9 + 3 * ratio**8192 * scale)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-3])
def test_separate(size, noise):
    """Nearly diagonal matrices are diagonalized to float64, values in order, those that are equal too."""
    generator = torch.Generator().manual_seed(size)
    values = torch.rand(200, size, generator=generator, dtype=torch.float64).sort(descending=True)[0]
    values[:50, :2] = 0.5
    error = noise * torch.randn(200, size, size, generator=generator, dtype=torch.float64)
    gram = torch.diag_embed(values) + error + error.mT
    found, rows = separate(gram)
    expected = torch.linalg.eigvalsh(gram).flip(1)
    torch.testing.assert_close(rows @ rows.mT, torch.eye(size).double().expand(200, size, size), rtol=0, atol=1e-12)
    assert (found - expected).abs().median() < 1e-14
    assert (found - expected).abs().max() < 1e-8


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_any_scale_of_noise_below_the_rank(rank):
    """Matrices of rank 1 and 0 give their own vectors and zeros."""
    one = torch.rand(1, 6, 1, generator=torch.Generator().manual_seed(0)) @ torch.ones(1, 1, 9)
    s, v = truncated_svd(torch.cat((one, torch.zeros(1, 6, 9))), rank, solver="squaring")
    torch.testing.assert_close(s[0, 0], one.norm())
    torch.testing.assert_close(v[0, :, 0], torch.full((9,), 1 / 3))
    assert (s[:, 1:] == 0).all()
    assert (v[1] == 0).all()
    assert (v[:, :, 1:] == 0).all()


@pytest.mark.parametrize("tap", range(3))
def test_the_most_vectors(tap):
    """As many as it finds, on post-ReLU features in float32: vectors to 3e−6 and their gradient to 1e−4."""
    m = as_matrices(post_relu_maps(48)[tap]).contiguous()
    cotangent = torch.randn(48, m.shape[2], MAX_SQUARING_RANK, generator=torch.Generator().manual_seed(1))
    single, double = m.clone().requires_grad_(), m.double().requires_grad_()
    v = truncated_svd(single, MAX_SQUARING_RANK, solver="squaring")[1]
    expected = truncated_svd(double, MAX_SQUARING_RANK, solver="lapack")[1]
    assert (v - expected).norm(dim=1).median() < 3e-6
    (gradient,) = torch.autograd.grad((v * cotangent).sum(), single)
    (exact,) = torch.autograd.grad((expected * cotangent).sum(), double)
    assert ((gradient - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).median() < 1e-4


def test_too_many_vectors():
    """A rank for which it is the wrong solver is refused; `auto` takes another."""
    with pytest.raises(OptionError, match="up to 8 vectors, got rank 9"):
        truncated_svd(torch.rand(2, 9, 9), 9, solver="squaring")
    assert choose_solver(9, 9, torch.float32, torch.device("cuda")) != "squaring"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [1, 8])
def test_auto_takes_it_where_waiting_costs(rank, dtype):
    """`auto` never waits on a GPU."""
    assert choose_solver(64, rank, dtype, torch.device("cuda")) == "squaring"


@pytest.mark.parametrize("gradient", ["exact", "paper"])
@pytest.mark.parametrize("rank", [1, 4, 7])
@pytest.mark.parametrize(("channels", "positions"), [(12, 20), (20, 12), (3, 3)])
def test_nothing_waits(gradient, rank, channels, positions):
    """On a device without values, teacher's and student's part run forward and backward, and so does the distance."""
    with nothing_waits():
        teacher = torch.rand(6, channels, positions, device=DEVICE)
        x = torch.rand(6, channels, positions, device=DEVICE, requires_grad=True)
        targets = decompose(teacher, rank).rows
        rule = partial(assign, assignment="argmax" if rank == 1 else "one_to_one")
        answer = decompose(x, rank + 1, targets=targets, assign=rule, gradient=gradient)
        distance = rbf_distance([answer.rows] * 2, [targets] * 2, limit=1.0)
        (distance + answer.values.sum()).backward()
        assert x.grad.shape == x.shape


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: bool(x.isfinite().all()),
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: (x > 0).nonzero(),
        lambda x: x.cpu(),
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: truncated_svd(x, 1, solver="eigh"),
        lambda x: truncated_svd(x, 1, solver="subspace"),
        lambda x: torch.linalg.qr(x),
        lambda x: rbf_distance([x, x], [x, x]),
    ],
)
def test_waiting_is_noticed(waits):
    """The test above can fail: each of these would make the host wait, and is refused."""
    with nothing_waits():
        x = torch.rand(2, 9, 9, device=DEVICE)
        with pytest.raises((WaitError, DataDependentOutputException, DynamicOutputShapeException, RuntimeError)):
            waits(x)


@pytest.mark.filterwarnings("ignore::svdistill.errors.SvdistillWarning")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-4)])
@pytest.mark.parametrize("gradient", ["exact", "paper"])
@pytest.mark.parametrize("rank", [1, 3])
def test_taps_together_as_alone(rank, gradient, dtype, tolerance):
    """Taps of every kind, in any order and with broken samples, give together what each gives alone, and no more."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(50, 1), (12, 40), (40, 36), (36, 36), (8, 8), (30, 4)]  # D, N: in pairs, padded, and alone
    xs = [torch.rand(3, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
    targets = [torch.linalg.svd(x + 0.3 * torch.rand(x.shape, generator=generator))[0][..., :rank].mT for x in xs]
    xs[1][0], xs[4][1, 2, 3] = 0, float("nan")
    xs = [x.to(dtype).requires_grad_() for x in xs]
    rule = partial(assign, assignment="one_to_one")
    options = {"assign": rule, "gradient": gradient, "solver": "squaring"}
    together = decompose_all(
        xs, [rank + 1] * len(xs), targets=[v[:, : x.shape[2]] for v, x in zip(targets, xs, strict=True)], **options
    )
    for x, v, found in zip(xs, targets, together, strict=True):
        alone = decompose(x, rank + 1, targets=v[:, : x.shape[2]], **options)
        torch.testing.assert_close(found, alone, rtol=tolerance, atol=tolerance)
        weight = torch.rand(alone.rows.shape, generator=generator)
        value = [(one.rows * weight).sum() + one.values.square().sum() for one in (found, alone)]
        expected = torch.autograd.grad(value[1], x)[0]
        changes = torch.autograd.grad(value[0], xs, retain_graph=True)
        for y, change in zip(xs, changes, strict=True):
            right = expected if y is x else torch.zeros_like(y)
            assert (change - right).norm() <= tolerance * expected.norm()


@pytest.mark.skipif(TORCH < "2.7", reason="this torch breaks the graph at every context manager")
def test_compiles_into_one_graph():
    """Forward and backward are captured whole, as a CUDA graph would have to, and give the same."""
    x = torch.rand(4, 12, 20, generator=torch.Generator().manual_seed(0))
    targets = truncated_svd(x.mT, 1)[1].mT

    def outputs(x: Tensor) -> Tensor:
        return (decompose(x, 2, targets=targets, assign=assign, solver="squaring").rows * x[:, None, :, 0]).sum()

    gradients = []
    for function in (outputs, torch.compile(outputs, fullgraph=True, backend="aot_eager")):
        y = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(function(y), y)[0])
    assert (gradients[1] - gradients[0]).norm() < 1e-5 * gradients[0].norm()
