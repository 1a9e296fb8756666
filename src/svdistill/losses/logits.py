"""Logits of two networks: checked, in one type, standardized, and how far their probabilities are apart."""

import torch
from torch import Tensor

from svdistill.errors import ShapeError

# Deviations below this fraction of the values, or of the largest of them, are rounding: the values are constant.
CONSTANT = 8 * torch.finfo(torch.float32).eps


def logits_of(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Check logits of two networks and return them in float32 at least, the teacher's without gradient.

    A class that the student excludes by −inf, and so cannot learn, is excluded of the teacher's logits too.

    Args:
        student_logits: (B, classes), floating.
        teacher_logits: (B, classes), floating.

    Raises:
        ShapeError: the shapes differ, or logits are whole numbers.
    """
    if student_logits.dim() != 2 or student_logits.shape != teacher_logits.shape:
        raise ShapeError(
            f"logits must be (B, classes) and equal in shape, got {tuple(student_logits.shape)} of the student "
            f"and {tuple(teacher_logits.shape)} of the teacher; both must know the same classes"
        )
    for who, logits in (("student", student_logits), ("teacher", teacher_logits)):
        if not logits.is_floating_point():
            raise ShapeError(f"logits of the {who} must be floating point numbers, got {logits.dtype}")
    wide = student_logits if student_logits.dtype.itemsize > 4 else student_logits.float()
    return wide, teacher_logits.detach().to(wide.dtype).masked_fill(excluded(wide), -torch.inf)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence from the teacher's to the student's probabilities, (B,), in nats.

    A class whose logit is −inf is excluded. One that the student excludes, and so cannot learn, is excluded of the
    teacher too; where that leaves no class there is nothing to compare, and the divergence is 0.

    Args:
        student: (B, classes), logits divided by the temperature.
        teacher: (B, classes), logits divided by the temperature.
    """
    teacher = teacher.masked_fill(excluded(student), -torch.inf)
    nothing = excluded(teacher).all(1, keepdim=True)
    student, teacher = student.masked_fill(nothing, 0.0), teacher.masked_fill(nothing, 0.0)
    log_student, log_teacher = student.log_softmax(1), teacher.log_softmax(1)
    # Neither 0 · inf nor its derivative: what is excluded is left out on both sides before it is multiplied.
    out = excluded(teacher)
    return (log_teacher.exp() * (log_teacher.masked_fill(out, 0.0) - log_student.masked_fill(out, 0.0))).sum(1)


def standardized(logits: Tensor) -> Tensor:
    """Return each image's logits minus their mean, divided by their deviation (with classes − 1), (B, classes).

    Constant logits become 0 and carry no gradient; a class that is excluded by −inf does not count and stays so.
    """
    out = excluded(logits)
    count = (~out).sum(1, keepdim=True)
    known = logits.masked_fill(out, 0.0)
    apart = (known - known.sum(1, keepdim=True) / count.clamp_min(1)).masked_fill(out, 0.0)
    variance = apart.square().sum(1, keepdim=True) / (count - 1).clamp_min(1)
    largest = known.detach().abs().amax(1, keepdim=True)
    constant = variance.detach() <= (CONSTANT * largest).square()
    scores = apart / torch.where(constant, 1.0, variance).sqrt()
    return scores.masked_fill(constant, 0.0).masked_fill(out, -torch.inf)


def excluded(logits: Tensor) -> Tensor:
    """Tell which logits exclude their class, of the same shape; NaN and +inf do not."""
    return logits.detach() == -torch.inf
