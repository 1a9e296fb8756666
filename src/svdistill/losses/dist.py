"""DIST: the student's probabilities need only go along with the teacher's, over the classes and over the images."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from svdistill.losses.logits import CONSTANT, excluded, logits_of
from svdistill.losses.options import check_factors, check_temperature
from svdistill.losses.protocol import LogitLoss

# As published: what is tiny in both networks, such as classes of which neither thinks, hardly correlates.
EPSILON = 1e-8


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 2.0,
    gamma: float = 2.0,
    temperature: float = 4.0,
) -> Tensor:
    """One minus the correlation of student and teacher, over the classes of an image and over the images of a class.

    T² · (β mean_b (1 − ρ(p_S[b, :], p_T[b, :])) + γ mean_c (1 − ρ(p_S[:, c], p_T[:, c]))), p = softmax(logits / T), ρ
    Pearson's correlation ⟨a − ā, b − b̄⟩ / (‖a − ā‖ ‖b − b̄‖ + 1e−8).

    Where one of the two is constant, for instance over a batch of one image, ρ is 0 and has no gradient. With two
    classes ρ over the classes is ±1, so that only the images teach; with two images the reverse.

    Args:
        student_logits: (B, classes), floating.
        teacher_logits: (B, classes), floating; taken as constant; −inf excludes a class, which is then of
            probability 0. A class that the student excludes of an image is left out of both, as if there were none.
        beta: factor on the part over the classes, ≥ 0.
        gamma: factor on the part over the images, ≥ 0.
        temperature: T > 0.

    Returns:
        Scalar, at least float32; 0 for an empty batch.

    Raises:
        ShapeError: the shapes differ.
        OptionError: a factor is below 0, or the temperature is not positive.

    Source: Huang, You, Wang, Qian, Xu, *Knowledge Distillation from A Stronger Teacher*, NeurIPS 2022, section 3, and
    the authors' code, which has the 1e−8 and, in its later form for CIFAR-100, the temperature.
    """
    student, teacher = logits_of(student_logits, teacher_logits)
    _check_options(beta, gamma, temperature)
    known = ~excluded(student)
    nothing = ~known.any(1, keepdim=True) | excluded(teacher).all(1, keepdim=True)
    known = known & ~nothing
    student, teacher = (
        (one.masked_fill(nothing, 0.0) / temperature).softmax(1).masked_fill(~known, 0.0) for one in (student, teacher)
    )
    over_classes = _apart(student, teacher, known)
    over_images = _apart(student.mT, teacher.mT, known.mT)
    return (beta * over_classes + gamma * over_images) * temperature**2


class DISTLoss(nn.Module, LogitLoss):
    """`dist_loss` with its settings stored; see there. Its goal is the teacher's logits.

    The defaults are those of the paper for CIFAR-100, β = γ = 2 and T = 4, to be used with a weight of 1 beside the
    whole main loss; for ImageNet T = 1.
    """

    least_images: ClassVar[int] = 3

    def __init__(self, beta: float = 2.0, gamma: float = 2.0, temperature: float = 4.0) -> None:
        super().__init__()
        _check_options(beta, gamma, temperature)
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss, see `dist_loss`."""
        return dist_loss(student_logits, teacher_logits, beta=self.beta, gamma=self.gamma, temperature=self.temperature)

    def compare(self, student: Tensor, goal: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and no figures of its health: logits are always comparable.

        Args:
            student: logits, as in `dist_loss`.
            goal: what `extract` returned for the same images.

        Raises:
            ShapeError: the classes or the images are not the same.
        """
        return self(student, goal), {}

    def extra_repr(self) -> str:
        """Show the settings in the module's representation."""
        return f"beta={self.beta}, gamma={self.gamma}, temperature={self.temperature}"


def _apart(student: Tensor, teacher: Tensor, known: Tensor) -> Tensor:
    """Return 1 − Pearson's correlation of each row of one with the same row of the other, averaged over the rows.

    Args:
        student: (rows, columns), 0 where it is not known.
        teacher: (rows, columns), 0 where it is not known.
        known: (rows, columns), what takes part. A row without any does not count.
    """
    count = known.sum(1, keepdim=True)
    sides = [(one - one.sum(1, keepdim=True) / count.clamp_min(1)) * known for one in (student, teacher)]
    squares = [one.square().sum(1) for one in sides]
    # Values whose deviations are rounding correlate with nothing.
    constant = torch.zeros_like(squares[0], dtype=torch.bool)
    for square, values in zip(squares, (student, teacher), strict=True):
        constant = constant | (square.detach() <= CONSTANT**2 * values.detach().square().sum(1))
    # The root of a zero has no derivative, so constant rows take no part in it.
    first, second = (torch.where(constant, 1.0, square).sqrt() for square in squares)
    correlation = torch.where(constant, 0.0, (sides[0] * sides[1]).sum(1) / (first * second + EPSILON))
    counts = count[:, 0] > 0
    return ((1 - correlation) * counts).sum() / counts.sum().clamp_min(1)


def _check_options(beta: float, gamma: float, temperature: float) -> None:
    check_factors(beta=beta, gamma=gamma)
    check_temperature(temperature)
