"""KD-SVD's loss on a device without values: nothing in it reads a value, so nothing in it waits for a GPU."""

import pytest
import torch
from torch import Tensor

from svdistill.losses import SVDLoss
from tests.waiting import DEVICE, nothing_waits

SHAPES = ((8, 8), (16, 4), (24, 1))  # channels, side


def maps(*, requires_grad: bool = False) -> list[Tensor]:
    """Return feature maps without values."""
    return [torch.rand(4, c, side, side, device=DEVICE, requires_grad=requires_grad) for c, side in SHAPES]


@pytest.mark.parametrize("basis", ["own", "teacher"])
@pytest.mark.parametrize("gradient", ["exact", "paper"])
@pytest.mark.parametrize("rank", [1, 4])
def test_loss_waits_for_nothing(basis, gradient, rank):
    """The loss, its gradient and what tells about its health."""
    with nothing_waits():
        student = maps(requires_grad=True)
        loss, health = SVDLoss(rank, gradient=gradient, basis=basis).measure(student, maps())
        loss.backward()
        assert loss.device.type == DEVICE
        assert all(value.device.type == DEVICE for value in health.values())
        assert all(s.grad.shape == s.shape for s in student)
