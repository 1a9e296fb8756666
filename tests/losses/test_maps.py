"""What every loss that reads feature maps has in common: layouts, sizes, input of every kind, precision."""

import inspect

import pytest
import torch
from torch import Tensor

from svdistill import losses
from svdistill.errors import ShapeError, SvdistillWarning
from svdistill.losses import (
    attention_loss,
    fitnet_loss,
    fsp_loss,
    pkt_loss,
    relational_loss,
    similarity_loss,
    svd_loss,
)
from svdistill.losses.maps import as_grid, pair_up
from tests.features import post_relu_maps

CHANNELS = (4, 6, 5)
METHODS = [attention_loss, fitnet_loss, fsp_loss, relational_loss, similarity_loss, pkt_loss]
MODULES = {
    losses.AttentionLoss: attention_loss,
    losses.FSPLoss: fsp_loss,
    losses.FitNetLoss: fitnet_loss,
    losses.RelationalLoss: relational_loss,
    losses.SimilarityLoss: similarity_loss,
    losses.PKTLoss: pkt_loss,
    losses.SVDLoss: svd_loss,
}


def both_maps(batch: int = 5, size: int = 16, teacher_size: int = 32) -> tuple[list[Tensor], list[Tensor]]:
    """Return maps of two networks with the same widths and different sizes."""
    return post_relu_maps(batch, seed=1, channels=CHANNELS, size=size), post_relu_maps(
        batch, seed=2, channels=CHANNELS, size=teacher_size
    )


def gradients(loss: Tensor, maps: list[Tensor]) -> list[Tensor]:
    """Return the gradient to each map, zero where the loss does not read it."""
    found = torch.autograd.grad(loss, maps, allow_unused=True)
    return [torch.zeros_like(m) if g is None else g for g, m in zip(found, maps, strict=True)]


@pytest.mark.parametrize("method", METHODS)
def test_gradient_agrees_with_finite_differences(method):
    """Every element of the gradient in float64, on maps of any sign and of unequal sizes."""
    generator = torch.Generator().manual_seed(3)
    student = [torch.randn(3, c, h, w, generator=generator).double() for c, h, w in ((2, 4, 6), (3, 4, 3), (4, 2, 3))]
    teacher = [torch.randn(3, c, h, w, generator=generator).double() for c, h, w in ((2, 4, 4), (3, 4, 4), (4, 4, 1))]
    maps = [s.requires_grad_() for s in student]
    assert torch.autograd.gradcheck(lambda *s: method(s, teacher), maps, fast_mode=False)


@pytest.mark.parametrize("method", METHODS)
def test_of_itself_is_zero(method):
    """A student with the teacher's maps has loss 0 and gradient 0; PKT's ε of 1e−7 leaves that much of one."""
    _, teacher = both_maps()
    maps = [t.clone().requires_grad_() for t in teacher]
    loss = method(maps, teacher)
    assert float(loss.detach()) == 0
    assert max(float(g.abs().max()) for g in gradients(loss, maps)) <= (1e-7 if method is pkt_loss else 0)


@pytest.mark.parametrize("method", METHODS)
def test_map_layouts_agree(method):
    """(B, C, H, W), channels-last, and (B, N, D) of the same numbers give the same loss; so do vectors and 1×1 maps."""
    student, teacher = both_maps()
    expected = method(student, teacher)
    assert float(expected) > 0
    rounding = 20 * torch.finfo(torch.float32).eps
    for form in (
        lambda m: m.flatten(2).mT,
        lambda m: m.to(memory_format=torch.channels_last),
    ):
        torch.testing.assert_close(method([form(s) for s in student], teacher), expected, rtol=rounding, atol=0)
        both = [form(s) for s in student], [form(t) for t in teacher]
        torch.testing.assert_close(method(*both), expected, rtol=rounding, atol=0)
    last = student[2].mean((2, 3)), teacher[2].mean((2, 3))
    vectors = method([*student[:2], last[0]], [*teacher[:2], last[1]])
    points = method([*student[:2], last[0][:, :, None, None]], [*teacher[:2], last[1][:, :, None, None]])
    assert torch.equal(vectors, points)


@pytest.mark.parametrize("method", METHODS)
def test_teacher_gets_no_gradient(method):
    """The teacher's maps are constants."""
    student, teacher = both_maps(3)
    teacher = [t.requires_grad_() for t in teacher]
    loss = method([s.requires_grad_() for s in student], teacher)
    assert torch.autograd.grad(loss, teacher, allow_unused=True) == (None, None, None)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(method, batch):
    """A batch of 0 has loss 0, one of 1 a finite one; both have a gradient."""
    student, teacher = both_maps()
    maps = [s[:batch].clone().requires_grad_() for s in student]
    loss = method(maps, [t[:batch] for t in teacher])
    assert loss.isfinite()
    assert batch or float(loss.detach()) == 0
    assert all(g.isfinite().all() for g in gradients(loss, maps))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 1.0, 1e-20, 1e4])
@pytest.mark.parametrize("whole_batch", [False, True])
def test_constant_maps(method, value, whole_batch):
    """Dead and constant maps of one sample or of the whole batch give finite loss and gradient."""
    student, teacher = both_maps()
    maps = [s.clone() for s in student]
    for m in maps:
        m[: len(m) if whole_batch else 1] = value
    maps = [m.requires_grad_() for m in maps]
    for goals in (teacher, [torch.full_like(t, value) for t in teacher]):
        loss = method(maps, goals)
        assert loss.isfinite()
        assert all(g.isfinite().all() for g in gradients(loss, maps))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision(method, kind):
    """Half-precision maps give float32, the loss of the same numbers in float32; autocast changes nothing."""
    student, teacher = both_maps()
    half = [s.to(kind).requires_grad_() for s in student], [t.to(kind) for t in teacher]
    wide = [s.detach().float() for s in half[0]], [t.float() for t in half[1]]
    expected = method(*wide)
    found = method(*half)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert all(g.dtype == kind for g in gradients(found, half[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(method(*wide), expected)
    doubled = method([m.double() for m in wide[0]], wide[1])
    assert doubled.dtype == torch.float64
    torch.testing.assert_close(doubled.float(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("module", MODULES)
def test_module_is_its_function(module):
    """Each module gives what its function gives, has health without gradient, and says what it reads."""
    student, teacher = both_maps()
    loss = module()
    if isinstance(loss, losses.FitNetLoss):
        loss.prepare(student, teacher)
        expected = fitnet_loss(student, teacher, weight=loss.regressor.weight[:, :, 0], bias=loss.regressor.bias)
    else:
        expected = MODULES[module](student, teacher)
    value, health = loss.measure(student, teacher)
    assert torch.equal(value, expected)
    assert torch.equal(loss(student, teacher), value)
    assert loss.reads == "maps"
    assert all(figure.dim() == 0 and not figure.requires_grad for figure in health.values())
    assert loss.equal_widths == (module in (losses.SVDLoss, losses.FSPLoss))


@pytest.mark.parametrize(("method", "module"), [(svd_loss, losses.SVDLoss), (attention_loss, losses.AttentionLoss)])
def test_module_and_function_have_the_same_options(method, module):
    """Name and default of each option agree, so that a recipe's settings go to either."""
    function = {k: p.default for k, p in inspect.signature(method).parameters.items() if p.kind is p.KEYWORD_ONLY}
    made = {k: p.default for k, p in inspect.signature(module).parameters.items()}
    assert function == made


MAP = torch.ones(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        ([], [], "at least"),
        ([MAP, MAP], [MAP], "2 taps and the teacher 1"),
        (MAP, MAP, "one tensor"),
        ([MAP, MAP], [MAP, torch.ones(1, 3, 4, 4)], "2 samples in the student and 1"),
        ([MAP, torch.ones(3, 3, 4, 4)], [MAP, torch.ones(3, 3, 4, 4)], "same batch"),
        ([MAP, torch.ones(2, 3, 0, 4)], [MAP, MAP], "at least one channel and one position"),
        ([MAP, torch.ones(4)], [MAP, MAP], r"tap 1 of the student must be"),
        ([MAP, MAP], [MAP, MAP.long()], "tap 1 of the teacher .*int64"),
        ([MAP, None], [MAP, MAP], "NoneType"),
    ],
)
@pytest.mark.parametrize("method", [*METHODS, svd_loss])
def test_bad_maps(method, student, teacher, words):
    """Maps that do not fit are named in one line, by every method."""
    with pytest.raises(ShapeError, match=words) as caught:
        method(student, teacher)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", [fsp_loss, svd_loss])
def test_unequal_widths_point_to_the_adapter(method):
    """Methods that need equal widths say which tap, and who makes an adapter."""
    with pytest.raises(ShapeError, match=r"tap 1 has 3 channels in the student and 5 .*Distiller"):
        method([MAP, MAP], [MAP, torch.ones(2, 5, 4, 4)])


@pytest.mark.parametrize("method", [attention_loss, fitnet_loss])
def test_tokens_without_a_grid(method):
    """Five tokens against a map of four by four: the message tells of the class token."""
    with pytest.raises(ShapeError, match=r"5 tokens .*class token"):
        method([torch.ones(2, 5, 3)], [MAP])


def test_as_grid_lays_tokens_row_by_row():
    """Token 3 of a 2 × 3 grid is its second row's first; without a partner's grid, a square one is taken."""
    tokens = torch.arange(6.0).reshape(1, 6, 1)
    assert as_grid(tokens, torch.ones(1, 1, 2, 3))[0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert as_grid(tokens, torch.ones(1, 6, 9)).shape == (1, 1, 6, 1)
    assert as_grid(tokens[:, :4], torch.ones(1, 1, 4, 4))[0, 0].tolist() == [[0, 1], [2, 3]]
    assert as_grid(torch.ones(1, 7), torch.ones(1, 1, 4, 4)).shape == (1, 7, 1, 1)


def test_pair_up_returns_what_came():
    """The pairs are the very tensors, in order, and the teacher's are constant."""
    student, teacher = both_maps(2)
    pairs = pair_up(student, [one.requires_grad_() for one in teacher], method="x")
    for (ours, theirs), one, other in zip(pairs, student, teacher, strict=True):
        assert ours is one
        assert theirs.data_ptr() == other.data_ptr()
        assert not theirs.requires_grad


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_maps_that_look_channels_last_are_told_of(who):
    """By the functions and the modules alike; other maps pass in silence, also where one tap is as high as wide."""
    plain, odd = [torch.rand(2, 16, 8, 8), torch.rand(2, 8, 8, 8)], [torch.rand(2, 8, 8, 16), torch.rand(2, 4, 4, 32)]
    maps = (odd, plain) if who == "student" else (plain, odd)
    for use in (losses.attention_loss, losses.AttentionLoss().measure, losses.relational_loss):
        with pytest.warns(SvdistillWarning, match=rf"^the {who}'s maps, the first \(2, 8, 8, 16\), look like \(B, H"):
            use(*maps)
    losses.attention_loss(plain, [torch.rand(2, 6, 6, 9), torch.rand(2, 9, 6, 6)])
