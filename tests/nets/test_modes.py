"""Eval mode for a while, in every place that needs it: what was frozen in a network that trains stays so."""

import pytest
import torch
from torch import nn

from svdistill import losses, nets, training
from svdistill.data import ImageSet
from svdistill.distiller import Distiller
from svdistill.jobs import diagnostics
from svdistill.nets.modes import eval_mode

IMAGES = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def partly_frozen():
    """A network that trains, but for the batch norm of its first block."""
    network = nets.create("vgg-bn-student", num_classes=3, in_channels=1, width=0.125).train()
    network.block1.eval()
    return network


def measure(network):
    """Measure it."""
    images = ImageSet((IMAGES * 255).to(torch.uint8), torch.tensor([0, 1, 2, 0]), ("a", "b", "c"))
    training.evaluate(None, network, images, mean=torch.zeros(1), std=torch.ones(1))


def look_inside(network):
    """Take its maps for the report."""
    diagnostics.Tapped(network, ["block2"]).maps(IMAGES)


def prepare(network):
    """Make adapters for it."""
    teacher = nets.create("vgg-bn-teacher", num_classes=3, in_channels=1, width=0.25)
    taps = ("block1", "block2")
    Distiller(network, teacher, loss=losses.SVDLoss(), student_taps=taps, teacher_taps=taps).prepare(IMAGES)


def count(network):
    """Count its cost."""
    nets.count(network, (1, 16, 16))


def raise_inside(network):
    """Fail while it is in eval mode."""

    def fail():
        with eval_mode(network):
            assert not any(module.training for module in network.modules())
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        fail()


@pytest.mark.parametrize("use", [measure, look_inside, prepare, count, raise_inside])
def test_modes_come_back(partly_frozen, use):
    """Each submodule is in the mode that it was in, and batch norm's statistics are untouched."""
    before = [module.training for module in partly_frozen.modules()]
    statistics = [value.clone() for value in partly_frozen.buffers()]
    assert len(set(before)) == 2
    use(partly_frozen)
    assert [module.training for module in partly_frozen.modules()] == before
    assert all(map(torch.equal, statistics, partly_frozen.buffers()))


def test_a_lone_module():
    """A module without children."""
    norm = nn.BatchNorm2d(2).train()
    with eval_mode(norm):
        assert not norm.training
    assert norm.training
