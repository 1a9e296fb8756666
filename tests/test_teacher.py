"""Tests of a teacher behind its contract: what is stored of one serves in place of one that runs."""

import copy

import pytest
import torch

from svdistill.distiller import Distiller
from svdistill.errors import OptionError, ShapeError
from svdistill.losses import (
    AttentionLoss,
    DISTLoss,
    DKDLoss,
    FSPLoss,
    PKTLoss,
    RelationalLoss,
    SimilarityLoss,
    SoftTargetLoss,
    SVDLoss,
)
from svdistill.teacher_cache import TeacherCache
from tests.distillers import IMAGES, TAPS, distiller, network


class Notebook(TeacherCache):
    """What a teacher said to some images, one view of each, as it was said; it notes what it is asked."""

    def __init__(self, known, tap_shapes=()):
        arrays = {loss: {name: one[None].numpy() for name, one in parts.items()} for loss, parts in known.items()}
        super().__init__(arrays, tap_shapes=tap_shapes)
        self.asked = []

    def read(self, names, indices, views, *, device):
        """Return the rows of these images."""
        self.asked.append((tuple(names), indices.tolist(), views.tolist(), device.type))
        return super().read(names, indices, views, device=device)


STORABLE = {
    "svd": lambda: SVDLoss(2),
    "svd in the teacher's basis": lambda: SVDLoss(2, basis="teacher"),
    "attention": AttentionLoss,
    "relational": RelationalLoss,
    "similarity": SimilarityLoss,
    "pkt": PKTLoss,
    "soft-target": SoftTargetLoss,
    "dkd": DKDLoss,
    "dist": DISTLoss,
    "a sum": lambda: {"svd": SVDLoss(), "soft-target": SoftTargetLoss()},
}


@pytest.mark.parametrize("width", [4, 6])
@pytest.mark.parametrize("name", STORABLE)
def test_a_stored_teacher_takes_the_place_of_one_that_runs(name, width):
    """Losses, health and gradients are those of the teacher that ran, adapters included; no teacher is there."""
    loss = STORABLE[name]()
    torch.manual_seed(0)
    three = torch.rand(3, 1, 8, 8)  # of two, RKD would compare one distance with itself
    live = Distiller(network(), network(width), loss=loss, **TAPS)
    live.prepare(three)
    live.student[3].p = 0.0  # dropout would draw anew
    notes = Notebook(live.extract(three), live.teacher_shapes(three))
    stored = Distiller(copy.deepcopy(live.student), notes, loss=copy.deepcopy(loss), student_taps=("0", "1"))
    assert stored.teacher is None
    assert stored.prepare(three) == live.adapted
    stored.load_state_dict(live.state_dict())
    order = torch.tensor([1, 2, 0])
    images = three[order]
    labels = torch.tensor([2, -1, 0])
    expected = live(images, labels=labels)
    found = stored(images, indices=order, views=torch.zeros(3, dtype=torch.int64), labels=labels)
    assert notes.asked == [(tuple(live._losses), [1, 2, 0], [0, 0, 0], "cpu")]
    assert found.terms.keys() == expected.terms.keys()
    assert found.transfer.item() == pytest.approx(expected.transfer.item(), rel=1e-5)
    assert found.transfer.item() > 0
    for key, value in expected.health.items():
        assert float(found.health[key]) == pytest.approx(float(value), rel=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(found.transfer, stored.student[0][0].weight),
        torch.autograd.grad(expected.transfer, live.student[0][0].weight),
        rtol=1e-4,
        atol=1e-6,
    )


def test_only_what_is_measured_is_read():
    """A loss that takes no part is not read, and without any nothing is."""
    live = distiller(loss={"svd": SVDLoss(), "soft-target": SoftTargetLoss()})
    notes = Notebook(live.extract(IMAGES), live.teacher_shapes(IMAGES))
    stored = Distiller(network(), notes, loss={"svd": SVDLoss(), "soft-target": SoftTargetLoss()}, **TAPS)
    which = {"indices": torch.arange(2), "views": torch.zeros(2, dtype=torch.int64)}
    assert stored(IMAGES, only=["soft-target"], **which).terms.keys() == {"soft-target"}
    assert stored(IMAGES, only=[], **which).transfer is None
    assert stored.eval()(IMAGES).transfer is None
    assert [names for names, *_ in notes.asked] == [("soft-target",)]


def test_extracting_leaves_the_student_as_it_was():
    """Neither its mode nor its batch statistics change."""
    module = distiller(loss=SVDLoss()).train()
    before = copy.deepcopy(module.student.state_dict())
    known = module.extract(IMAGES)["transfer"]
    assert not any(one.requires_grad for one in known.values())
    assert all(part.training for part in module.student.modules())
    assert all(torch.equal(value, before[key]) for key, value in module.student.state_dict().items())


def test_a_stored_teacher_that_does_not_fit_is_refused():
    """A loss that cannot be stored, one that was not, other taps, or nobody saying which images these are."""
    notes = Notebook(distiller(loss=SVDLoss()).extract(IMAGES), [(4, 6, 6), (4, 4, 4)])
    with pytest.raises(OptionError, match=r"'soft' .* not stored, only .* by transfer"):
        Distiller(network(), notes, loss={"soft": SoftTargetLoss()})
    with pytest.raises(OptionError, match="needs too much of the teacher to be stored"):
        Distiller(network(), notes, loss=FSPLoss(), **TAPS)
    with pytest.raises(ShapeError, match="1 student taps came with 2 teacher taps"):
        Distiller(network(), notes, loss=SVDLoss(), student_taps=("0",))
    module = Distiller(network(), notes, loss=SVDLoss(), **TAPS)
    with pytest.raises(OptionError, match="give indices= and views= of 2 images"):
        module(IMAGES)
    with pytest.raises(ShapeError, match="2 images came with 1 indices and 1 views"):
        module(IMAGES, indices=torch.zeros(1, dtype=torch.int64), views=torch.zeros(1, dtype=torch.int64))
    with pytest.raises(OptionError, match="no teacher to run"):
        module.extract(IMAGES)
    with pytest.raises(OptionError, match="too much"):
        distiller(loss=FSPLoss()).extract(IMAGES)


@pytest.mark.parametrize("basis", ["own", "teacher"])
def test_compiled_losses_give_the_same(basis):
    """Loss and gradient of the compiled KD-SVD, with a teacher that runs and with a stored one, differ by rounding."""
    torch.manual_seed(0)
    module = Distiller(network(), network(), loss=SVDLoss(basis=basis), **TAPS)
    module.student[3].p = 0.0
    notes = Notebook(module.extract(IMAGES), module.teacher_shapes(IMAGES))
    stored = Distiller(module.student, notes, loss=SVDLoss(basis=basis), student_taps=("0", "1"))
    weight = module.student[0][0].weight

    def results():
        where = torch.arange(len(IMAGES))
        for output in (module(IMAGES), stored(IMAGES, indices=where, views=torch.zeros_like(where))):
            yield output.transfer.detach(), *torch.autograd.grad(output.transfer, weight)

    plain = list(results())
    for one in (module, stored):
        one.compile_losses(backend="aot_eager")
    for (loss, gradient), (expected, goal) in zip(results(), plain, strict=True):
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient, goal, rtol=1e-4, atol=1e-6)
