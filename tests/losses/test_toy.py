"""What CONTRIBUTING says of a new loss: a class that fulfils the contract is trained with, live and stored."""

import copy

import pytest
import torch
from torch import nn

from svdistill import Distiller, gradients
from svdistill.losses.protocol import TransferLoss
from svdistill.teacher_cache import TeacherCache


class ChannelMeans(TransferLoss):
    """Compares what each channel is on average, at every tap."""

    reads = "maps"
    equal_widths = True

    def extract(self, teacher, student):
        """Return the teacher's means, (B, ΣC)."""
        return torch.cat([one.detach().mean((2, 3)) for one in teacher], 1)

    def compare(self, student, goal):
        """Return the mean squared difference, and how large the goal is."""
        found = torch.cat([one.mean((2, 3)) for one in student], 1)
        return (found - goal).square().mean(), {"goal": goal.mean()}

    def pack(self, goal):
        """Name the means."""
        return {"means": goal}

    def unpack(self, stored):
        """Return the means."""
        return stored["means"]


IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TAPS = ("0", "2")


def network(width, seed):
    """Two convolutions and a classifier."""
    torch.manual_seed(seed)
    body = [nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


def live(loss):
    """A narrow student with its teacher, ready to learn: adapters are made."""
    whole = Distiller(network(4, 0), network(6, 1), loss=loss, student_taps=TAPS, teacher_taps=TAPS)
    whole.prepare(IMAGES)
    return whole


def learn(whole, steps=5):
    """Train for some steps on random batches, and return all losses."""
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.1)
    parameters, losses = list(whole.parameters()), []
    choice = torch.Generator().manual_seed(2)
    for step in range(steps):
        indices = torch.randperm(len(IMAGES), generator=choice)[:6]
        output = whole(IMAGES[indices], indices=indices, views=torch.zeros(6, dtype=torch.int64))
        main = nn.functional.cross_entropy(output.logits, indices % 3)
        both = [
            torch.autograd.grad(one, parameters, retain_graph=True, allow_unused=True)
            for one in (main, output.transfer)
        ]
        for parameter, gradient in zip(parameters, gradients.combine(*both, epoch=step), strict=True):
            parameter.grad = gradient
        optimizer.step()
        losses.append(float(output.transfer.detach()))
    return losses


@pytest.mark.parametrize("precise", [True, False])
def test_a_toy_loss_is_trained_with_live_and_stored(precise):
    """Stored in float32 every weight is the same to the bit; in half precision all differ by its rounding alone."""
    loss = ChannelMeans()
    running = live(loss)
    known = running.extract(IMAGES)
    assert known["transfer"]["means"].shape == (12, 12)
    cache = TeacherCache.in_memory(
        known, tap_shapes=running.teacher_shapes(IMAGES), precise={"transfer": {"means"} if precise else set()}
    )
    stored = Distiller(copy.deepcopy(running.student), cache, loss=loss, student_taps=TAPS)
    stored.prepare(IMAGES)
    stored.load_state_dict(running.state_dict())
    expected, found = learn(running), learn(stored)
    assert expected[-1] < expected[0]
    assert stored.teacher is None
    tolerance = {"rtol": 0, "atol": 0} if precise else {"rtol": 0, "atol": 8 * torch.finfo(torch.float16).eps}
    for one, other in zip(running.parameters(), stored.parameters(), strict=True):
        torch.testing.assert_close(other, one, **tolerance)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), **tolerance)
    assert precise == (found == expected)


def test_what_a_loss_need_not_say():
    """The rest of the contract has defaults."""
    loss = ChannelMeans()
    said = (
        loss.sums,
        loss.left_out([], []),
        loss.least_taps,
        loss.least_images,
        loss.storable,
        loss.precise,
        loss.extracts,
    )
    assert said == (False, (), 1, 1, True, frozenset(), {})
    student, teacher = [torch.ones(2, 3, 4, 4)], [torch.zeros(2, 3, 2, 2)]
    assert loss.measure(student, teacher)[0] == 1


def test_a_loss_that_lacks_a_half_cannot_be_made():
    """The contract says so at once, not the first step of training."""

    class Half(TransferLoss):
        reads = "maps"

    with pytest.raises(TypeError, match="abstract method"):
        Half()
