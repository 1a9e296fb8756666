"""Soft targets: the student learns the teacher's softened class probabilities."""

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from svdistill.errors import ShapeError
from svdistill.losses.protocol import Reads, TransferLoss


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Kullback-Leibler divergence from the teacher's to the student's softened probabilities.

    T² · mean_b Σ_c p_T (log p_T − log p_S), p = softmax(logits / T). T² keeps the size of the gradient when T changes.

    Args:
        student_logits: (B, classes), floating.
        teacher_logits: (B, classes), floating; taken as constant; −inf excludes a class.
        temperature: T > 0.

    Returns:
        Scalar in nats times T², at least float32; 0 for an empty batch.

    Raises:
        ShapeError: shapes differ or the temperature is not positive.

    Source: Hinton, Vinyals, Dean, 2015, section 2.
    """
    if student_logits.dim() != 2 or student_logits.shape != teacher_logits.shape:
        raise ShapeError(
            f"logits must be (B, classes) and equal in shape, got {tuple(student_logits.shape)} of the student "
            f"and {tuple(teacher_logits.shape)} of the teacher; both must know the same classes"
        )
    _check_temperature(temperature)
    wide = student_logits if student_logits.dtype.itemsize > 4 else student_logits.float()
    student = functional.log_softmax(wide / temperature, 1)
    teacher = functional.softmax(teacher_logits.detach().to(wide.dtype) / temperature, 1)
    divergence = functional.kl_div(student, teacher, reduction="sum")
    return divergence * (temperature**2 / max(1, len(student_logits)))


class SoftTargetLoss(nn.Module, TransferLoss[Tensor, Tensor]):
    """`soft_target_loss` with a stored temperature; see there. Its goal is the teacher's logits."""

    reads: ClassVar[Reads] = "logits"

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        _check_temperature(temperature)
        self.temperature = temperature

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss, see `soft_target_loss`."""
        return soft_target_loss(student_logits, teacher_logits, temperature=self.temperature)

    def extract(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return the teacher's logits (B, classes).

        Args:
            teacher: logits, as in `soft_target_loss`.
            student: not looked at.
        """
        return teacher.detach()

    def compare(self, student: Tensor, goal: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and no figures of its health: logits are always comparable.

        Args:
            student: logits, as in `soft_target_loss`.
            goal: what `extract` returned for the same images.

        Raises:
            ShapeError: the classes or the images are not the same.
        """
        return self(student, goal), {}

    def pack(self, goal: Tensor) -> dict[str, Tensor]:
        """Name the goal ``logits``."""
        return {"logits": goal}

    def unpack(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return ``logits``."""
        return stored["logits"]

    def extra_repr(self) -> str:
        """Show the temperature in the module's representation."""
        return f"temperature={self.temperature}"


def _check_temperature(temperature: float) -> None:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ShapeError(f"temperature must be a positive number, got {temperature!r}")
