"""Every loss on the device: value, gradient and health against float64 on a CPU."""

import copy

import pytest
import torch
from tests.features import post_relu_maps

from svdistill.losses import (
    AttentionLoss,
    DISTLoss,
    DKDLoss,
    FitNetLoss,
    FSPLoss,
    PKTLoss,
    RelationalLoss,
    SimilarityLoss,
    SoftTargetLoss,
    SVDLoss,
)

SVD = {
    f"svd, rank {rank}, {basis} basis, {gradient}": SVDLoss(rank, basis=basis, gradient=gradient, reduction="sum")
    for rank in (1, 4, 7)  # the last is beyond what is found by products alone
    for basis, gradient in (("own", "exact"), ("own", "paper"), ("teacher", "exact"))
}
LOSSES = {
    **SVD,
    "svd, argmax, without scale": SVDLoss(2, assignment="argmax", scaled=False, extra=2),
    "fitnet": FitNetLoss(),
    "fsp": FSPLoss(),
    "attention": AttentionLoss(),
    "attention, power 1": AttentionLoss(power=1.0),
    "relational": RelationalLoss(),
    "similarity": SimilarityLoss(),
    "pkt": PKTLoss(),
}


def maps(seed):
    """Three taps of eight images."""
    return post_relu_maps(8, seed=seed, channels=(16, 24, 32))


def measured(loss, student, teacher):
    """Return the loss, its gradients and its health, in float64 on a CPU."""
    inputs = [one.detach().requires_grad_() for one in student]
    value, health = loss.measure(inputs, teacher)
    gradients = torch.autograd.grad(value, inputs, allow_unused=True)
    wide = [None if one is None else one.cpu().double() for one in gradients]
    return float(value.detach()), wide, {name: float(one) for name, one in health.items()}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_on_maps(device, name):
    """In float32, to a few roundings of what the decomposition can give."""
    loss, student, teacher = copy.deepcopy(LOSSES[name]), maps(1), maps(2)
    loss.prepare(student, teacher)
    exact = copy.deepcopy(loss).double()
    expected = measured(exact, *([one.double() for one in side] for side in (student, teacher)))
    found = measured(loss.to(device), *([one.to(device) for one in side] for side in (student, teacher)))
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    assert found[2] == pytest.approx(expected[2], rel=1e-3)
    for gradient, right in zip(found[1], expected[1], strict=True):
        assert (gradient is None) == (right is None)
        if right is not None:
            error = (gradient - right).flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1)
            assert error.median() < 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_changes_nothing(device, name):
    """Of maps in float32: whatever a loss multiplies, it does not in bfloat16."""
    loss = copy.deepcopy(LOSSES[name])
    student, teacher = maps(1), maps(2)
    loss.prepare(student, teacher)
    loss = loss.to(device)
    sides = [[one.to(device) for one in side] for side in (student, teacher)]
    plain = float(loss(*sides).detach())
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert float(loss(*sides).detach()) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("name", SVD)
def test_maps_in_bfloat16_and_channels_last(device, name):
    """The loss is that of the same rounded maps in float32, whatever their layout."""
    rounded = [[one.to(device, torch.bfloat16) for one in maps(seed)] for seed in (1, 2)]
    plain = LOSSES[name](*([one.float() for one in side] for side in rounded))
    last = LOSSES[name](*([one.to(memory_format=torch.channels_last) for one in side] for side in rounded))
    assert float(last) == pytest.approx(float(plain), rel=1e-3)


@pytest.mark.parametrize("loss", [SoftTargetLoss(), SoftTargetLoss(2.0, standardize=True), DKDLoss(), DISTLoss()])
def test_loss_on_logits(device, loss):
    """With a class that the teacher excludes, and images without labels."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(8, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    teacher[:, 3] = -torch.inf
    expected = measured_logits(loss, student, teacher)
    found = measured_logits(loss, student.float().to(device), teacher.float().to(device))
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-6)


def measured_logits(loss, student, teacher):
    """Return the loss and its gradient, in float64 on a CPU."""
    student = student.requires_grad_()
    labels = torch.tensor([0, 1, -1, 3, 4, 9, -1, 7], device=student.device)
    value, _ = loss.measure(student, teacher, labels)
    return float(value.detach()), torch.autograd.grad(value, student)[0].cpu().double()


@pytest.mark.filterwarnings("ignore::svdistill.errors.SvdistillWarning")
def test_broken_samples_are_set_aside(device):
    """As many as there are on a CPU, and the loss of the others stays."""
    student, teacher = maps(1), maps(2)
    whole = SVDLoss(2, reduction="sum")(
        [one[2:].to(device) for one in student], [one[2:].to(device) for one in teacher]
    )
    student[0][0], teacher[1][1] = float("nan"), 0.0
    sides = [[one.to(device) for one in side] for side in (student, teacher)]
    loss, health = SVDLoss(2, reduction="sum").measure(*sides)
    assert int(health["set_aside"]) == 2
    assert float(loss) == pytest.approx(float(whole), rel=1e-4)
