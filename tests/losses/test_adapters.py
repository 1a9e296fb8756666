"""Adapters: made where widths differ, identity elsewhere, for every layout and batch."""

import copy

import pytest
import torch
from torch import Tensor, nn

from svdistill.errors import ShapeError
from svdistill.losses import Adapters, svd_loss


def both_maps(batch: int = 4) -> tuple[list[Tensor], list[Tensor]]:
    """Return four taps: equal widths, a map, tokens and a vector of unequal widths."""
    generator = torch.Generator().manual_seed(batch)

    def made(*shapes: tuple[int, ...]) -> list[Tensor]:
        return [torch.randn(batch, *shape, generator=generator) for shape in shapes]

    return made((3, 8, 6), (4, 4, 3), (6, 5), (7,)), made((3, 4, 4), (9, 4, 4), (8, 16), (5,))


def test_made_where_widths_differ():
    """Widths tell which; the first tap is handed on as it is; layouts stay."""
    student, teacher = both_maps()
    adapters = Adapters.between(student, teacher)
    assert adapters.widths == (None, (4, 9), (5, 16), (7, 5))
    lifted = adapters(student)
    assert lifted[0] is student[0]
    assert [tuple(m.shape) for m in lifted] == [(4, 3, 8, 6), (4, 9, 4, 3), (4, 6, 16), (4, 5)]
    assert "(4, 9)" in repr(adapters)


def test_none_where_widths_agree():
    """No adapter, no parameter."""
    student, _ = both_maps()
    assert Adapters.between(student, [s.mean((2, 3)) if s.dim() == 4 else s for s in student]) is None


def test_is_a_convolution_and_batch_norm():
    """A map goes through a 1×1 convolution without bias and batch norm, number by number the same in torch's 2-d."""
    student, teacher = both_maps()
    adapters = Adapters.between(student, teacher)
    weight = adapters.layers[1].convolution.weight.detach()
    plain = nn.functional.conv2d(student[1], weight[..., None])
    mean, var = plain.mean((0, 2, 3), keepdim=True), plain.var((0, 2, 3), keepdim=True, unbiased=False)
    expected = (plain - mean) / (var + 1e-5).sqrt()
    torch.testing.assert_close(adapters(student)[1], expected, rtol=1e-4, atol=1e-5)
    assert not any("convolution.bias" in name for name, _ in adapters.named_parameters())


def test_layouts_agree():
    """Tokens and map of the same numbers are lifted to the same numbers."""
    student, teacher = both_maps()
    adapters = Adapters.between(student[1:2], teacher[1:2])
    tokens = adapters([student[1].flatten(2).mT])[0]
    torch.testing.assert_close(tokens, adapters([student[1]])[0].flatten(2).mT)


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches_leave_the_statistics_sound(batch):
    """No image, or one image at a tap of one position: finite maps and running statistics."""
    adapters = Adapters.between(*both_maps())
    student, _ = both_maps(batch)
    lifted = adapters(student)
    assert all(m.isfinite().all() for m in lifted)
    assert [len(m) for m in lifted] == [batch] * 4
    assert all(b.isfinite().all() for b in adapters.buffers())


def test_one_number_a_channel_uses_the_running_statistics():
    """One image at a tap of one position: what eval mode gives."""
    adapters = Adapters.between(*both_maps())
    adapters(both_maps(4)[0])
    student, _ = both_maps(1)
    lifted = adapters(student)[3]
    assert torch.equal(lifted, adapters.eval()(student)[3])


def test_makes_a_loss_possible_and_learns():
    """With adapters KD-SVD compares unequal widths, and gradient reaches adapters and student."""
    student, teacher = both_maps()
    maps = [s.requires_grad_() for s in student]
    adapters = Adapters.between(student, teacher)
    svd_loss(adapters(maps), teacher, rank=2).backward()
    assert all(m.grad.abs().sum() > 0 for m in maps)
    assert all(p.grad.isfinite().all() for p in adapters.parameters())
    assert adapters.layers[1].convolution.weight.grad.abs().sum() > 0


def test_autocast_changes_nothing():
    """Under autocast, and for half-precision maps, everything stays float32."""
    student, teacher = both_maps()
    adapters = Adapters.between(student, teacher)
    expected = adapters(student)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(adapters(student), expected, strict=True))
        assert adapters([s.bfloat16() for s in student])[1].dtype == torch.float32


def test_double_precision():
    """Maps of float64 make adapters of float64."""
    student, teacher = both_maps()
    adapters = Adapters.between([s.double() for s in student], teacher)
    assert adapters([s.double() for s in student])[1].dtype == torch.float64


def test_state_goes_to_another():
    """The state of one loads into another that was made from its widths."""
    student, teacher = both_maps()
    first = Adapters.between(student, teacher)
    second = Adapters(first.widths)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(first(student), second(student), strict=True))


def test_bad_input():
    """Other taps or widths than it was made for are named."""
    student, teacher = both_maps()
    adapters = Adapters.between(student, teacher)
    with pytest.raises(ShapeError, match="made for 4 taps, got 3"):
        adapters(student[:3])
    with pytest.raises(ShapeError, match="tap 1 was made for 4 channels, got 9"):
        adapters([student[0], teacher[1], *student[2:]])
    with pytest.raises(ShapeError, match="4 taps and the teacher 3"):
        Adapters.between(student, teacher[:3])
    with pytest.raises(ShapeError, match=r"\(0, 3\)"):
        Adapters([(0, 3)])
