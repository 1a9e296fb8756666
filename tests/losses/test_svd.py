"""KD-SVD's loss against the published formula, written out densely in float64, and on input of every kind."""

import itertools
from shutil import which

import pytest
import torch
from torch import Tensor, nn

from svdistill.errors import OptionError, ShapeError, SvdistillWarning
from svdistill.linalg import truncated_svd
from svdistill.losses import SVDLoss, svd_loss
from svdistill.recipes import PRESETS
from tests.features import post_relu_maps

CHANNELS = (8, 12, 20)


def preset_loss(name: str) -> SVDLoss:
    """Return the loss of a preset; its rule of clipping belongs to the step."""
    return SVDLoss(**{key: value for key, value in PRESETS[name].items() if key != "clip"})


def both_maps(batch: int = 6, size: int = 16) -> tuple[list[Tensor], list[Tensor]]:
    """Return maps of two networks with the same widths."""
    return post_relu_maps(batch, seed=1, channels=CHANNELS, size=size), post_relu_maps(
        batch, seed=2, channels=CHANNELS, size=size
    )


def published(student: list[Tensor], teacher: list[Tensor], rank: int = 1, beta: float = 8.0, extra: int = 1) -> Tensor:
    """The loss, step by step for argmax: full SVD in float64, canonical signs, dense relations, sum over the batch."""

    def vectors(feature: Tensor, count: int) -> tuple[Tensor, Tensor]:
        m = feature.double().flatten(2).mT
        _, s, vh = torch.linalg.svd(m, full_matrices=False)
        v = vh[:, :count]
        lean = (v @ m.mean(1)[..., None])[..., 0]
        return s[:, :count], v * torch.where(lean < 0, -1.0, 1.0)[..., None]

    relations = []
    answers, goals = [], []
    for s_map, t_map in zip(student, teacher, strict=True):
        sigma, v_t = vectors(t_map, rank)
        _, v_s = vectors(s_map, rank + extra)
        cosine = v_s @ v_t.mT
        index = cosine.abs().argmax(1)
        sign = torch.where(cosine.gather(1, index[:, None])[:, 0] < 0, -1.0, 1.0)
        chosen = v_s.gather(1, index[..., None].expand(-1, -1, v_s.shape[2])) * sign[..., None]
        weight = (sigma / sigma.norm(dim=1, keepdim=True))[..., None]
        answers.append(chosen * weight)
        goals.append(v_t * weight)
    for f in (answers, goals):
        relations.append(
            [torch.exp(-((a[..., :, None] - b[..., None, :]) ** 2) / beta) for a, b in itertools.pairwise(f)]
        )
    distance = sum((s - t).square().sum() for s, t in zip(*relations, strict=True))
    return 0.5 * rank**0.5 * distance


@pytest.mark.parametrize("rank", [1, 2])
def test_published_value(rank):
    """reduction="sum" with argmax is the published transfer loss; the mean is that over B."""
    student, teacher = both_maps()
    expected = float(published(student, teacher, rank))
    found = svd_loss(student, teacher, rank=rank, assignment="argmax", reduction="sum")
    assert float(found) == pytest.approx(expected, rel=1e-5)
    mean = svd_loss(student, teacher, rank=rank, assignment="argmax")
    assert float(mean) == pytest.approx(expected / 6, rel=1e-5)


@pytest.mark.parametrize("extra", [0, 3])
def test_number_of_candidates(extra):
    """The student offers k + extra vectors, and no fewer than k; without the factor the loss is the plain sum."""
    student, teacher = both_maps()
    # The vector that answers the first tap's target best becomes the student's third.
    u, sigma, vh = torch.linalg.svd(student[0].flatten(2).mT, full_matrices=False)
    student[0] = (u * sigma[:, None] @ vh[:, [1, 2, 0, 3, 4, 5, 6, 7]]).mT.reshape(student[0].shape)
    expected = float(published(student, teacher, 1, extra=extra))
    found = svd_loss(student, teacher, extra=extra, reduction="sum")
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(float(published(student, teacher, 1)), rel=0.01)
    unscaled = svd_loss(student, teacher, extra=extra, reduction="sum", scaled=False)
    assert float(unscaled) == pytest.approx(2 * expected, rel=1e-5)


@pytest.mark.parametrize(
    ("preset", "options", "factor"),
    [("eccv2018", {"rank": 1}, 1.0), ("poster", {"rank": 2}, 1.0), ("kd-methods", {"rank": 1, "extra": 3}, 2.0)],
)
def test_presets(preset, options, factor):
    """Each preset gives the value of its source, summed over the batch, with the published gradient."""
    student, teacher = both_maps()
    loss = preset_loss(preset)
    expected = factor * float(published(student, teacher, **options))
    assert float(loss(student, teacher)) == pytest.approx(expected, rel=1e-5)
    assert loss.settings.gradient == "paper"


def projected(student: list[Tensor], teacher: list[Tensor], rank: int) -> Tensor:
    """The loss in the teacher's basis: full SVD of the teacher in float64, dense relations, mean over the batch."""

    def as_large_as(feature: Tensor, other: Tensor) -> Tensor:
        ratio = max(1, feature.shape[2] // other.shape[2])
        return torch.nn.functional.avg_pool2d(feature, ratio)

    answers, goals = [], []
    for s_map, t_map in zip(student, teacher, strict=True):
        s_map, t_map = s_map.double(), t_map.double()
        u, sigma, vh = torch.linalg.svd(t_map.flatten(2).mT, full_matrices=False)
        grid = u[:, :, :rank].mT.reshape(len(u), rank, *t_map.shape[2:])
        left = as_large_as(grid, s_map).flatten(2)
        image = left @ as_large_as(s_map, t_map).flatten(2).mT
        weight = (sigma[:, :rank] / sigma[:, :rank].norm(dim=1, keepdim=True))[..., None]
        # Both vectors of a component carry the sign of u, which the relation of two taps depends on.
        lean = (vh[:, :rank] * t_map.mean((2, 3))[:, None]).sum(2, keepdim=True)
        weight = weight * torch.where(lean < 0, -1.0, 1.0)
        answers.append(weight * image / image.norm(dim=2, keepdim=True))
        goals.append(weight * vh[:, :rank])
    relations = [
        [torch.exp(-((a[..., :, None] - b[..., None, :]) ** 2) / 8) for a, b in itertools.pairwise(f)]
        for f in (answers, goals)
    ]
    distance = sum((s - t).square().sum() for s, t in zip(*relations, strict=True))
    return 0.5 * rank**0.5 * distance / len(student[0])


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("sizes", [(16, 16), (16, 32), (32, 16)])
def test_teacher_basis_value(rank, sizes):
    """The student's map on the teacher's left vectors, the larger of the two pooled, against a dense reference."""
    student, teacher = both_maps(size=sizes[0])[0], both_maps(size=sizes[1])[1]
    expected = float(projected(student, teacher, rank))
    found = svd_loss(student, teacher, rank=rank, basis="teacher")
    assert float(found) == pytest.approx(expected, rel=1e-4)
    if rank == 1:
        preset = preset_loss("teacher-basis")(student, teacher)
        assert float(preset) == pytest.approx(expected * len(student[0]), rel=1e-4)


def test_teacher_basis_gradient_agrees_with_finite_differences():
    """The projection is differentiated as it is, element by element in float64."""
    student, teacher = both_maps(2, 8)[0], both_maps(2, 16)[1]
    student = [s.double().requires_grad_() for s in student]
    assert torch.autograd.gradcheck(lambda *s: svd_loss(s, teacher, rank=2, basis="teacher"), student, atol=1e-6)


def test_teacher_basis_of_itself_is_zero():
    """M_Tᵀ u_T is σ v_T: a student with the teacher's maps has loss 0, and its energy is the teacher's."""
    _, teacher = both_maps()
    value, health = SVDLoss(rank=2, basis="teacher").measure(teacher, teacher)
    assert float(value) < 1e-9
    assert float(health["alignment"]) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(health["energy_student"], health["energy_teacher"])


def test_teacher_basis_layouts_and_precision():
    """Tokens are maps; autocast and half precision change nothing but rounding of the input."""
    student, teacher = both_maps()
    expected = svd_loss(student, teacher, rank=2, basis="teacher")
    tokens = [s.flatten(2).mT for s in student], [t.flatten(2).mT for t in teacher]
    torch.testing.assert_close(svd_loss(*tokens, rank=2, basis="teacher"), expected, rtol=1e-5, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(svd_loss(student, teacher, rank=2, basis="teacher"), expected)
    half = svd_loss([s.bfloat16() for s in student], [t.bfloat16() for t in teacher], rank=2, basis="teacher")
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, rtol=0.1, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_teacher_basis_does_not_depend_on_scale(scale):
    """Directions have no scale."""
    student, teacher = both_maps()
    found = svd_loss([s * scale for s in student], [t * scale for t in teacher], basis="teacher")
    torch.testing.assert_close(found, svd_loss(student, teacher, basis="teacher"), rtol=1e-5, atol=0)


def test_powers_of_two_change_no_digit():
    """Maps that are brought to size give the loss and gradient of those that need not be, to the last bit."""
    student, teacher = both_maps()
    factor = 2.0**60
    plain, large = ([(s * scale).requires_grad_() for s in student] for scale in (1.0, factor))
    expected = svd_loss(plain, teacher, rank=3, basis="teacher")
    found = svd_loss(large, [t * factor for t in teacher], rank=3, basis="teacher")
    assert torch.equal(found, expected)
    for one, other in zip(torch.autograd.grad(found, large), torch.autograd.grad(expected, plain), strict=True):
        assert torch.equal(one * factor, other)


def test_extra_components_of_the_basis():
    """A teacher's map of one position has one component, whatever the rank."""
    student, teacher = both_maps()
    student, teacher = [s.mean((2, 3)) for s in student], [t.mean((2, 3)) for t in teacher]
    ratio = svd_loss(student, teacher, rank=3, basis="teacher") / svd_loss(student, teacher, basis="teacher")
    assert float(ratio) == pytest.approx(3**0.5, rel=1e-5)


def test_gradient_agrees_with_finite_differences():
    """The whole loss in float64, element by element."""
    student, teacher = both_maps(2, 8)
    student = [s.double().requires_grad_() for s in student]
    assert torch.autograd.gradcheck(
        lambda *s: svd_loss(s, teacher, rank=1), student, eps=1e-6, atol=1e-6, rtol=1e-4, fast_mode=False
    )


@pytest.mark.parametrize("rank", [1, 3])
def test_every_solver_gives_the_same_loss(rank, monkeypatch):
    """Loss and gradient do not depend on which solver is chosen."""
    student, teacher = both_maps(16, 32)
    results = []
    for solver in ("lapack", "eigh", "subspace"):
        monkeypatch.setattr("svdistill.linalg.solvers.choose_solver", lambda *_, chosen=solver: chosen)
        maps = [s.clone().requires_grad_() for s in student]
        loss = svd_loss(maps, teacher, rank=rank)
        results.append((loss.detach(), torch.autograd.grad(loss, maps)))
    for loss, gradients in results[1:]:
        torch.testing.assert_close(loss, results[0][0], rtol=1e-5, atol=0)
        for found, expected in zip(gradients, results[0][1], strict=True):
            assert (found - expected).norm() < 1e-2 * expected.norm()


def test_module_is_the_function_and_measures():
    """The module stores the settings; its health figures are fractions and cosines of what was compared."""
    student, teacher = both_maps()
    loss = SVDLoss(rank=2, reduction="sum")
    value, health = loss.measure(student, teacher)
    assert torch.equal(value, svd_loss(student, teacher, rank=2, reduction="sum"))
    assert torch.equal(loss(student, teacher), value)
    assert set(health) == {"alignment", "energy_student", "energy_teacher", "set_aside"}
    fractions = []
    for t in teacher:
        m = t.flatten(2).mT
        fractions.append((truncated_svd(m, 2)[0].square().sum(1) / m.square().sum((1, 2))).mean())
    torch.testing.assert_close(health["energy_teacher"], torch.stack(fractions).mean())
    assert 0 < float(health["alignment"]) <= 1
    assert int(health["set_aside"]) == 0
    assert "rank=2" in repr(loss)


def test_of_itself_is_zero():
    """A student with the teacher's maps has loss 0 and alignment 1."""
    _, teacher = both_maps()
    value, health = SVDLoss(rank=2).measure(teacher, teacher)
    assert float(value) < 1e-9
    assert float(health["alignment"]) == pytest.approx(1, abs=1e-5)


def test_map_layouts_agree():
    """(B, C, H, W), channels-last, and (B, N, D) of the same numbers give the same loss."""
    student, teacher = both_maps()
    expected = svd_loss(student, teacher)
    tokens = [s.flatten(2).mT for s in student]
    last = [s.to(memory_format=torch.channels_last) for s in student]
    torch.testing.assert_close(svd_loss(tokens, teacher), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(svd_loss(last, teacher), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rank", [1, 4])
def test_spatial_sizes_may_differ_and_vectors_are_maps_too(rank):
    """Student and teacher need the same widths only; (B, D) is a map of one position."""
    student, _ = both_maps(size=16)
    _, teacher = both_maps(size=32)
    student[2], teacher[2] = student[2].mean((2, 3)), teacher[2].mean((2, 3))
    maps = [s.requires_grad_() for s in student]
    loss = svd_loss(maps, teacher, rank=rank)
    assert loss.isfinite()
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in torch.autograd.grad(loss, maps))


def with_features(rows: Tensor) -> list[Tensor]:
    """Return a map of 2 × 2 positions, and a tap of one position with these features."""
    return [post_relu_maps(len(rows), seed=3, channels=(5,), size=4)[0].to(rows), rows]


@pytest.mark.parametrize("basis", ["own", "teacher"])
@pytest.mark.parametrize("rank", [1, 2])
def test_last_features_are_their_own_vector(basis, rank):
    """Behind a map, in float64: the last tap's one vector is x / ‖x‖, which other components have nothing beside.

    In its own basis the student answers with the sign that agrees; in the teacher's with the sign that it has. One
    sample's features point away from the teacher's, so that this matters.
    """
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(4, 7, dtype=torch.float64, generator=generator) for _ in range(2))
    ours[0] = 0.3 * ours[0] - theirs[0]
    student, teacher = with_features(ours), with_features(theirs)
    teacher[0] = teacher[0].flip(0) + 0.2 * teacher[0]
    value, health = SVDLoss(rank, basis=basis, reduction="sum").measure(student, teacher)
    # The front's first component, by a full decomposition; the features have no second one.
    sides = []
    u, s, vh = torch.linalg.svd(teacher[0].flatten(2).mT, full_matrices=False)
    sign = (vh[:, 0] * teacher[0].mean((2, 3))).sum(1).sign()
    goal, left = vh[:, 0] * sign[:, None], u[:, :, 0] * sign[:, None]
    if basis == "own":
        candidates = torch.linalg.svd(student[0].flatten(2).mT, full_matrices=False)[2][:, : rank + 1]
        cosine = (candidates @ goal[..., None])[..., 0]
        if rank == 1:
            best = cosine.abs().argmax(1)
        else:  # one to one: the pairing of two whose cosines add up to most
            both = (candidates @ (vh[:, :2]).mT).abs()
            pairs = list(itertools.permutations(range(3), 2))
            sums = torch.stack([both[:, i, 0] + both[:, j, 1] for i, j in pairs])
            best = torch.tensor([pairs[k][0] for k in sums.argmax(0).tolist()])
        rows = torch.arange(len(best))
        answer = candidates[rows, best] * cosine[rows, best].sign()[:, None]
    else:
        answer = nn.functional.normalize((left[:, None] @ student[0].flatten(2).mT)[:, 0])
    weight = s[:, :1] / s[:, :rank].norm(dim=1, keepdim=True)
    unit_s, unit_t = nn.functional.normalize(ours), nn.functional.normalize(theirs)
    if basis == "own":
        unit_s = unit_s * (unit_s * unit_t).sum(1, keepdim=True).sign()
    for front, back in ((answer, unit_s), (goal, unit_t)):
        sides.append(torch.exp(-((weight * front)[:, :, None] - back[:, None]).square() / 8))
    expected = 0.5 * rank**0.5 * (sides[0] - sides[1]).square().sum()
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    assert int(health["set_aside"]) == 0


@pytest.mark.parametrize("basis", ["own", "teacher"])
@pytest.mark.parametrize("rank", [1, 2])
def test_a_vector_is_a_map_of_one_position_to_the_bit(basis, rank):
    """(B, D) on either side is (B, D, 1, 1): loss, health and gradient; the gradient is that of finite differences."""
    generator = torch.Generator().manual_seed(1)
    ours, theirs = (torch.randn(3, 6, dtype=torch.float64, generator=generator) for _ in range(2))
    front, goal = with_features(ours)[0].requires_grad_(), with_features(theirs)[0].flip(0)
    ours.requires_grad_()
    loss, results = SVDLoss(rank, basis=basis), []
    for flat_student, flat_teacher in itertools.product((True, False), repeat=2):
        student = [front, ours if flat_student else ours[..., None, None]]
        value, health = loss.measure(student, [goal, theirs if flat_teacher else theirs[..., None, None]])
        results.append((value, *health.values(), *torch.autograd.grad(value, (front, ours))))
    for one in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(one, results[0], strict=True))
    assert torch.autograd.gradcheck(lambda *s: loss(s, [goal, theirs]), (front, ours), atol=1e-7)


def test_vector_taps_by_hand():
    """Maps of one position: v = x / ‖x‖, so the loss is that of normalized features."""
    student = [torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]])]
    teacher = [torch.tensor([[4.0, 3.0]]), torch.tensor([[0.0, 2.0]])]

    def relation(a: list[float], b: list[float]) -> Tensor:
        return torch.exp(-((torch.tensor(a)[:, None] - torch.tensor(b)[None]) ** 2) / 8)

    expected = 0.5 * (relation([0.6, 0.8], [1.0, 0.0]) - relation([0.8, 0.6], [0.0, 1.0])).square().sum()
    torch.testing.assert_close(svd_loss(student, teacher), expected)


@pytest.mark.parametrize("who", ["student", "teacher"])
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize(("rank", "basis"), [(1, "own"), (3, "own"), (2, "teacher")])
@pytest.mark.filterwarnings("ignore::svdistill.errors.SvdistillWarning")
def test_sample_without_vectors_contributes_nothing(who, value, rank, basis):
    """A dead or broken map sets its sample aside: the rest gives what it gives alone, and the sample is counted."""
    student, teacher = both_maps()
    rest = [0, 1, 3, 4, 5]
    expected_maps = [s[rest].clone().requires_grad_() for s in student]
    expected = svd_loss(expected_maps, [t[rest] for t in teacher], rank=rank, reduction="sum", basis=basis)
    expected.backward()
    ({"student": student, "teacher": teacher}[who])[1][2] = value
    maps = [s.requires_grad_() for s in student]
    found, health = SVDLoss(rank=rank, reduction="sum", basis=basis).measure(maps, teacher)
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert int(health["set_aside"]) == 1
    for ours, theirs in zip(maps, expected_maps, strict=True):
        assert (ours.grad[2] == 0).all()
        assert (ours.grad[rest] - theirs.grad).norm() < 1e-2 * theirs.grad.norm()


@pytest.mark.parametrize("basis", ["own", "teacher"])
def test_broken_input_is_reported(basis):
    """NaN in a map raises a warning beside the count."""
    student, teacher = both_maps()
    student[0][1, 0, 0, 0] = float("nan")
    with pytest.warns(SvdistillWarning, match="1 of 6"):
        svd_loss(student, teacher, basis=basis)


@pytest.mark.parametrize("basis", ["own", "teacher"])
def test_whole_batch_set_aside(basis):
    """All-zero maps everywhere: loss 0, gradient 0, everything counted."""
    student = [torch.zeros(3, 4, 2, 2, requires_grad=True) for _ in range(2)]
    loss, health = SVDLoss(basis=basis).measure(student, [torch.ones(3, 4, 2, 2)] * 2)
    loss.backward()
    assert float(loss.detach()) == 0
    assert int(health["set_aside"]) == 3
    assert all((s.grad == 0).all() for s in student)


@pytest.mark.parametrize("basis", ["own", "teacher"])
def test_empty_batch(basis):
    """A batch of 0 has loss 0 and a gradient."""
    student = [torch.zeros(0, 4, 2, 2, requires_grad=True) for _ in range(2)]
    loss = svd_loss(student, [torch.zeros(0, 4, 2, 2)] * 2, rank=2, basis=basis)
    loss.backward()
    assert float(loss.detach()) == 0
    assert student[0].grad.shape == (0, 4, 2, 2)


def test_autocast_changes_nothing():
    """Under autocast the loss and its gradient stay float32 and equal."""
    student, teacher = both_maps()
    maps = [s.requires_grad_() for s in student]
    plain = svd_loss(maps, teacher, rank=2)
    gradients = torch.autograd.grad(plain, maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = svd_loss(maps, teacher, rank=2)
        cast_gradients = torch.autograd.grad(cast, maps)
    assert torch.equal(plain, cast)
    assert all(torch.equal(a, b) for a, b in zip(gradients, cast_gradients, strict=True))


COMPILER = pytest.mark.skipif(not any(map(which, ("g++", "clang++"))), reason="inductor needs a C++ compiler")


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=COMPILER)])
def test_compile_gives_the_same(backend):
    """torch.compile may break the graph at the loss but changes neither value nor gradient."""
    student, teacher = both_maps()

    def scaled(*maps: Tensor) -> Tensor:
        return svd_loss([m * 1.5 for m in maps], teacher, rank=2) * 2

    results = []
    for function in (scaled, torch.compile(scaled, backend=backend)):
        maps = [s.clone().requires_grad_() for s in student]
        loss = function(*maps)
        results.append((loss.detach(), torch.autograd.grad(loss, maps)))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=0)
    for found, expected in zip(results[1][1], results[0][1], strict=True):
        assert (found - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize("rank", [1, 2])
def test_gradient_in_single_precision(rank):
    """On real tap shapes, float32 gives the gradient of float64 to 1e−5 at rank 1, through every solver of `auto`."""
    student, teacher = post_relu_maps(24, seed=1), post_relu_maps(24, seed=2)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        maps = [s.to(dtype).requires_grad_() for s in student]
        loss = svd_loss(maps, [t.to(dtype) for t in teacher], rank=rank)
        gradients.append(torch.autograd.grad(loss, maps))
    for found, exact in zip(*gradients, strict=True):
        error = (found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
        assert error.median() < (1e-5 if rank == 1 else 1e-4)


def test_paper_gradient_does_not_depend_on_the_solver(monkeypatch):
    """The published gradient uses all k + 1 candidates, so all of them have to be right."""
    student, teacher = post_relu_maps(12, seed=1), post_relu_maps(12, seed=2)
    gradients = []
    for solver in ("lapack", "subspace"):
        monkeypatch.setattr("svdistill.linalg.solvers.choose_solver", lambda *_, chosen=solver: chosen)
        maps = [s.clone().requires_grad_() for s in student]
        gradients.append(torch.autograd.grad(svd_loss(maps, teacher, gradient="paper"), maps))
    for expected, found in zip(*gradients, strict=True):
        assert (found - expected).norm() < 1e-3 * expected.norm()


def constant_map(batch: int, channels: int, size: int, *, seed: int) -> Tensor:
    """Return maps that are the same at every position, so of rank 1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, 1, 1, generator=generator).expand(-1, -1, size, size) + 0.1


def test_component_that_the_student_lacks_is_not_compared():
    """A student's constant map has one vector: of rank 2, the pair with that tap keeps the first component only."""
    student, teacher = both_maps()
    student, teacher = student[:2], teacher[:2]
    student[0] = constant_map(6, CHANNELS[0], 8, seed=3)
    s_weighted, t_weighted = [], []
    for s_map, t_map in zip(student, teacher, strict=True):
        sigma, v_t = truncated_svd(t_map.double().flatten(2).mT, 2)
        _, v_s = truncated_svd(s_map.double().flatten(2).mT, 3)
        cosine = v_t.mT @ v_s
        best = cosine[:, 0].abs().argmax(1) if s_map is student[1] else torch.zeros(6, dtype=torch.int64)
        # One-to-one goes from the largest |cosine| down; only the first component counts here.
        overall = cosine.abs().flatten(1).argmax(1)
        first = overall // 3 == 0
        second = cosine.abs()[torch.arange(6), 0].clone()
        second[torch.arange(6), overall % 3] = -1
        best = torch.where(first, overall % 3, second.argmax(1)) if s_map is student[1] else best
        chosen = v_s[torch.arange(6), :, best]
        sign = torch.where((chosen * v_t[:, :, 0]).sum(1) < 0, -1.0, 1.0)[:, None]
        weight = (sigma[:, :1] / sigma.norm(dim=1, keepdim=True)).double()
        s_weighted.append(chosen * sign * weight)
        t_weighted.append(v_t[:, :, 0] * weight)
    relation = [torch.exp(-((f[0][:, :, None] - f[1][:, None]) ** 2) / 8) for f in (s_weighted, t_weighted)]
    expected = 0.5 * 2**0.5 * (relation[0] - relation[1]).square().sum()
    found = svd_loss(student, teacher, rank=2, reduction="sum")
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_teacher_of_one_position_is_a_constant_map():
    """A teacher's map of one position, and the same feature at every position, are the same target."""
    student, teacher = both_maps()
    feature = constant_map(6, CHANNELS[1], 4, seed=4)
    teacher[1] = feature
    spread = svd_loss(student, teacher, rank=2)
    teacher[1] = feature[:, :, :1, :1]
    torch.testing.assert_close(svd_loss(student, teacher, rank=2), spread, rtol=1e-5, atol=0)


def test_energy_is_a_fraction_even_where_a_vector_answers_twice():
    """With argmax a vector can answer several targets; its energy counts once."""
    student, teacher = both_maps()
    _, health = SVDLoss(rank=4, assignment="argmax").measure(student, teacher)
    assert 0 < float(health["energy_student"]) <= 1


MAP = torch.ones(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("student", "teacher", "options", "words"),
    [
        ([MAP], [MAP], {}, "at least 2"),
        ([MAP, MAP], [MAP], {}, "2 taps and the teacher 1"),
        (MAP, MAP, {}, "one tensor"),
        ([MAP, MAP], [MAP, torch.ones(2, 5, 4, 4)], {}, "3 channels in the student and 5 in the teacher"),
        ([MAP, MAP], [MAP, torch.ones(1, 3, 4, 4)], {}, "2 samples in the student and 1"),
        ([MAP, torch.ones(3, 3, 4, 4)], [MAP, torch.ones(3, 3, 4, 4)], {}, "same batch"),
        ([MAP, torch.ones(2, 3, 0, 4)], [MAP, MAP], {}, "at least one channel and one position"),
        ([MAP, torch.ones(4)], [MAP, MAP], {}, r"tap 1 of the student must be"),
        ([MAP, MAP.long()], [MAP, MAP], {}, "int64"),
        ([MAP, None], [MAP, MAP], {}, "NoneType"),
        ([torch.ones(2, 5, 3)] * 2, [MAP, MAP], {"basis": "teacher"}, "class token"),
    ],
)
def test_bad_input(student, teacher, options, words):
    """Each wrong argument is named, with what to do."""
    with pytest.raises(ShapeError, match=words):
        svd_loss(student, teacher, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 0}, "rank"),
        ({"beta": -1.0}, "beta"),
        ({"assignment": "one_to_on"}, "did you mean 'one_to_one'"),
        ({"reduction": "average"}, "reduction"),
        ({"gradient": "papr"}, "did you mean 'paper'"),
        ({"basis": "teachers"}, "did you mean 'teacher'"),
        ({"extra": -1}, "extra"),
        ({"beta": "8"}, "beta must be a positive number, .*, got '8'"),
        ({"beta": None}, "beta must be a positive number, .*, got None"),
        ({"scaled": "false"}, "scaled must be True or False, got 'false'"),
        ({"scaled": None}, "scaled must be True or False, got None"),
    ],
)
def test_bad_options(options, words):
    """Each wrong option is named, a misspelt one with the nearest right one."""
    with pytest.raises(OptionError, match=words):
        svd_loss([MAP, MAP], [MAP, MAP], **options)


def test_bad_settings_are_refused_at_construction():
    """A module with a misspelt option, or a text that would count as True, is never made."""
    with pytest.raises(OptionError, match="gradient"):
        SVDLoss(gradient="exakt")
    with pytest.raises(OptionError, match="scaled must be True or False, got 'false'"):
        SVDLoss(scaled="false")  # type: ignore[arg-type]


def test_stored_without_singular_values() -> None:
    """What is stored of the teacher is refused where a part of it is missing."""
    with pytest.raises(ShapeError, match=r"\(v0, v1\) lacks sigma; store it again"):
        SVDLoss().unpack({"v0": torch.rand(2, 1, 3), "v1": torch.rand(2, 1, 3)})


@pytest.mark.parametrize("stored", [1, 3])
def test_stored_for_another_rank(stored: int) -> None:
    """What is stored of the teacher is refused by a loss of another rank, which would compare other vectors."""
    maps = [torch.rand(2, 4, 3, 3), torch.rand(2, 4, 3, 3)]
    packed = (loss := SVDLoss(rank=stored)).pack(loss.extract(maps, maps))
    with pytest.raises(ShapeError, match=f"is of rank {stored}, the loss of rank 2; store it again"):
        SVDLoss(rank=2).unpack(packed)
