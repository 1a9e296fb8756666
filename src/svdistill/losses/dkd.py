"""Decoupled knowledge distillation: how sure the teacher is, and how it ranks the other classes, each by itself."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from svdistill.errors import OptionError, ShapeError
from svdistill.losses.logits import divergence, excluded, logits_of
from svdistill.losses.options import check_factors, check_temperature
from svdistill.losses.protocol import LogitLoss


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 2.0,
    temperature: float = 4.0,
) -> Tensor:
    """Compare the probability of the right class, and the probabilities of the others among themselves.

    T² · mean_b (α KL(b_T ‖ b_S) + β KL(q_T ‖ q_S)), where b = (p_y, 1 − p_y) with p = softmax(logits / T) and y the
    label, and q the softmax of logits / T over the classes other than y. With α = 1 and β = 1 − p_T,y it would be the
    loss of soft targets. The mean is over the images that have a label; the others contribute nothing.

    The authors' code subtracts 1000 from the logit of y where this leaves the class out. It also lets the factor of the
    whole loss rise to 1 over the first 20 of 240 epochs; that is no part of this function, but of an objective
    (`svdistill.training.Objective.warm_up`) and of a recipe (``loss.warm_up``, which has it unless told otherwise).

    Args:
        student_logits: (B, classes), floating.
        teacher_logits: (B, classes), floating; taken as constant; −inf excludes a class. A class that the student
            excludes is excluded of the teacher too.
        labels: (B,), integers; below 0 for an image without a label.
        alpha: factor on the part of the right class, ≥ 0.
        beta: factor on the part of the other classes, ≥ 0.
        temperature: T > 0.

    Returns:
        Scalar in nats times T², at least float32; 0 where no image has a label.

    Raises:
        ShapeError: the shapes differ, or there are fewer than three classes, so that there is at most one other and
            the second part is always 0.
        OptionError: a factor is below 0, or the temperature is not positive.

    Source: Zhao, Cui, Song, Qiu, Liang, *Decoupled Knowledge Distillation*, CVPR 2022, section 3.
    """
    student, teacher = logits_of(student_logits, teacher_logits)
    _check_labels(labels, student)
    labels = labels.long()
    _check_options(alpha, beta, temperature)
    right = torch.zeros_like(student, dtype=torch.bool).scatter_(1, labels.clamp_min(0)[:, None], True)
    sides = (student / temperature, teacher / temperature)
    others = [one.masked_fill(right, -torch.inf) for one in sides]
    sure = [torch.cat([_only(one, right), _total(rest)], 1) for one, rest in zip(sides, others, strict=True)]
    apart = alpha * divergence(*sure) + beta * divergence(*others)
    labelled = labels >= 0
    return torch.where(labelled, apart, 0.0).sum() * temperature**2 / labelled.sum().clamp_min(1)


class DKDLoss(nn.Module, LogitLoss):
    """`dkd_loss` with its settings stored; see there. Its goal is the teacher's logits.

    The defaults are those of the authors' code for ResNet-56 → 20 and 110 → 32 on CIFAR-100: α = 1, β = 2, T = 4, to be
    used with a weight of 1 beside the whole main loss. For other pairs β is 6 or, from ResNet-32×4 to 8×4, 8; the
    larger it is, the more it asks for a low learning rate and a warm-up.
    """

    needs_labels: ClassVar[bool] = True

    def __init__(self, alpha: float = 1.0, beta: float = 2.0, temperature: float = 4.0) -> None:
        super().__init__()
        _check_options(alpha, beta, temperature)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, see `dkd_loss`."""
        return dkd_loss(
            student_logits,
            teacher_logits,
            labels,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
        )

    def compare(self, student: Tensor, goal: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Refuse to compare without labels.

        Args:
            student: not looked at.
            goal: not looked at.

        Raises:
            OptionError: always.
        """
        raise OptionError("DKD compares with the labels of the images; give them, to compare_labelled or measure")

    def compare_labelled(self, student: Tensor, goal: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and no figures of its health: logits are always comparable.

        Args:
            student: logits, as in `dkd_loss`.
            goal: what `extract` returned for the same images.
            labels: (B,), of the same images; below 0 for an image without a label.

        Raises:
            ShapeError: the classes or the images are not the same; see `dkd_loss`.
        """
        return self(student, goal, labels), {}

    def extra_repr(self) -> str:
        """Show the settings in the module's representation."""
        return f"alpha={self.alpha}, beta={self.beta}, temperature={self.temperature}"


def _only(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return the one logit of each image that is chosen, (B, 1)."""
    return logits.masked_fill(~chosen, 0.0).sum(1, keepdim=True)


def _total(logits: Tensor) -> Tensor:
    """Return the logarithm of Σ exp(logits) of each image, (B, 1); −inf, without gradient, where all are excluded."""
    none = excluded(logits).all(1, keepdim=True)
    return logits.masked_fill(none, 0.0).logsumexp(1, keepdim=True).masked_fill(none, -torch.inf)


def _check_labels(labels: Tensor, logits: Tensor) -> None:
    if not isinstance(labels, Tensor):
        raise ShapeError(f"labels must be a tensor of whole numbers, got {type(labels).__name__}")
    if labels.shape != logits.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ShapeError(
            f"labels must be whole numbers, one for each of {len(logits)} images, got {tuple(labels.shape)} "
            f"{labels.dtype}"
        )
    # On a GPU a look at the labels would keep the host waiting; there torch itself refuses.
    looks = labels.device.type == "cpu" and len(labels) and not torch.compiler.is_compiling()
    if looks and (highest := int(labels.max())) >= logits.shape[1]:
        raise ShapeError(
            f"labels must be below {logits.shape[1]}, the number of classes, or below 0 for an image without a label, "
            f"got {highest}"
        )
    if logits.shape[1] < 3:
        raise ShapeError(
            f"DKD needs at least 3 classes, got {logits.shape[1]}: it compares those beside the right one with each "
            "other; take soft targets"
        )


def _check_options(alpha: float, beta: float, temperature: float) -> None:
    check_factors(alpha=alpha, beta=beta)
    check_temperature(temperature)
