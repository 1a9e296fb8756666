"""Tests of the distiller: what runs when, what is compared, and that the teacher stays a guest."""

import copy

import pytest
import torch
from torch import nn

import svdistill
from svdistill.distiller import Distiller
from svdistill.errors import RecipeError, ShapeError


class Recorder(nn.Module):
    """A transfer loss that keeps what it was given; the distance of the first entries."""

    def __init__(self, reads):
        super().__init__()
        self.reads = reads
        self.given = None

    def measure(self, student, teacher):
        """Return a loss and one figure."""
        self.given = (student, teacher)
        pairs = [(student, teacher)] if self.reads == "logits" else zip(student, teacher, strict=True)
        return sum((s - t).square().mean() for s, t in pairs), {"set_aside": torch.tensor(0)}


def network(width=4):
    """Two blocks with batch norm and dropout, and a classifier."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU()),
        nn.Sequential(nn.Conv2d(width, width, 3), nn.ReLU()),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(width * 16, 3),
    )


TAPS = {"student_taps": ("0", "1"), "teacher_taps": ("0", "1")}
IMAGES = torch.linspace(0, 1, 2 * 64).reshape(2, 1, 8, 8)


def distiller(reads="maps", **options):
    """A student with its teacher."""
    torch.manual_seed(0)
    return Distiller(network(), network(), loss=Recorder(reads), **{**TAPS, **options})


def test_it_is_in_the_package():
    """The public names are those of the package."""
    assert svdistill.Distiller is Distiller


def test_a_student_alone_gives_logits_and_nothing_else():
    """No teacher: no transfer loss, no health."""
    output = Distiller(network())(IMAGES)
    assert output.logits.shape == (2, 3)
    assert output.transfer is None
    assert output.health == {}


def test_in_train_mode_the_maps_are_compared():
    """The loss gets the outputs of the taps, in order, the student's with a graph and the teacher's without."""
    module = distiller(student_taps=("1", "0"), teacher_taps=("1", "0"))
    output = module(IMAGES)
    student, teacher = module.losses["transfer"].given
    assert [m.shape for m in student] == [m.shape for m in teacher] == [(2, 4, 4, 4), (2, 4, 6, 6)]
    assert all(m.requires_grad for m in student)
    assert not any(m.requires_grad for m in teacher)
    assert output.transfer.requires_grad
    assert output.health.keys() == {"set_aside"}


def test_a_loss_that_reads_logits_gets_logits():
    """And taps are not looked at, not even wrong ones."""
    module = distiller("logits", student_taps=(), teacher_taps=("nowhere",))
    output = module(IMAGES)
    assert module.losses["transfer"].given[0] is output.logits
    assert torch.equal(module.losses["transfer"].given[1], module.teacher(IMAGES))


def test_in_eval_mode_only_the_student_runs():
    """What comes out is what the student alone gives."""
    module = distiller().eval()
    output = module(IMAGES)
    assert output.transfer is None
    assert module.losses["transfer"].given is None
    assert torch.equal(output.logits, module.student(IMAGES))


def test_the_teacher_is_in_no_state_no_parameters_no_modules():
    """Only the student is saved and trained."""
    module = distiller()
    teachers = {id(p) for p in module.teacher.parameters()}
    assert not teachers & {id(p) for p in module.parameters()}
    assert module.teacher not in set(module.modules())
    assert {name.partition(".")[0] for name in module.state_dict()} == {"student"}


def test_the_teacher_stays_in_eval_mode_and_does_not_change():
    """Its batch norm neither uses nor updates batch statistics, also where somebody put it in train mode."""
    module = distiller()
    before = copy.deepcopy(module.teacher.state_dict())
    module.train()
    assert not any(m.training for m in module.teacher.modules())
    module.teacher.train()
    module(IMAGES).transfer.backward()
    assert not any(m.training for m in module.teacher.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.teacher.state_dict().items())
    assert all(p.grad is None for p in module.teacher.parameters())
    assert all(p.grad is not None for p in module.student[0].parameters())


def test_the_teacher_moves_along():
    """Casting and moving reach both networks."""
    module = distiller().to(torch.float64)
    assert module.teacher[0][0].weight.dtype == torch.float64
    assert module(IMAGES.double()).transfer.dtype == torch.float64
    assert distiller().to("meta").teacher[0][0].weight.device.type == "meta"


def test_the_student_has_no_hooks_left():
    """Also after an error in the middle of a pass; a deep copy of the whole works on its own."""
    module = distiller()
    module(IMAGES)
    with pytest.raises(RuntimeError):
        module(IMAGES[:, :, :4])
    assert not any(m._forward_hooks for m in (*module.student.modules(), *module.teacher.modules()))
    module.losses["transfer"].given = None
    twin = copy.deepcopy(module)
    twin(IMAGES)
    assert twin.teacher is not module.teacher


def test_errors_come_when_it_is_made():
    """Teacher without loss and the reverse, wrong taps, a loss that reads something else."""
    with pytest.raises(RecipeError, match="a teacher came without a loss"):
        Distiller(network(), network())
    with pytest.raises(RecipeError, match="a loss came without a teacher"):
        Distiller(network(), loss=Recorder("maps"))
    with pytest.raises(RecipeError, match=r"has no submodule '0\.9'; did you mean"):
        distiller(student_taps=("0.9", "1"))
    with pytest.raises(RecipeError, match="has no submodule 'x'"):
        distiller(teacher_taps=("x", "1"))
    with pytest.raises(RecipeError, match="no taps"):
        distiller(student_taps=())
    with pytest.raises(ShapeError, match="2 student taps came with 1 teacher taps"):
        distiller(teacher_taps=("0",))
    with pytest.raises(RecipeError, match=r"Recorder.reads is 'pixels', expected one of maps, logits"):
        distiller("pixels")
