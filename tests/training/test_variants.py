"""Tests of the step in other layouts, precisions and ways to save memory: rounding may differ, and nothing else."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from svdistill import losses, nets, training
from svdistill.distiller import Distiller
from svdistill.training import Objective

LOSSES = {
    "svd": losses.SVDLoss,
    "svd k=2": lambda: losses.SVDLoss(2),
    "teacher's basis": lambda: losses.SVDLoss(basis="teacher"),
    "soft-target": losses.SoftTargetLoss,
    "fitnet": losses.FitNetLoss,
    "fsp": losses.FSPLoss,
    "attention": losses.AttentionLoss,
    "relational": losses.RelationalLoss,
    "dist": losses.DISTLoss,
    "similarity": losses.SimilarityLoss,
    "pkt": losses.PKTLoss,
}
TAPS = ("block1", "block2", "block3")


def made(loss, *, teacher_width=0.1, name="vgg-bn-student"):
    """Return a small distiller in train mode; with another width of the teacher there are adapters."""
    torch.manual_seed(0)
    student = nets.create(name, num_classes=5, width=0.1)
    teacher = nets.create("vgg-bn-teacher", num_classes=5, width=teacher_width)
    distiller = Distiller(student, teacher, loss=loss, student_taps=TAPS, teacher_taps=TAPS)
    distiller.prepare(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3)))
    return distiller.train()


def trained(distiller, *, precision="32-true", steps=3, objective=None):
    """Do some steps and return the whole state with the results of the last."""
    engine = training.launch(device="cpu", precision=precision, seed=0)
    optimizer = training.make_optimizer("sgd", distiller, lr=0.02, weight_decay=1e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images = torch.randn(8, 3, 16, 16, generator=generator)
        labels = torch.randint(0, 5, (8,), generator=generator)
        result = training.step(
            engine, distiller, optimizer, images, labels, epoch=0, objective=objective or Objective()
        )
    return {name: value.clone() for name, value in distiller.state_dict().items()}, result


def agree(found, expected, *, rtol):
    """Compare states by the norm of each difference."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = (found[name].double() - value.double()).norm()
        assert difference <= rtol * value.double().norm() + 1e-6, name


@pytest.mark.parametrize("teacher_width", [0.1, 0.15])
@pytest.mark.parametrize("name", LOSSES)
def test_channels_last_gives_the_same_with_every_loss(name, teacher_width):
    """Also with adapters; the maps do lie channels-last, in the student and the teacher."""
    plain, other = (made(LOSSES[name](), teacher_width=teacher_width) for _ in range(2))
    other.to(memory_format=torch.channels_last)
    seen = []
    for network in (other.student, other.teacher):
        network.block2.register_forward_hook(
            lambda _, __, output: seen.append(output.is_contiguous(memory_format=torch.channels_last))
        )
    (expected, result), (found, again) = trained(plain), trained(other)
    agree(found, expected, rtol=1e-3)
    torch.testing.assert_close(again.transfer, result.transfer, rtol=1e-3, atol=1e-5)
    assert seen == [True] * 6


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_islands_of_float32_in_mixed_precision(name, layout):
    """They see maps of bfloat16, compute in float32, and give what they give for the same maps in float32."""
    distiller = made(LOSSES[name]()).to(memory_format=layout)
    (loss,) = distiller._losses.values()
    seen = []
    extract, compare = loss.extract, loss.compare

    def look_at_teacher(teacher, student):
        seen.append(teacher)
        return extract(teacher, student)

    def look_at_student(student, goal):
        seen.append(student)
        return compare(student, goal)

    loss.extract, loss.compare = look_at_teacher, look_at_student
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with training.launch(device="cpu", precision="bf16-mixed", seed=0).autocast():
        found = distiller(images).transfer
    teacher, student = seen
    first = student if isinstance(student, torch.Tensor) else student[0]
    assert first.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    maps = isinstance(student, list)
    wide = [[x.detach().float() for x in y] if maps else y.detach().float() for y in (student, teacher)]
    torch.testing.assert_close(found, loss.measure(*wide)[0], rtol=1e-4, atol=1e-6)
    gradients = torch.autograd.grad(found, list(distiller.parameters()), allow_unused=True)
    assert all(g is None or (g.dtype == torch.float32 and g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_accuracy_is_measured_the_same(stand_in, precision, layout):
    """To the rounding of the precision."""
    images = stand_in.image_set(30)
    mean, std = torch.tensor([0.5]), torch.tensor([0.25])
    torch.manual_seed(0)
    model = stand_in.network()
    options = {"mean": mean, "std": std}
    expected = training.evaluate(None, model, images, **options)
    engine = training.launch(device="cpu", precision=precision, seed=0)
    found = training.evaluate(engine, model.to(memory_format=layout), images, **options)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5 if precision == "32-true" else 2e-2)
    assert found["accuracy"] == pytest.approx(expected["accuracy"], abs=0 if precision == "32-true" else 0.1)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_recomputed_activations_give_the_same_weights(layout, precision):
    """Bit for bit on a CPU: statistics of batch norm, dropout, both backward passes, KD-SVD beside soft targets."""
    states = []
    for recompute in (False, True):
        distiller = made({"svd": losses.SVDLoss(), "soft": losses.SoftTargetLoss()}, name="vgg-bn-teacher")
        distiller.to(memory_format=layout)
        objective = Objective(weights={"svd": 2.0, "soft": 0.5}, beside={"soft"})
        with nets.recompute_activations(distiller.student) if recompute else nullcontext():
            torch.manual_seed(7)
            states.append(trained(distiller, precision=precision, objective=objective)[0])
    assert any(isinstance(m, nn.Dropout) for m in distiller.student.modules())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
