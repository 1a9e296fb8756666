"""DKD against its published formula in plain loops, by hand, and on images without labels."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from svdistill.errors import OptionError, ShapeError
from svdistill.losses import DKDLoss, dkd_loss, soft_target_loss


def softmax(logits: list[float]) -> list[float]:
    """Return probabilities."""
    whole = math.fsum(map(math.exp, logits))
    return [math.exp(one) / whole for one in logits]


def kl(p: list[float], q: list[float]) -> float:
    """Return the divergence of q from p."""
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def published(
    student: Tensor, teacher: Tensor, labels: list[int], alpha: float, beta: float, temperature: float
) -> float:
    """Zhao et al.: the binary part and the part of the other classes, mean over the images with a label."""
    parts = []
    for s, t, label in zip(student.double().tolist(), teacher.double().tolist(), labels, strict=True):
        if label < 0:
            continue
        sides = [[one / temperature for one in logits] for logits in (t, s)]
        binary = [[p[label], math.fsum(p[:label] + p[label + 1 :])] for p in map(softmax, sides)]
        others = [softmax(one[:label] + one[label + 1 :]) for one in sides]
        parts.append(alpha * kl(*binary) + beta * kl(*others))
    return temperature**2 * math.fsum(parts) / len(parts)


def pair(batch: int = 6, classes: int = 5, *, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Return logits of student and teacher in float64."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(batch, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return scale * student, scale * teacher


LABELS = torch.tensor([4, 0, -1, 2, 2, -1])


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1.0, 8.0, 4.0), (0.5, 0.0, 1.0), (0.0, 2.0, 2.0)])
def test_published_formula(alpha, beta, temperature):
    """To rounding, with images that have no label among the others."""
    options = {"alpha": alpha, "beta": beta, "temperature": temperature}
    student, teacher = pair()
    expected = published(student, teacher, LABELS.tolist(), **options)
    assert float(dkd_loss(student, teacher, LABELS, **options)) == pytest.approx(expected, rel=1e-12)
    found = dkd_loss(student.float(), teacher.float(), LABELS, **options)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_by_hand():
    """p_T = (1/2, 1/4, 1/4), p_S = (1/4, 1/4, 1/2), label 0: KL(½, ½ ‖ ¼, ¾) and KL(½, ½ ‖ ⅓, ⅔)."""
    teacher, student = torch.tensor([[2.0, 1.0, 1.0]]).log(), torch.tensor([[1.0, 1.0, 2.0]]).log()
    right = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    others = 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)
    found = dkd_loss(student, teacher, torch.tensor([0]), alpha=3, beta=5, temperature=1)
    assert float(found) == pytest.approx(3 * right + 5 * others, rel=1e-6)


def test_is_soft_targets_taken_apart():
    """With α = 1 and β = 1 − p_T,y of the one image it is their loss."""
    student, teacher = pair(1)
    beta = 1 - float((teacher / 4).softmax(1)[0, 3])
    torch.testing.assert_close(
        dkd_loss(student, teacher, torch.tensor([3]), beta=beta), soft_target_loss(student, teacher)
    )


def test_is_the_authors_code():
    """Which subtracts 1000 from the right logit, and takes logarithms of probabilities."""
    student, teacher = (one[LABELS >= 0] for one in pair())
    labels = LABELS[LABELS >= 0]
    mask = functional.one_hot(labels, 5)
    binary = [torch.stack([(p * mask).sum(1), (p * (1 - mask)).sum(1)], 1) for p in
              ((student / 4).softmax(1), (teacher / 4).softmax(1))]  # fmt: skip
    first = functional.kl_div(binary[0].log(), binary[1], reduction="batchmean") * 16
    second = functional.kl_div((student / 4 - 1000 * mask).log_softmax(1), (teacher / 4 - 1000 * mask).softmax(1),
                               reduction="batchmean") * 16  # fmt: skip
    torch.testing.assert_close(dkd_loss(student, teacher, labels, beta=8), first + 8 * second)


def test_gradient_agrees_with_finite_differences():
    """Also at the teacher's own logits, where it is 0."""
    student, teacher = pair(4)
    labels = torch.tensor([0, -1, 4, 1])
    assert torch.autograd.gradcheck(lambda s: dkd_loss(s, teacher, labels), student.requires_grad_(), fast_mode=False)
    same = teacher.clone().requires_grad_()
    loss = dkd_loss(same, teacher, labels)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-14)
    (gradient,) = torch.autograd.grad(loss, same)
    assert gradient.abs().max() < 1e-14


def test_images_without_labels_change_nothing():
    """Neither value nor gradient, and theirs is 0; with none at all the loss is 0."""
    student, teacher = pair()
    student.requires_grad_()
    few = LABELS >= 0
    (whole,) = torch.autograd.grad(dkd_loss(student, teacher, LABELS), student)
    (part,) = torch.autograd.grad(dkd_loss(student[few], teacher[few], LABELS[few]), student)
    torch.testing.assert_close(whole, part, rtol=1e-14, atol=0)
    assert (whole[~few] == 0).all()
    for without in (
        dkd_loss(student, teacher, -torch.ones_like(LABELS)),
        dkd_loss(student[:0], teacher[:0], LABELS[:0]),
    ):
        assert float(without.detach()) == 0
        assert (torch.autograd.grad(without, student)[0] == 0).all()


INF = torch.inf


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]),  # constant
        ([0.0, 0.0, 0.0, 0.0], [90.0, -90.0, 0.0, 5.0]),
        ([1e4, -1e4, 0.0, 0.0], [-1e4, 1e4, 0.0, 0.0]),  # each certain, of another class
        ([1.0, 2.0, 0.0, 3.0], [1.0, -INF, 2.0, 0.0]),
        ([1.0, -INF, 0.0, 3.0], [1.0, -INF, 2.0, 0.0]),  # excluded by both
        ([1.0, -INF, 0.0, 3.0], [1.0, 3.0, 2.0, 0.0]),  # by the student alone
        ([1.0, 0.0, 0.0, 3.0], [-INF, 3.0, 2.0, 0.0]),  # the right class
        ([-INF, 0.0, 0.0, 3.0], [1.0, 3.0, 2.0, 0.0]),
        ([1.0, 0.0, 0.0, 3.0], [1.0, -INF, -INF, -INF]),  # all but the right one
        ([1.0, -INF, -INF, -INF], [1.0, 3.0, 2.0, 0.0]),
        ([1.0, -INF, 2.0, -INF], [-INF, 3.0, -INF, 0.0]),  # no class is left
    ],
)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_degenerate_logits(student, teacher, kind):
    """Loss and gradient are finite, and what is excluded gets no gradient."""
    own = torch.tensor([student], dtype=kind).requires_grad_()
    loss = dkd_loss(own, torch.tensor([teacher], dtype=kind), torch.tensor([0]))
    (gradient,) = torch.autograd.grad(loss, own)
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    assert loss >= -1e-5
    assert gradient.isfinite().all()
    assert (gradient[own == -INF] == 0).all()


def test_classes_excluded_by_both_do_not_count():
    """The loss is that of the other classes."""
    student, teacher = pair(3, 4)
    labels = torch.tensor([0, 3, 1])
    wide = [torch.cat([one, torch.full((3, 2), -INF)], 1) for one in (student, teacher)]
    torch.testing.assert_close(dkd_loss(*wide, labels), dkd_loss(student, teacher, labels))


def test_broken_logits_are_not_hidden():
    """NaN of a labelled image reaches the loss."""
    student, teacher = pair(2)
    student[1, 0] = torch.nan
    assert dkd_loss(student, teacher, torch.tensor([1, 1])).isnan()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_whole_numbers(dtype):
    """They need not be int64; of those without a sign every image has a label."""
    student, teacher = pair()
    labels = LABELS if dtype.is_signed else LABELS.clamp_min(0)
    assert torch.equal(dkd_loss(student, teacher, labels.to(dtype)), dkd_loss(student, teacher, labels))


def test_module_is_the_function():
    """Through `measure` and `compare_labelled`; without labels it refuses."""
    student, teacher = pair()
    loss = DKDLoss(0.5, 2.0, 3.0)
    expected = dkd_loss(student, teacher, LABELS, alpha=0.5, beta=2.0, temperature=3.0)
    assert torch.equal(loss(student, teacher, LABELS), expected)
    assert torch.equal(loss.measure(student, teacher, LABELS)[0], expected)
    assert loss.needs_labels
    assert repr(loss) == "DKDLoss(alpha=0.5, beta=2.0, temperature=3.0)"
    with pytest.raises(OptionError, match="labels"):
        loss.measure(student, teacher)


def test_bad_input():
    """One line each."""
    student, teacher = pair(2)
    for classes in (1, 2):
        with pytest.raises(ShapeError, match=rf"at least 3 classes, got {classes}: .*take soft targets"):
            dkd_loss(student[:, :classes], teacher[:, :classes], torch.tensor([0, 0]))
    with pytest.raises(ShapeError, match="same classes"):
        dkd_loss(student, teacher[:, :4], torch.tensor([0, 0]))
    for labels in (torch.tensor([0]), torch.tensor([0.0, 1.0]), torch.eye(5)[:2]):
        with pytest.raises(ShapeError, match=r"labels must be whole numbers, one for each of 2 images, got"):
            dkd_loss(student, teacher, labels)
    with pytest.raises(ShapeError, match=r"labels must be below 5, .* got 255"):
        dkd_loss(student, teacher, torch.tensor([1, 255]))
    with pytest.raises(ShapeError, match="labels must be a tensor of whole numbers, got list"):
        dkd_loss(student, teacher, [1, 2])
    for options in ({"alpha": -1.0}, {"alpha": "1"}, {"beta": math.nan}, {"temperature": 0.0}, {"temperature": "4"}):
        with pytest.raises(OptionError, match=next(iter(options))):
            DKDLoss(**options)
