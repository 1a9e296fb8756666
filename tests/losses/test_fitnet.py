"""FitNets against the formula in plain loops; the regressor and its training."""

import pytest
import torch
from torch import Tensor

from svdistill.errors import OptionError, ShapeError
from svdistill.losses import FitNetLoss, fitnet_loss
from tests.features import post_relu_maps


def both_maps() -> tuple[list[Tensor], list[Tensor]]:
    """Return four taps of two networks of unequal widths and sizes."""
    student = post_relu_maps(3, seed=1, channels=(3, 4, 5, 6), size=16)
    return student, post_relu_maps(3, seed=2, channels=(5, 6, 7, 8), size=32)


def regressed_then_pooled(student: Tensor, teacher: Tensor, weight: Tensor, bias: Tensor) -> float:
    """Mean of ½ (W s + b − t)², the convolution first and the teacher pooled by halves, number by number."""
    student, teacher, weight, bias = (x.double() for x in (student, teacher, weight, bias))
    total, count = 0.0, 0
    batch, _, height, width = student.shape
    for n in range(batch):
        for c in range(len(weight)):
            for i in range(height):
                for j in range(width):
                    products = weight[c] * student[n, :, i, j]
                    found = float(bias[c]) + sum(products.tolist())
                    window = teacher[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                    total += 0.5 * (found - float(window.sum()) / 4) ** 2
                    count += 1
    return total / count


@pytest.mark.parametrize(("hint", "tap"), [(None, 1), (0, 0), (3, 3)])
def test_value(hint, tap):
    """The middle of four taps is the second; a named hint is taken instead."""
    student, teacher = both_maps()
    loss = FitNetLoss(hint)
    loss.prepare(student, teacher)
    weight, bias = loss.regressor.weight[:, :, 0].detach(), loss.regressor.bias.detach()
    expected = regressed_then_pooled(student[tap], teacher[tap], weight, bias)
    assert float(loss(student, teacher).detach()) == pytest.approx(expected, rel=1e-5)


def test_default_hint_is_in_the_middle_of_the_taps_with_positions():
    """The last features move it nowhere; they can be named, and are taken where there is nothing else."""
    student, teacher = both_maps()
    vectors = torch.rand(len(student[0]), 6), torch.rand(len(student[0]), 9)
    loss, named, alone = FitNetLoss(), FitNetLoss(4), FitNetLoss()
    loss.prepare(student, teacher)
    longer = [[*maps, vector] for maps, vector in zip((student, teacher), vectors, strict=True)]
    assert torch.equal(loss(*longer), loss(student, teacher))
    named.prepare(*longer)
    alone.prepare(*([vector] for vector in vectors))
    alone.load_state_dict(named.state_dict())
    assert torch.equal(named(*longer), alone(*([vector] for vector in vectors)))


def test_larger_student_is_pooled():
    """A student's larger map: regressing and pooling commute."""
    student, teacher = (torch.rand(2, 3, 4, 4), torch.rand(2, 5, 2, 2))
    weight, bias = torch.randn(5, 3), torch.randn(5)
    whole = torch.einsum("dc,bchw->bdhw", weight, student) + bias[:, None, None]
    expected = 0.5 * (whole.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)) - teacher).square().mean()
    torch.testing.assert_close(fitnet_loss([student], [teacher], weight=weight, bias=bias), expected)


def test_by_hand():
    """With s = 2, W = 3, b = 1, t = 5: ½ (3 · 2 + 1 − 5)² = 2."""
    found = fitnet_loss(
        [torch.full((1, 1), 2.0)],
        [torch.full((1, 1), 5.0)],
        weight=torch.tensor([[3.0]]),
        bias=torch.tensor([1.0]),
    )
    assert float(found) == 2.0


def test_regressor_gradient():
    """Weight and bias learn: their gradient agrees with finite differences."""
    student, teacher = (torch.rand(2, 3, 4, 2).double(), torch.rand(2, 5, 2, 4).double())
    weight, bias = torch.randn(5, 3).double().requires_grad_(), torch.randn(5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda w, b: fitnet_loss([student], [teacher], weight=w, bias=b), (weight, bias))


def test_regressor_learns_the_hint():
    """Where the teacher's map is a 1×1 convolution of the student's, gradient steps on the regressor find it."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(8, 2, 4, 4, generator=generator)
    teacher = torch.einsum("dc,bchw->bdhw", torch.randn(3, 2, generator=generator), student) + 0.5
    loss = FitNetLoss()
    loss.prepare([student], [teacher])
    optimizer = torch.optim.SGD(loss.parameters(), lr=1.0)
    for _ in range(100):
        optimizer.zero_grad()
        value = loss([student], [teacher])
        value.backward()
        optimizer.step()
    assert float(value.detach()) < 1e-6


def test_prepare_makes_it_once():
    """A second call with the same widths keeps the regressor; other widths are refused; it follows the maps' dtype."""
    student, teacher = both_maps()
    loss = FitNetLoss()
    assert not list(loss.parameters())
    loss.prepare(student, teacher)
    made = loss.regressor
    assert made.weight.shape == (6, 4, 1)
    assert made.bias.shape == (6,)
    loss.prepare(student, teacher)
    assert loss.regressor is made
    with pytest.raises(ShapeError, match=r"\(6, 4\), expected \(7, 5\)"):
        loss.prepare(student[1:], teacher[1:])
    double = FitNetLoss()
    double.prepare([s.double() for s in student], teacher)
    assert double.regressor.weight.dtype == torch.float64


def test_state_goes_to_another():
    """A regressor's state loads into one that was prepared for the same widths."""
    student, teacher = both_maps()
    first, second = FitNetLoss(), FitNetLoss()
    for loss in (first, second):
        loss.prepare(student, teacher)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(student, teacher), second(student, teacher))


def test_not_prepared():
    """Without a regressor the module says what to call."""
    with pytest.raises(ShapeError, match="call prepare"):
        FitNetLoss()(*both_maps())


MAP, WIDE = torch.ones(2, 3, 4, 4), torch.ones(2, 5, 4, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "3 channels in the student and 5 in the teacher"),
        ({"weight": torch.ones(3, 5)}, r"\(3, 5\), expected \(5, 3\)"),
        ({"weight": torch.ones(5, 3), "bias": torch.ones(3)}, r"bias is \(3,\), expected \(5,\)"),
    ],
)
def test_bad_regressor(options, words):
    """A regressor that does not fit is named with what would."""
    with pytest.raises(ShapeError, match=words):
        fitnet_loss([MAP], [WIDE], **options)


@pytest.mark.parametrize(
    ("hint", "words"), [(2, "hint is tap 2 of 1"), (-1, "choose 0 to 0"), ("0", "hint is tap '0' of 1")]
)
def test_bad_hint(hint, words):
    """A hint beyond the taps is named with what would fit."""
    with pytest.raises(OptionError, match=words):
        fitnet_loss([MAP], [WIDE], hint=hint)


@pytest.mark.parametrize("hint", [-1, 1.5, True, "middle"])
def test_bad_hint_is_refused_at_construction(hint):
    """The hint is the number of a tap."""
    with pytest.raises(OptionError, match="hint"):
        FitNetLoss(hint)


def test_repr():
    """The module shows its hint."""
    assert "hint=2" in repr(FitNetLoss(2))


def test_a_hint_at_a_tap_that_is_gone() -> None:
    """With fewer taps than `prepare` saw, the loss asks to be prepared anew."""
    maps = [torch.rand(2, 4, 4, 4) for _ in range(3)]
    loss = FitNetLoss(hint=2)
    loss.prepare(maps, maps)
    with pytest.raises(ShapeError, match="the hint is tap 2, but there are 2 taps"):
        loss.compare(maps[:2], loss.extract(maps, maps))


def test_prepared_in_inference_mode():
    """The regressor can learn all the same."""
    student, teacher = both_maps()
    loss = FitNetLoss()
    with torch.inference_mode():
        loss.prepare(student, teacher)
    loss(student, teacher).backward()
    assert loss.regressor is not None
    assert loss.regressor.weight.grad.any()
