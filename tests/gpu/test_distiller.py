"""The distiller on the device, with a teacher that runs and with what is stored of one."""

import copy

import pytest
import torch
from tests.gpu.small import METHODS, TAPS, pair

from svdistill import losses
from svdistill.distiller import Distiller
from svdistill.teacher_cache import TeacherCache


def images():
    """Return images that are the same in every precision."""
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def outcome(distiller, pixels, **where):
    """Return the transfer loss and the gradient of each parameter that it reaches, in float64 on a CPU."""
    labels = torch.tensor([0, 1, -1, 2, 0, -1], device=pixels.device)
    output = distiller(pixels, labels=labels, **where)
    reached = torch.autograd.grad(output.transfer, list(distiller.parameters()), allow_unused=True)
    return float(output.transfer.detach()), [None if one is None else one.cpu().double() for one in reached]


def agree(found, expected, rel=2e-3):
    """Compare outcomes."""
    assert found[0] == pytest.approx(expected[0], rel=rel)
    for gradient, right in zip(found[1], expected[1], strict=True):
        assert (gradient is None) == (right is None)
        if right is not None:
            assert (gradient - right).norm() <= 10 * rel * right.norm() + 1e-6


@pytest.mark.parametrize("teacher_width", [8, 12])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "alone"])
def test_a_teacher_that_runs(device, method, teacher_width):
    """Transfer loss and gradients, adapters' and losses' own included, against float64 on a CPU."""
    distiller = pair(METHODS[method][0](), teacher_width=teacher_width)
    exact = copy.deepcopy(distiller).double()
    expected = outcome(exact, images().double())
    agree(outcome(distiller.to(device), images().to(device)), expected)


@pytest.mark.parametrize("where", ["cpu", "device"])
def test_a_stored_teacher(device, where):
    """What is stored is asked for by the images' numbers, which come from the host or lie on the device."""
    whole = pair(losses.SVDLoss(2)).to(device)
    pixels = images().to(device)
    expected = outcome(whole, pixels)
    known, shapes = whole.extract(pixels), whole.teacher_shapes(pixels)
    cache = TeacherCache.in_memory(known, tap_shapes=shapes, precise=whole.precise)
    distiller = Distiller(whole.student, cache, loss=losses.SVDLoss(2), student_taps=TAPS).train()
    indices, views = torch.arange(6), torch.zeros(6, dtype=torch.int64)
    if where == "device":
        cache.bring(device)
        indices, views = indices.to(device), views.to(device)
    agree(outcome(distiller, pixels, indices=indices, views=views), expected, rel=1e-2)


def test_the_teacher_comes_along_and_stays_frozen(device):
    """It lies where the student lies, needs no gradient, and keeps its statistics."""
    distiller = pair(losses.SVDLoss()).to(device)
    before = {name: value.clone() for name, value in distiller.teacher.state_dict().items()}
    outcome(distiller, images().to(device))
    assert all(value.device == device for value in before.values())
    after = distiller.teacher.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
