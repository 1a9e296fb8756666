"""KD-SVD's loss on a device without values: nothing in it reads a value, so nothing in it waits for a GPU."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from svdistill.losses import SVDLoss
from tests.waiting import DEVICE, nothing_waits

SHAPES = ((8, 8), (16, 4), (24, 1))  # channels, side

VGG = ((64, 16), (128, 8), (256, 4), (512, 2), (1024, 1))


def maps(shapes: tuple[tuple[int, int], ...] = SHAPES, *, requires_grad: bool = False) -> list[Tensor]:
    """Return feature maps without values."""
    return [torch.rand(4, c, side, side, device=DEVICE, requires_grad=requires_grad) for c, side in shapes]


class _Launches(TorchDispatchMode):
    """Counts operations that give new numbers, each of which a GPU has to launch."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.namespace == "aten" and not func.is_view and "empty" not in func.name()
        return func(*args, **(kwargs or {}))


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


@pytest.mark.parametrize("gradient", ["exact", "paper"])
def test_launches(gradient):
    """A GPU's time goes by their number, so taps are decomposed together: five took 2,700 each alone."""
    with nothing_waits(), _Launches() as launches:
        student = maps(VGG, requires_grad=True)
        SVDLoss(gradient=gradient)(student, maps(VGG)).backward()
    assert launches.count < 850
